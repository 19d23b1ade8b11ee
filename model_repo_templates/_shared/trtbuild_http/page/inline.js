/**
 * Markdown inside a line: emphasis, code, links. Pure: text in, descriptions of elements out.
 *
 * It follows CommonMark where models write CommonMark. It differs on purpose: a line break is a line break (verses,
 * addresses), `**` needs no space or punctuation around it (Chinese and Japanese have none), HTML is text, and an image
 * is a link, since showing it would tell a foreign host that the answer was read.
 * The work is linear in the text, whatever the text is.
 */

import { h } from "./dom.js";

const SPECIAL = /[\\`*_~[\]!<&\n]|https?:\/\//g;
const ESCAPED = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
// Bounded, so that text full of unfinished links costs no more than other text.
const TARGET = /\(\s{0,9}(?:<([^<>\n]{0,2000})>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.){0,500}\)){0,2000}))(?:\s{1,9}(?:"[^"]{0,500}"|'[^']{0,500}'|\([^()]{0,500}\)))?\s{0,9}\)/y;
const BARE = /https?:\/\/[^\s<>"'`\\^{}|]{1,2000}/y;
const ANGLE = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000}|[\w.+-]{1,64}@[\w.-]{1,255})>/y;
const BREAK = /<br\s{0,9}\/?>/iy;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|(amp|lt|gt|quot|apos|nbsp));/y;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const MAX_DEPTH = 32;

/**
 * Return the address if a click on it is harmless, else null: absolute, and http, https or mailto.
 * @param {string} raw
 */
export function safeAddress(raw) {
  let url;
  try {
    url = new URL(raw.trim());
  } catch {
    return null;
  }
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

function link(address, kids) {
  const inner = kids.flatMap((kid) => (kid.tag === "a" ? kid.kids : [kid])); // no link inside a link
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, inner);
}

/** The text between `start` and the next run of exactly `length` backticks, for all runs in linear time. */
class CodeSpans {
  #ends = new Map();

  constructor(text) {
    for (const { 0: run, index } of text.matchAll(/`+/g)) {
      if (!this.#ends.has(run.length)) this.#ends.set(run.length, { at: 0, places: [] });
      this.#ends.get(run.length).places.push(index);
    }
  }

  close(length, after) {
    const ends = this.#ends.get(length); // none for a run whose first backtick was escaped
    if (!ends) return undefined;
    while (ends.at < ends.places.length && ends.places[ends.at] < after) ends.at += 1;
    return ends.places[ends.at];
  }
}

class Scanner {
  constructor(text, open) {
    Object.assign(this, { text, open, at: 0, pieces: [], brackets: [], spans: new CodeSpans(text) });
  }

  /** @param {RegExp} pattern sticky */
  match(pattern, at = this.at) {
    pattern.lastIndex = at;
    return pattern.exec(this.text);
  }

  take(piece, length) {
    this.pieces.push(piece);
    this.at += length;
  }

  run() {
    for (;;) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(this.text);
      if (!found) break;
      if (found.index > this.at) this.take(this.text.slice(this.at, found.index), found.index - this.at);
      this.special(found[0]);
    }
    if (this.at < this.text.length) this.pieces.push(this.text.slice(this.at));
    return emphasise(this.pieces, this.open);
  }

  special(mark) {
    const { text, at } = this;
    if (mark === "\n") return this.take(h("br"), 1);
    if (mark === "\\") return this.escape();
    if (mark === "`") return this.code();
    if (mark === "*" || mark === "_" || mark === "~") return this.delimiter(mark);
    if (mark === "]") return this.closeBracket();
    if (mark === "[" || (mark === "!" && text[at + 1] === "[")) {
      this.brackets.push(this.pieces.length);
      return this.take(mark === "!" ? "![" : "[", mark === "!" ? 2 : 1);
    }
    if (mark === "<") return this.angle();
    if (mark === "&") return this.entity();
    if (mark.length > 1) return this.bareAddress();
    return this.take(mark, 1);
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "\n") return this.take(h("br"), 2);
    if (next !== undefined && ESCAPED.test(next)) return this.take(next, 2);
    return this.take("\\", 1);
  }

  code() {
    const [run] = this.match(/`+/y);
    const from = this.at + run.length;
    let end = this.spans.close(run.length, from);
    if (end === undefined && this.open) end = this.text.length;
    if (end === undefined) return this.take(run, run.length);
    let code = this.text.slice(from, end).replaceAll("\n", " ");
    if (code.length > 2 && code.startsWith(" ") && code.endsWith(" ")) code = code.slice(1, -1);
    return this.take(code ? h("code", {}, code) : "", end - this.at + run.length);
  }

  delimiter(mark) {
    const { text, at } = this;
    let end = at;
    while (text[end] === mark) end += 1;
    const count = end - at;
    const before = text[at - 1] ?? " ";
    const after = text[end] ?? " ";
    const inWord = mark !== "*" && WORD.test(before) && WORD.test(after);
    const opens = !/\s/.test(after) && !inWord && !(mark === "_" && WORD.test(before));
    const closes = !/\s/.test(before) && !inWord && !(mark === "_" && WORD.test(after));
    const isLast = end === text.length;
    this.take({ mark, count, opens: opens && (mark !== "~" || count === 2), closes, isLast, inWord: WORD.test(before) },
      count);
  }

  closeBracket() {
    const from = this.brackets.pop();
    const target = from === undefined ? null : this.match(TARGET, this.at + 1);
    const address = target && safeAddress((target[1] ?? target[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1"));
    if (!address) return this.take("]", 1);
    const isImage = this.pieces[from] === "![";
    const kids = emphasise(this.pieces.splice(from).slice(1), false);
    if (isImage && !kids.length) kids.push(address);
    return this.take(link(address, kids), 1 + target[0].length);
  }

  angle() {
    const line = this.match(BREAK);
    if (line) return this.take(h("br"), line[0].length);
    const found = this.match(ANGLE);
    const address = found && safeAddress(found[1].includes(":") ? found[1] : `mailto:${found[1]}`);
    return address ? this.take(link(address, [found[1]]), found[0].length) : this.take("<", 1);
  }

  entity() {
    const found = this.match(ENTITY);
    if (!found) return this.take("&", 1);
    const [all, decimal, hexadecimal, name] = found;
    const point = decimal ? Number(decimal) : parseInt(hexadecimal, 16);
    const isPoint = point > 31 && point < 0x110000 && !(point >= 0xd800 && point < 0xe000);
    return this.take(name ? NAMED[name] : isPoint ? String.fromCodePoint(point) : "\ufffd", all.length);
  }

  bareAddress() {
    const found = this.match(BARE);
    if (!found || WORD.test(this.text[this.at - 1] ?? " ")) return this.take("http", 4);
    let raw = found[0].replace(/[.,:;!?*_~]{1,9}$/, "");
    while (raw.endsWith(")") && raw.split(")").length > raw.split("(").length) raw = raw.slice(0, -1);
    if (raw.endsWith("]")) raw = raw.slice(0, -1);
    const address = safeAddress(raw);
    return address ? this.take(link(address, [raw]), raw.length) : this.take("http", 4);
  }
}

/** Pair the delimiters of emphasis; what finds no partner is text again. */
function emphasise(pieces, open) {
  const frames = [{ out: [] }];
  const last = () => frames[frames.length - 1];
  const unwind = (frame) => {
    last().out.push(frame.mark.repeat(frame.count));
    for (const piece of frame.out) last().out.push(piece);
  };
  for (const piece of pieces) {
    if (!piece.mark) {
      last().out.push(piece);
      continue;
    }
    const inner = frames.findLast((frame) => frame.mark === piece.mark);
    const isHalf = open && piece.isLast && piece.count === 1 && inner?.count === 2; // `**bold*`: the next one is to come
    const closer = isHalf ? { ...piece, count: 2 } : piece;
    let left = piece.closes ? closeFrames(frames, closer, unwind) : piece.count;
    if (left && piece.opens && frames.length < MAX_DEPTH) frames.push({ ...piece, count: left, out: [] });
    else if (left && !(open && piece.isLast && !/\d\s?$/.test(String(last().out.at(-1) ?? "")))) {
      last().out.push(piece.mark.repeat(left));
    }
  }
  while (frames.length > 1) {
    const frame = frames.pop();
    if (open && !frame.inWord && frame.count < 4) {
      if (frame.out.length) last().out.push(wrap(frame.mark, Math.min(frame.count, 2), frame.out));
    } else unwind(frame);
  }
  return frames[0].out.filter((piece) => piece !== "");
}

/** Close what `closer` closes; return how many of its characters are left. */
function closeFrames(frames, closer, unwind) {
  let left = closer.count;
  while (left > 0) {
    const at = frames.findLastIndex((frame) => frame.mark === closer.mark && frame.out.length > 0
      && (closer.mark !== "~" || left >= 2));
    if (at < 1) break;
    while (frames.length > at + 1) unwind(frames.pop());
    const frame = frames[at];
    const used = Math.min(frame.count, left, 2);
    frame.count -= used;
    left -= used;
    const node = wrap(closer.mark, used, frame.out);
    if (frame.count) frame.out = [node];
    else frames.pop();
    if (!frame.count) frames[frames.length - 1].out.push(node);
  }
  return left;
}

function wrap(mark, count, kids) {
  return h(mark === "~" ? "del" : count === 2 ? "strong" : "em", {}, kids);
}

/**
 * Return what a text shows.
 * @param {string} text
 * @param {boolean} [open] more of the text is still to come: what is unfinished counts as finished
 */
export function inline(text, open = false) {
  return new Scanner(open ? hideUnfinishedLink(text) : text, open).run();
}

/** While text streams in, `[name](addr` shows its name, not its source. */
function hideUnfinishedLink(text) {
  const tail = text.slice(-3000);
  return text.slice(0, -3000) + tail.replace(/!?\[([^[\]\n]{0,300})(?:\](?:\([^\s()]{0,2000})?)?$/, "$1");
}
