// The models that the server has, and which of them stand in the two columns.

import { local } from "./store.js";
import { models } from "./server.js";

/** Two pickers; `fault` is shown where the list cannot be had. `changed` is called after each change. */
export class Models {
  constructor(pickers, fault, authorize, changed) {
    Object.assign(this, { pickers, fault, authorize, changed });
    this.list = [];
    fault.querySelector("button").addEventListener("click", () => this.load());
    pickers.forEach((picker, column) => {
      picker.addEventListener("change", () => {
        local.write(`model.${column}`, picker.value);
        changed();
      });
    });
  }

  picked(column) {
    return this.pickers[column].value;
  }

  /** What the server says of the model in a column. */
  described(column) {
    return this.list.find((model) => model.id === this.picked(column));
  }

  /** Whether there is a model to ask; tries again to get the list if there is none. */
  async ready() {
    if (!this.list.length) await this.load();
    return this.list.length > 0;
  }

  async load() {
    try {
      this.list = await this.authorize(models);
      this.fault.hidden = true;
      if (!this.list.length) throw new Error("The server has no model.");
      this.pickers.forEach((picker, column) => this.fill(picker, column));
    } catch (error) {
      this.fault.querySelector("p").textContent = error.message;
      this.fault.hidden = false;
    }
    this.changed();
  }

  fill(picker, column) {
    const names = this.list.map((model) => model.id);
    const wished = [picker.value, local.read(`model.${column}`)].find((name) => names.includes(name));
    picker.replaceChildren(...names.map((name) => new Option(name, name)));
    picker.value = wished ?? names[Math.min(column, names.length - 1)];
  }
}
