// The text of an answer as tokens, and the one tooltip that tells what else the model might have said there.
// Mouse: hover. Touch: tap. Keyboard: Tab to the text, then arrow keys, Home and End.

import { Joiner, percent, shade, visible } from "./tokens.js";

const EDGE = 8;
const PARTS_OTHERS = 3; // alternatives of each token where one character is several

/** Builds an element. */
export function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (name) made.className = name;
  return made;
}

/** The tooltip `box`; `spoken` is a live region that says what arrow keys come upon. */
export class Tooltip {
  constructor(box, spoken) {
    this.box = box;
    this.spoken = spoken;
    this.span = null;
    this.pinned = false;
    window.addEventListener("resize", () => this.hide());
    document.addEventListener("scroll", () => this.place(), { capture: true, passive: true });
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest?.(".token")) this.hide();
    });
  }

  show(span, { pinned = false, spoken = false } = {}) {
    this.span?.classList.remove("current");
    this.span = span;
    this.pinned = pinned;
    span.classList.add("current");
    const { text, tokens } = span.joined;
    const several = tokens.length > 1;
    const parts = several ? [element("p", `${text} is ${tokens.length} tokens, each a part of its bytes`, "note")] : [];
    this.box.replaceChildren(...parts, ...tokens.map((token) => table(token, several ? PARTS_OTHERS : Infinity)));
    this.box.hidden = false;
    this.place();
    if (spoken) this.spoken.textContent = tokens.map(sentence).join(" ");
  }

  hide() {
    this.span?.classList.remove("current");
    this.span = null;
    this.pinned = false;
    this.box.hidden = true;
  }

  /** Under the token, or above it where there is no room; never out of the window. */
  place() {
    if (!this.span) return;
    const at = this.span.getClientRects()[0];
    if (!at) return this.hide(); // the thread was left
    const { width, height } = this.box.getBoundingClientRect();
    const below = at.bottom + EDGE;
    const top = below + height + EDGE <= innerHeight ? below : Math.max(EDGE, at.top - height - EDGE);
    this.box.style.top = `${top}px`;
    this.box.style.left = `${Math.max(EDGE, Math.min(at.left, innerWidth - width - EDGE))}px`;
  }
}

function table(token, most) {
  const made = element("table");
  const others = token.others.slice(0, most);
  const drawn = others.find((other) => same(other, token));
  for (const option of drawn ? others : [...others, token]) {
    const row = made.insertRow();
    if (option === drawn || option === token) row.className = "drawn";
    row.insertCell().append(element("code", visible(option.bytes)));
    row.insertCell().append(element("span", percent(option.logprob)));
    row.style.setProperty("--share", Math.exp(option.logprob).toFixed(4));
  }
  return made;
}

function sentence(token) {
  const others = token.others.filter((other) => !same(other, token));
  const list = others.map((other) => `${visible(other.bytes)} ${percent(other.logprob)}`).join(", ");
  return `${visible(token.bytes)}: ${percent(token.logprob)}. ${list ? `Others: ${list}.` : ""}`;
}

function same(one, other) {
  return String(one.bytes) === String(other.bytes);
}

/** One answer's text in `box`. Without tokens (`setPlain`) it is text and no more. */
export class TokenText {
  constructor(box, tooltip) {
    this.box = box;
    this.tooltip = tooltip;
    this.clear();
    box.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse" && event.target.joined && !tooltip.pinned) tooltip.show(event.target);
    });
    box.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !tooltip.pinned) tooltip.hide();
    });
    box.addEventListener("click", (event) => this.tap(event.target));
    box.addEventListener("keydown", (event) => this.move(event));
    box.addEventListener("focus", () => {
      if (box.matches(":focus-visible") && !this.holds(tooltip.span)) this.step(this.current ?? this.spans[0]);
    });
    box.addEventListener("blur", () => {
      if (this.holds(tooltip.span)) tooltip.hide();
    });
  }

  clear(before = "") {
    this.joiner = new Joiner();
    this.spans = [];
    this.shown = 0; // characters of the answer that stand in tokens
    this.current = null;
    this.ahead = element("span");
    this.box.replaceChildren(...(before ? [element("span", before, "before")] : []), this.ahead);
    this.box.removeAttribute("tabindex");
  }

  /** New tokens, and the whole text so far: what of it no token has told of yet stands behind them. */
  add(tokens, text) {
    for (const token of tokens) this.append(this.joiner.push(token));
    this.ahead.textContent = text.slice(this.shown);
  }

  append(joined) {
    if (!joined) return;
    const span = element("span", joined.text, "token");
    span.joined = joined;
    span.dataset.shade = shade(joined.tokens);
    this.spans.push(span);
    this.shown += joined.text.length;
    this.ahead.before(span);
    this.box.tabIndex = 0;
  }

  /** The answer has ended with this text: a token that a stop string cut is cut here too, or stands there as text. */
  finish(text) {
    this.append(this.joiner.rest());
    const shown = this.spans.map((span) => span.textContent).join("");
    if (!shown.startsWith(text) && !text.startsWith(shown)) return this.setPlain(text);
    this.ahead.textContent = text.slice(shown.length);
    let left = text.length;
    for (const span of this.spans) {
      span.textContent = span.textContent.slice(0, left);
      left -= span.textContent.length;
    }
    for (const span of this.spans) if (!span.textContent) span.remove();
    this.spans = this.spans.filter((span) => span.textContent);
    if (!this.spans.length) this.box.removeAttribute("tabindex");
  }

  setPlain(text) {
    this.clear(this.box.querySelector(".before")?.textContent);
    this.ahead.textContent = text;
  }

  holds(span) {
    return span !== null && this.box.contains(span);
  }

  tap(span) {
    if (!span.joined || String(getSelection()) !== "") return;
    this.current = span;
    if (this.tooltip.pinned && this.tooltip.span === span) this.tooltip.hide();
    else this.tooltip.show(span, { pinned: true });
  }

  move(event) {
    const at = this.spans.indexOf(this.current);
    const keys = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.spans.length - 1 };
    const vertical = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const target = vertical && this.spans.length ? this.inNextLine(vertical) : this.spans[keys[event.key]];
    if (!target || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.step(target);
  }

  step(span) {
    if (!span) return;
    this.current = span;
    span.scrollIntoView({ block: "nearest" });
    this.tooltip.show(span, { pinned: true, spoken: true });
  }

  /** The token nearest to the current one in the line below (1) or above (-1). */
  inNextLine(direction) {
    const from = (this.current ?? this.spans[0]).getClientRects()[0];
    let best = null;
    let least = Infinity;
    for (const span of this.spans) {
      for (const at of span === this.current ? [] : span.getClientRects()) {
        const lines = ((at.top - from.top) * direction) / from.height;
        const distance = lines * 1e5 + Math.abs(at.left - from.left);
        if (lines > 0.5 && distance < least) [best, least] = [span, distance];
      }
    }
    return best;
  }
}
