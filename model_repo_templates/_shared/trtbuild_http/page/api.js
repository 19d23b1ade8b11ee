/** The endpoint as the page uses it: the models, a streamed chat, and every failure as one class. */

import { readEvents } from "./sse.js";

/** What went wrong, in words for the person in front of the page. */
export class Failure extends Error {
  /**
   * @param {string} title one sentence: what happened
   * @param {{status?: number, detail?: string, code?: string, retryAfterS?: number}} [facts]
   */
  constructor(title, { status = 0, detail = "", code = "", retryAfterS = 0 } = {}) {
    super(title);
    Object.assign(this, { title, status, detail, code, retryAfterS });
  }

  /** The server said that the same request can succeed later. */
  get passes() {
    return this.status === 429 || this.status === 503;
  }
}

const TITLES = {
  400: "The server cannot answer this request.",
  401: "The server needs an API key.",
  403: "This server does not allow the request.",
  404: "The server does not have this model.",
  408: "The server waited too long for the request.",
  413: "The conversation is too long for this server.",
  429: "The server is busy: its waiting line is full.",
  503: "The server is not ready to answer.",
};

/**
 * Return the seconds of a Retry-After header, which holds seconds or a date; 0 where there is none.
 * @param {string | null} header
 */
export function retrySeconds(header, now = Date.now()) {
  if (!header) return 0;
  const seconds = /^\s*\d+\s*$/.test(header) ? Number(header) : (Date.parse(header) - now) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(Math.ceil(seconds), 0), 3600) : 0;
}

/** @param {Response} response */
async function refusal(response) {
  const text = await response.text().catch(() => "");
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // Not our envelope: a proxy's page, say. Its status is all that helps.
  }
  const { status } = response;
  return new Failure(TITLES[status] ?? `The server answered with status ${status}.`, {
    status,
    detail: typeof error === "string" ? error : String(error.message ?? ""),
    code: String(error.code ?? ""),
    retryAfterS: retrySeconds(response.headers.get("retry-after")),
  });
}

/** Send a request; the addresses are relative, so the page also works below a path of a gateway. */
async function send(path, key, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached.", { detail: "Check that it runs and that you are connected." });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Return the models that can chat, as the server lists them. */
export async function listModels(key) {
  const response = await send("v1/models", key);
  const { data } = await response.json().catch(() => ({}));
  if (!Array.isArray(data)) throw new Failure("The server did not answer with a list of models.");
  return data.filter((model) => typeof model?.id === "string");
}

/** Turn one event of the stream into what the page shows; undefined at its end. */
function readChunk(data) {
  if (data.trim() === "[DONE]") return undefined;
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Failure("The server sent something that is not a chat stream.", { detail: data.slice(0, 200) });
  }
  if (chunk?.error) {
    const detail = String(chunk.error.message ?? chunk.error);
    throw new Failure("The server could not finish the answer.", { detail, code: String(chunk.error.code ?? "") });
  }
  const choice = chunk?.choices?.[0];
  const delta = choice?.delta ?? {};
  return {
    text: delta.content ?? "",
    reasoning: delta.reasoning_content ?? delta.reasoning ?? "",
    finish: choice?.finish_reason ?? "",
    usage: chunk?.usage ?? null,
  };
}

/**
 * Yield `{text, reasoning, finish, usage}` as the answer arrives. Throws Failure, or AbortError once `signal` fires.
 * @param {object} body fields of a chat completion request
 */
export async function* streamChat(body, { key, signal }) {
  const request = { ...body, stream: true, stream_options: { include_usage: true } };
  const headers = { "content-type": "application/json", accept: "text/event-stream" };
  const response = await send("v1/chat/completions", key, {
    method: "POST", headers, body: JSON.stringify(request), signal,
  });
  let finished = false;
  try {
    for await (const data of readEvents(response.body)) {
      const chunk = readChunk(data);
      if (!chunk) return;
      finished ||= Boolean(chunk.finish);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof Failure || error.name === "AbortError") throw error;
    throw new Failure("The connection broke while the answer was arriving.");
  }
  if (!finished) throw new Failure("The connection ended before the answer was complete.");
}
