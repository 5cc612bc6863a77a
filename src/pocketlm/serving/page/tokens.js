// Tokens and their probabilities: read from the server's chunks, joined to whole characters, put into words.
// Knows no page. A token is {bytes, logprob, others: [{bytes, logprob}, ...]}, likeliest first; nats.

const SIGNS = { " ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥" };
const encoder = new TextEncoder();

/** A chunk of /v1/chat/completions: {text, tokens, finish, usage}. */
export function readChat(chunk) {
  const choice = chunk.choices?.[0];
  const entries = choice?.logprobs?.content ?? [];
  const tokens = entries.map((entry) => ({ ...readEntry(entry), others: ordered(entry.top_logprobs.map(readEntry)) }));
  return { text: choice?.delta?.content ?? "", tokens, finish: choice?.finish_reason ?? null, usage: chunk.usage };
}

/** The same of /v1/completions, which names a token by its text, or by bytes:\xF0 if it is part of a character. */
export function readCompletion(chunk) {
  const choice = chunk.choices?.[0];
  const odds = choice?.logprobs;
  const tokens = (odds?.tokens ?? []).map((key, place) => ({
    bytes: keyBytes(key),
    logprob: odds.token_logprobs[place],
    others: ordered(
      Object.entries(odds.top_logprobs?.[place] ?? {}).map(([other, logprob]) => ({ bytes: keyBytes(other), logprob })),
    ),
  }));
  return { text: choice?.text ?? "", tokens, finish: choice?.finish_reason ?? null, usage: chunk.usage };
}

function readEntry({ token, logprob, bytes }) {
  return { bytes: bytes ?? [...encoder.encode(token)], logprob };
}

function keyBytes(key) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/i.test(key)) return [...encoder.encode(key)];
  return [...key.matchAll(/\\x(..)/g)].map((found) => Number.parseInt(found[1], 16));
}

function ordered(options) {
  return options.sort((one, other) => other.logprob - one.logprob);
}

/** Joins tokens until they end with a whole character, since parts of one cannot be shown. */
export class Joiner {
  waiting = [];

  /** The tokens up to here as {text, tokens}; null while they end inside a character. */
  push(token) {
    this.waiting.push(token);
    return endsInside(this.waiting.flatMap((one) => one.bytes)) ? null : this.rest();
  }

  /** Whatever still waits, as it can be shown; null if nothing does. */
  rest() {
    const tokens = this.waiting;
    this.waiting = [];
    return tokens.length ? { text: decode(tokens.flatMap((one) => one.bytes)), tokens } : null;
  }
}

/** Whether bytes end with the beginning of a UTF-8 character that needs more of them. */
function endsInside(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) return false;
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2);
  }
  return false;
}

function decode(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
}

/** A token as it can be told from others: white space by signs, parts of characters by their bytes. */
export function visible(bytes) {
  if (!bytes.length) return "(nothing)";
  const text = decode(bytes);
  if (text.includes("\ufffd")) return bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
  return text.replace(/[\s\p{Cc}]/gu, (sign) => SIGNS[sign] ?? `U+${sign.codePointAt(0).toString(16).toUpperCase()}`);
}

/** Words for a probability: "12.3 %". */
export function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  if (share > 99.95) return "> 99.9 %";
  if (share < 0.005) return "< 0.01 %";
  return `${share.toFixed(share < 10 ? 2 : 1)} %`;
}

/** How strongly tokens are shaded: 0 (90 % or more) to 4 (under 5 %), of the probability of all of them together. */
export function shade(tokens) {
  const share = Math.exp(tokens.reduce((sum, token) => sum + token.logprob, 0));
  return [0.9, 0.5, 0.2, 0.05].filter((bound) => share < bound).length;
}
