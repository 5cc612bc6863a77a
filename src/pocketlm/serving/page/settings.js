// Sampling settings: a form whose values are kept in this browser, and what they mean in a request.
// An empty field is left out of the request: the server's own default holds.

import { local } from "./store.js";

const NAME = "settings";
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const ESCAPES = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };

/** The form `form`; its defaults stand in the page. `changed` is called when a value changes. */
export class Settings {
  constructor(form, changed) {
    this.form = form;
    const kept = local.read(NAME, {});
    for (const field of this.fields()) {
      if (field.name in kept) field.value = kept[field.name];
    }
    this.changed = changed;
    form.addEventListener("input", () => this.keep());
    form.addEventListener("submit", (event) => event.preventDefault());
    this.check();
  }

  fields() {
    return [...this.form.elements].filter((field) => field.name);
  }

  value(name) {
    return this.form.elements[name].value;
  }

  keep() {
    this.check();
    local.write(NAME, Object.fromEntries(this.fields().map((field) => [field.name, field.value])));
    this.changed();
  }

  /** Back to the defaults of the page. */
  reset() {
    this.form.reset();
    local.write(NAME, null);
    this.check();
    this.changed();
  }

  /** The first field that cannot be sent; null if all can. Says beside each what is wrong. */
  check() {
    const schema = this.form.elements.schema;
    schema.setCustomValidity(schema.value.trim() ? schemaFault(schema.value) : "");
    let first = null;
    for (const field of this.fields()) {
      const fault = field.validationMessage;
      field.setAttribute("aria-invalid", String(fault !== ""));
      this.form.querySelector(`#${field.name}-fault`).textContent = fault;
      if (fault) first ??= field;
    }
    return first;
  }

  /** What differs from the defaults, by name. */
  differences() {
    return this.fields().filter((field) => field.value !== field.defaultValue).map((field) => field.name);
  }

  /** The fields of a request, without model, prompt and messages. */
  body() {
    const body = {};
    for (const name of NUMBERS) {
      if (this.value(name) !== "") body[name] = Number(this.value(name));
    }
    const stops = this.value("stop").split("\n").filter(Boolean).map(unescape);
    if (stops.length) body.stop = stops;
    const schema = this.value("schema").trim();
    if (schema) {
      body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(schema) } };
    }
    return body;
  }
}

function unescape(line) {
  return line.replace(/\\[nt\\]/g, (found) => ESCAPES[found]);
}

function schemaFault(text) {
  try {
    const schema = JSON.parse(text);
    const is = typeof schema === "boolean" || (schema !== null && typeof schema === "object" && !Array.isArray(schema));
    return is ? "" : "A JSON schema is an object, such as {\"type\": \"object\"}.";
  } catch (error) {
    return `This is no JSON: ${error.message}.`;
  }
}
