/** One answer on its way: from the request to the last token, with waiting, asking for the key, and stopping. */

import { Failure, streamChat } from "./api.js";
import { samplingFields } from "./settings.js";
import { apiKey, shownPath } from "./store.js";
import { splitThoughts } from "./view.js";

const MAX_WAITS = 8;
const FIRST_WAIT_S = 2;
const LONGEST_WAIT_S = 60;

/** Return the messages of a request: what is shown, without failed answers and without thoughts. */
export function requestMessages(conversation, until) {
  const messages = [];
  if (conversation.system.trim()) messages.push({ role: "system", content: conversation.system });
  for (const { message } of shownPath(conversation)) {
    if (message === until) break;
    const content = message.role === "user" ? message.text : splitThoughts(message).text;
    if (!content.trim()) continue;
    // Two questions in a row, since the first got no answer: most chat templates want turns to alternate.
    if (messages.at(-1)?.role === message.role) messages.at(-1).content += `\n\n${content}`;
    else messages.push({ role: message.role, content });
  }
  return messages;
}

export class Run {
  /** End of a wait in milliseconds since 1970, while there is one, and why. */
  waitUntil = 0;
  failure = null;
  #abort = new AbortController();
  #wake = () => {};

  /**
   * @param {object} conversation
   * @param {object} message the answer to fill
   * @param {{onChange: () => void, askKey: (isWrong: boolean) => Promise<boolean>}} page
   */
  constructor(conversation, message, { onChange, askKey }) {
    Object.assign(this, { conversation, message, onChange, askKey });
  }

  stop() {
    this.#abort.abort();
    this.#wake();
  }

  retryNow() {
    this.#wake();
  }

  /** Fill the message; never throws. */
  async go(model, settings) {
    const { message } = this;
    message.model = model;
    const body = {
      model, messages: requestMessages(this.conversation, message), ...samplingFields(settings),
    };
    for (let waits = 0; ; ) {
      try {
        await this.#attempt(body);
        return;
      } catch (error) {
        if (this.#abort.signal.aborted) {
          message.stopped = true;
          return;
        }
        const isFresh = !message.text && !message.reasoning;
        if (error.status === 401 && await this.askKey(Boolean(apiKey.get()))) continue;
        if (isFresh && error.passes && waits < MAX_WAITS && await this.#wait(error, waits)) {
          waits += 1;
          continue;
        }
        if (this.#abort.signal.aborted) message.stopped = true;
        else message.error = describe(error);
        return;
      }
    }
  }

  async #attempt(body) {
    const { message } = this;
    const started = performance.now();
    let first = 0;
    let last = 0;
    for await (const { text, reasoning, finish, usage } of streamChat(body, { key: apiKey.get(), signal: this.#abort.signal })) {
      if (text || reasoning) {
        last = performance.now();
        first ||= last;
        message.text += text;
        if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
      }
      if (finish) message.finish = finish;
      if (first || usage) message.stats = statsOf({ started, first, last, usage, limit: body.max_tokens });
      this.onChange();
    }
  }

  /** Wait as long as the server asks, or longer each time; return false if that was cancelled. */
  async #wait(error, waits) {
    const seconds = error.retryAfterS || Math.min(FIRST_WAIT_S * 2 ** waits, LONGEST_WAIT_S);
    this.failure = error;
    this.waitUntil = Date.now() + seconds * 1000;
    const tick = setInterval(this.onChange, 1000);
    this.onChange();
    await new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, seconds * 1000);
    });
    clearInterval(tick);
    this.waitUntil = 0;
    this.onChange();
    return !this.#abort.signal.aborted;
  }
}

/** The speed leaves out the first token, which the prompt delays. */
function statsOf({ started, first, last, usage, limit }) {
  const completion = usage?.completion_tokens;
  const seconds = (last - first) / 1000;
  return {
    firstS: first ? (first - started) / 1000 : undefined,
    rate: completion > 1 && seconds > 0 ? (completion - 1) / seconds : undefined,
    prompt: usage?.prompt_tokens, completion, limit,
  };
}

function describe(error) {
  if (error instanceof Failure) return { title: error.title, detail: error.detail };
  return { title: "The page failed, which is a fault of ours.", detail: String(error) };
}
