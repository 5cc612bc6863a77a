// What stands in an empty thread: what this is, which model answers, and beginnings that a small model can follow.

import { element } from "./token_text.js";

const WORDS = {
  chat: {
    title: "Ask",
    says: "A small language model on this page's server. Models of this size are often wrong and sound sure: check "
      + "what they say. One trained on plain text alone does better with “Continue text”.",
    examples: [
      "What is the capital of France?", "Name three fruits.", "Write one sentence about the sea.", "What is 12 + 7?",
    ],
  },
  text: {
    title: "Continue a text with",
    says: "You begin a text, and a small language model on this page's server goes on, word after likely word. This is "
      + "what models trained on plain text do; nothing tells them that they are asked a question.",
    examples: ["The capital of France is", "Once upon a time, a small robot", "Water boils at", "def add(a, b):"],
  },
};

/** The box `box`; `send(text)` asks an example, `restore()` brings back the thread that was cleared. */
export class Welcome {
  constructor(box, send, restore) {
    this.box = box;
    this.send = send;
    box.querySelector("#restore").addEventListener("click", restore);
  }

  show(mode, thread, models, columns) {
    this.box.hidden = thread.turns.length > 0;
    const { title, says, examples } = WORDS[mode];
    const names = columns.map((column) => models.picked(column)).filter(Boolean);
    this.box.querySelector("h2").textContent = `${title} ${names.join(" and ") || "a small language model"}`;
    this.box.querySelector("#says").textContent = says;
    this.box.querySelector("#restore").hidden = !thread.before?.length;
    this.box.querySelector("#contexts").textContent = contexts(columns.map((column) => models.described(column)));
    this.box.querySelector("#examples").replaceChildren(...examples.map((text) => this.example(text)));
  }

  example(text) {
    const button = element("button", text);
    button.type = "button";
    button.addEventListener("click", () => this.send(text));
    const item = element("li");
    item.append(button);
    return item;
  }
}

function contexts(described) {
  const known = described.filter((model) => model?.context_length);
  const lengths = [...new Set(known.map((model) => model.context_length.toLocaleString("en")))];
  return lengths.length ? `Room for ${lengths.join(" and ")} tokens of conversation.` : "";
}
