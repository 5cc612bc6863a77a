// The server: requests with the token, its errors, and its streams (server-sent events). Knows nothing of the page.

import { session } from "./store.js";

const LOST = "The server cannot be reached. It may have stopped, or the connection is down.";
const BROKEN_OFF = "The connection ended before the answer did.";

/** What went wrong, in words for the reader. `status` is 0 where no answer came; `wait` is in seconds. */
class ServerError extends Error {
  constructor(message, { status = 0, code = null, param = null, wait = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, wait });
  }
}

/** The models that are served: [{id, context_length}]. */
export async function models() {
  const response = await request("v1/models", {});
  const list = await response.json().catch(() => null);
  if (!Array.isArray(list?.data)) throw new ServerError("The server's list of models cannot be read.");
  return list.data;
}

/** Ask for a stream. Gives what the answer's header says (the seed; what a router did) and the stream's chunks. */
export async function stream(path, body, signal) {
  const response = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const { headers } = response;
  const said = { seed: headers.get("x-seed"), routed: headers.get("x-pocketlm-routed") };
  return { ...said, chunks: chunks(response.body.getReader()) };
}

let asking = null;

/**
 * Do `action`; where the server wants a token, have the reader asked for it and do it again.
 * `ask(again)` gives whether there is a new one; actions that run at the same time ask once.
 */
export async function withToken(action, ask) {
  for (;;) {
    const used = session.read("token");
    try {
      return await action();
    } catch (error) {
      if (error.status !== 401) throw error;
      if (session.read("token") !== used) continue;
      asking ??= ask(used !== null).finally(() => (asking = null));
      if (!(await asking)) throw error;
    }
  }
}

async function request(path, options) {
  const token = session.read("token");
  const headers = token === null ? options.headers : { ...options.headers, Authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw options.signal?.aborted ? error : new ServerError(LOST);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const error = (await response.json().catch(() => null))?.error;
  const wait = Number.parseInt(response.headers.get("retry-after"), 10);
  return failure(error, response.status, Number.isNaN(wait) ? null : wait);
}

function failure(error, status, wait = null) {
  const message = error?.message || `The server answered with status ${status}.`;
  return new ServerError(message, { status, code: error?.code, param: error?.param, wait });
}

/** The JSON of each event up to [DONE]. An event that is an error, or a stream without its end, is thrown. */
async function* chunks(reader) {
  const decoder = new TextDecoder();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new ServerError(BROKEN_OFF);
    });
    if (done) throw new ServerError(BROKEN_OFF);
    const lines = (buffer + decoder.decode(value, { stream: true })).split(/\r?\n/);
    buffer = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw failure(chunk.error, 500);
      yield chunk;
    }
  }
}
