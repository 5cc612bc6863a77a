// What screen readers are told of answers: sentences as they end, never single tokens.

import { element } from "./token_text.js";

const SHORTEST = 60;
const KEPT = 12;

/** Says things through `log`, a polite live region. */
export class Speech {
  constructor(log) {
    this.log = log;
    this.said = new WeakMap(); // characters of a record that were said
  }

  say(text) {
    this.log.append(element("p", text));
    while (this.log.childElementCount > KEPT) this.log.firstElementChild.remove();
  }

  /** Say what whole sentences a record has gained. */
  progress(record) {
    const from = this.said.get(record) ?? 0;
    const fresh = record.text.slice(from);
    const ends = [...fresh.matchAll(/[.!?…。！？]["'”)]*\s|\n/gu)];
    const end = ends.length ? ends.at(-1).index + ends.at(-1)[0].length : 0;
    if (end < SHORTEST) return;
    this.said.set(record, from + end);
    this.say(`${from ? "" : `${record.model}: `}${fresh.slice(0, end)}`);
  }

  /** Say the rest of a record, and how it ended. */
  finish(record) {
    const rest = record.text.slice(this.said.get(record) ?? 0);
    const end = { done: "End of the answer.", stopped: "Stopped.", failed: record.problem?.message }[record.state];
    this.say(`${record.model}: ${rest} ${end}`);
  }
}
