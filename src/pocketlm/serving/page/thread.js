// One conversation (or one series of continued texts): its turns, each with an answer in one or two columns.
// Turns are kept in this tab, so that a reload loses nothing that was typed.

import { AnswerView, counts, newRecord } from "./answer.js";
import { session } from "./store.js";
import { element } from "./token_text.js";

const RELOADED = { message: "The page was loaded anew before this answer had ended.", status: 0 };

/** The thread `name` in `box`. `act(name, thread, turn, column)` is called for the buttons of answers. */
export class Thread {
  constructor(name, box, templates, tooltip, act) {
    Object.assign(this, { name, box, templates, tooltip, act });
    this.chat = name === "chat";
    this.before = null;
    this.turns = [];
    for (const { text, records } of session.read(`thread.${name}`, [])) {
      for (const record of records.filter((one) => one && !["done", "stopped", "failed"].includes(one.state))) {
        Object.assign(record, { state: "failed", problem: RELOADED });
      }
      this.add(text, records);
    }
  }

  get last() {
    return this.turns.at(-1);
  }

  /** Append what the reader said. `records`: of each column, null where a model was not asked. */
  add(text, records = [null, null]) {
    const turn = { text, element: this.templates.turn.content.cloneNode(true).firstElementChild, views: [null, null] };
    turn.part = (name) => turn.element.querySelector(`.${name}`);
    turn.part("said").textContent = text;
    this.turns.push(turn);
    this.box.append(turn.element);
    records.forEach((record, column) => this.put(turn, column, record));
    this.wireEdit(turn);
    return turn;
  }

  /** Show a record in a column of a turn, or that there is none. */
  put(turn, column, record) {
    let shown;
    if (record) {
      const act = (name) => this.act(name, this, turn, column);
      turn.views[column] = new AnswerView(record, this.templates.answer, this.tooltip, act);
      shown = turn.views[column].element;
    } else {
      turn.views[column] = null;
      shown = element("div", "", "answer absent");
      const button = element("button", "Ask this one too", "again");
      button.type = "button";
      button.addEventListener("click", () => this.act("again", this, turn, column));
      shown.append(element("p", "Was not asked.", "note"), button);
    }
    shown.dataset.column = column;
    const answers = turn.part("answers");
    answers.querySelector(`[data-column="${column}"]`)?.remove();
    if (column === 0) answers.prepend(shown);
    else answers.append(shown);
    return turn.views[column];
  }

  /** A new answer of `model` for a turn, which has yet to be asked for. */
  begin(turn, column, model) {
    return this.put(turn, column, newRecord(model, this.chat ? "" : turn.text));
  }

  /** What a request for a turn holds beside settings and model. */
  question(turn, column, system) {
    if (!this.chat) return { prompt: turn.text };
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const earlier of this.turns.slice(0, this.turns.indexOf(turn))) {
      const record = earlier.views[column]?.record;
      if (!counts(record)) continue;
      messages.push({ role: "user", content: earlier.text }, { role: "assistant", content: record.text });
    }
    return { messages: [...messages, { role: "user", content: turn.text }] };
  }

  wireEdit(turn) {
    const form = turn.part("edit");
    const field = form.querySelector("textarea");
    const cancel = () => {
      turn.element.classList.remove("editing");
      turn.part("open-edit").focus();
    };
    turn.part("open-edit").addEventListener("click", () => {
      field.value = turn.text;
      turn.element.classList.add("editing");
      field.style.height = `${field.scrollHeight + 2}px`;
      field.focus();
    });
    turn.part("copy-said").addEventListener("click", () => this.act("copy-said", this, turn, 0));
    turn.part("cancel").addEventListener("click", cancel);
    form.addEventListener("keydown", (event) => {
      const sends = event.key === "Enter" && (event.ctrlKey || event.metaKey);
      if (!sends && event.key !== "Escape") return;
      event.preventDefault();
      if (sends) form.requestSubmit();
      else cancel();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim() && this.act("resend", this, turn, field.value)) turn.element.classList.remove("editing");
    });
  }

  /** Other words for a turn. */
  rewrite(turn, text) {
    turn.text = text;
    turn.part("said").textContent = text;
  }

  /** Empty the thread; `restore` brings it back. */
  clear() {
    this.before = this.turns;
    this.turns = [];
    this.box.replaceChildren();
    this.keep();
  }

  restore() {
    this.turns = this.before;
    this.before = null;
    this.box.replaceChildren(...this.turns.map((turn) => turn.element));
    this.keep();
  }

  /** Keep the turns in this tab; without the probabilities where there is no room for them. */
  keep() {
    const kept = this.turns.map(({ text, views }) => ({ text, records: views.map((view) => view?.record ?? null) }));
    const key = `thread.${this.name}`;
    if (session.write(key, kept)) return;
    const bare = (record) => record && { ...record, tokens: [] };
    session.write(key, kept.map(({ text, records }) => ({ text, records: records.map(bare) })));
  }
}
