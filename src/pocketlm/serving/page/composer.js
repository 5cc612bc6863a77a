// The field in which a message is typed. A draft of each mode is kept in this tab until it is sent.

import { session } from "./store.js";

const TEXTS = {
  chat: { label: "Message", hint: "Enter sends, Shift + Enter begins a line", send: "Send" },
  text: { label: "Text to continue", hint: "Ctrl + Enter sends", send: "Continue" },
};

/** The form `form`. `send(text)` says whether the text was taken; `stop()` ends what runs. */
export class Composer {
  constructor(form, send, stop) {
    this.form = form;
    this.field = form.elements.message;
    this.sendButton = form.querySelector("#send");
    this.stopButton = form.querySelector("#stop");
    this.mode = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit(send);
    });
    // Stop stands where Send stood: the second half of a double click, or a key held down, does not mean it.
    this.stopButton.addEventListener("click", (event) => event.detail > 1 || stop());
    this.stopButton.addEventListener("keydown", (event) => event.repeat && event.preventDefault());
    this.field.addEventListener("input", () => this.changed());
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing || event.shiftKey || event.altKey) return;
      const typing = this.mode === "text" || matchMedia("(pointer: coarse)").matches; // a phone's Enter begins a line
      if (typing && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.submit(send);
    });
  }

  async submit(send) {
    const { mode } = this;
    const text = this.field.value;
    if (!(await send(text))) return;
    if (this.mode === mode && this.field.value === text) this.field.value = "";
    this.changed();
  }

  changed() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight + 2}px`;
    this.keep();
  }

  keep() {
    if (this.mode) session.write(`draft.${this.mode}`, this.field.value || null);
  }

  setMode(mode) {
    this.keep();
    this.mode = mode;
    const { label, hint, send } = TEXTS[mode];
    this.form.querySelector("label[for=message]").textContent = label;
    this.form.querySelector("#hint").textContent = hint;
    this.field.placeholder = label;
    this.sendButton.textContent = send;
    this.field.value = session.read(`draft.${mode}`, "");
    this.changed();
  }

  setBusy(busy) {
    const focused = document.activeElement;
    this.sendButton.hidden = busy;
    this.stopButton.hidden = !busy;
    if (busy && focused === this.sendButton) this.stopButton.focus();
    if (!busy && focused === this.stopButton) this.focus();
  }

  /** Where the focus goes while an answer is written that was not asked for here. */
  focusStop() {
    if (!this.stopButton.hidden) this.stopButton.focus();
  }

  /** Ready to type; not on phones, where a keyboard would cover the page. */
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) this.field.focus();
  }
}
