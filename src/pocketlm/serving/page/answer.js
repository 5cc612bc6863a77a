// One answer: what is known of it (a record that can be kept), how it is asked for, how it is shown.

import { stream } from "./server.js";
import { readChat, readCompletion } from "./tokens.js";
import { TokenText } from "./token_text.js";

const LIKELIEST = 5;
const ENDED = new Set(["done", "stopped", "failed"]);

/**
 * A record of an answer by `model` that has not begun. `before` is the text that it continues, if it does. `routed` and
 * `by`: where the server has a router to a larger model, what came of it and who answered.
 */
export function newRecord(model, before = "") {
  return { model, before, state: "waiting", text: "", tokens: [], count: 0, finish: null, problem: null, seed: null };
}

/** Whether a record is part of what a model is told of the conversation. */
export function counts(record) {
  return record?.state === "done" || Boolean(record?.text);
}

/** The element of a record. `act(name, view)` is called for its buttons. */
export class AnswerView {
  constructor(record, template, tooltip, act) {
    this.record = record;
    this.element = template.content.cloneNode(true).firstElementChild;
    this.part = (name) => this.element.querySelector(`.${name}`);
    this.text = new TokenText(this.part("text"), tooltip);
    this.text.clear(record.before);
    for (const button of this.element.querySelectorAll("button")) {
      button.addEventListener("click", () => act(button.dataset.act, this));
    }
    if (ENDED.has(record.state)) {
      this.text.add(record.tokens, record.text);
      this.text.finish(record.text);
    }
    this.render();
  }

  render() {
    const { record } = this;
    this.element.dataset.state = record.state;
    const silent = ENDED.has(record.state) && !record.text;
    this.element.classList.toggle("silent", silent);
    this.element.classList.toggle("empty", silent && !record.before);
    this.part("model").textContent = record.model;
    this.part("text").setAttribute("aria-label", `${record.model}; arrow keys go through the tokens`);
    this.part("figures").textContent = figures(record);
    this.part("problem").hidden = !record.problem;
    if (record.problem) this.part("problem-text").textContent = problemText(record.problem);
    this.part("as-text").hidden = !record.problem?.untold;
  }
}

function problemText({ message, status, wait }) {
  if (status === 429) return `The server is busy: ${message}. ${wait ? `Try again in ${wait} s.` : "Try again soon."}`;
  if (status === 401) return "The server wants its token, and was not given it.";
  return message.replace(/^./, (first) => first.toUpperCase());
}

function figures(record) {
  const { state, count, first, rate, finish, seed, routed, by } = record;
  const parts = [];
  const elsewhere = routed === "upstream";
  if (elsewhere) parts.push(`answered by ${by}, another server's model`);
  if (routed === "failed") parts.push("a larger model was asked and did not answer");
  if (state === "waiting") parts.push("waiting for the first token");
  if (count) parts.push(`${count.toLocaleString("en")} ${count === 1 ? "token" : "tokens"}`);
  if (rate && !routed) parts.push(`${rate.toFixed(rate < 100 ? 1 : 0)} tokens/s`);
  // With a router a stream begins when an answer is complete.
  if (first !== undefined) parts.push(`${routed ? "answer" : "first token"} after ${first.toFixed(2)} s`);
  if (state === "done" && !record.text) parts.push("an empty answer");
  if (state === "stopped") parts.push("stopped by you");
  if (finish) parts.push(`finish: ${finish === "length" ? "length (limit reached)" : finish}`);
  if (state === "done" && seed && !elsewhere) parts.push(`seed ${seed}`);
  return parts.join(" · ");
}

/**
 * Have a view's record answered. Never throws: what goes wrong stands in the record.
 * `body` is the request; `chat` says in which form. `progress` is called after each piece of text.
 */
export async function ask(view, { body, chat, signal, authorize, progress }) {
  const { record } = view;
  const clock = new Clock();
  const read = chat ? readChat : readCompletion;
  const odds = chat ? { logprobs: true, top_logprobs: LIKELIEST } : { logprobs: LIKELIEST };
  const path = chat ? "v1/chat/completions" : "v1/completions";
  const open = () => {
    clock.start();
    return stream(path, { ...body, ...odds }, signal);
  };
  try {
    const { seed, routed, chunks } = await authorize(open);
    Object.assign(record, { seed, routed });
    for await (const chunk of chunks) {
      record.by = chunk.model ?? record.by;
      take(view, read(chunk), clock);
      progress(view);
    }
    record.state = "done";
  } catch (error) {
    record.state = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) record.problem = described(error, chat);
  }
  view.text.finish(record.text);
  view.render();
}

function take(view, { text, tokens, finish, usage }, clock) {
  const { record } = view;
  if (text || tokens.length) {
    record.state = "writing";
    record.text += text;
    record.tokens.push(...tokens);
    record.count += tokens.length;
    Object.assign(record, clock.tick(record.count));
    view.text.add(tokens, record.text);
  }
  record.finish = finish ?? record.finish;
  record.count = usage?.completion_tokens ?? record.count;
  view.render();
}

function described(error, chat) {
  const { message, status = 0, code = null, param = null, wait = null } = error;
  const untold = chat && param === "messages" && code === "invalid_request"; // the template did not take the chat
  return { message, status, wait, untold };
}

/** Time to the first token, and tokens per second after it: what the reader sees, the way to the server included. */
class Clock {
  start() {
    this.begun = performance.now();
    this.first = null;
  }

  /** What is known when `count` tokens have come: {first, rate}, in seconds and tokens per second. */
  tick(count) {
    const now = performance.now();
    this.first ??= { at: now, count };
    const seconds = (now - this.first.at) / 1000;
    return {
      first: (this.first.at - this.begun) / 1000,
      rate: seconds > 0 && count > this.first.count ? (count - this.first.count) / seconds : null,
    };
  }
}
