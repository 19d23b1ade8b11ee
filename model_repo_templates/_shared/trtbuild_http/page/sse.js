/**
 * Server-sent events from a byte stream, however it is split: in the middle of a character, of a CR LF, of a field.
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */

/** An event may be as long as a whole answer, not longer: a broken server must not fill the memory. */
const MAX_EVENT_CHARS = 8 * 1024 * 1024;

export class EventParser {
  #decoder = new TextDecoder(); // removes a byte order mark, keeps the bytes of a split character
  #line = "";
  #afterReturn = false;
  #data = [];
  #chars = 0;

  /**
   * Take the next bytes; return the data of the events that they complete.
   * @param {Uint8Array} bytes
   * @returns {string[]}
   */
  push(bytes) {
    const events = [];
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#afterReturn && text) {
      if (text[0] === "\n") text = text.slice(1);
      this.#afterReturn = false;
    }
    let from = 0;
    for (const match of text.matchAll(/\r\n|\n|\r/g)) {
      this.#endLine(this.#line + text.slice(from, match.index), events);
      this.#line = "";
      from = match.index + match[0].length;
    }
    this.#line += text.slice(from);
    this.#afterReturn = text.endsWith("\r");
    if (this.#line.length + this.#chars > MAX_EVENT_CHARS) throw new RangeError("an event of the stream is too long");
    return events;
  }

  #endLine(line, events) {
    if (line === "") {
      if (this.#data.length) events.push(this.#data.join("\n"));
      this.#data = [];
      this.#chars = 0;
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    if (field !== "data") return; // a comment, or a field that chat streams do not use
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    this.#data.push(value);
    this.#chars += value.length;
  }
}

/**
 * Yield the data of each event of a response's body.
 * @param {ReadableStream<Uint8Array>} body
 */
export async function* readEvents(body) {
  const parser = new EventParser();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already; either way nobody reads on
  }
}
