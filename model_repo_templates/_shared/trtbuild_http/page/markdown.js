/**
 * Markdown as models write it: headings, lists, tables, quotes, code. Pure: text in, descriptions of elements out.
 *
 * It differs from CommonMark on purpose: `---` below a line is a rule, not a heading (so that text does not jump while
 * it streams in); two spaces are enough to nest a list; there are no link references and no HTML.
 */

import { h, icon } from "./dom.js";
import { highlight } from "./highlight.js";
import { inline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]|$)/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const DELIMITERS = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MAX_DEPTH = 10;
/** Longer answers are shown as they are. */
const MAX_CHARS = 400_000;

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;

/** The lines of a text, or of what a quote or a list item contains. */
class Blocks {
  constructor(lines, { open, depth }) {
    Object.assign(this, { lines, open, depth, at: 0 });
  }

  get line() {
    return this.lines[this.at];
  }

  get done() {
    return this.at >= this.lines.length;
  }

  /** Return the next block, or null for a blank line. */
  next() {
    const { line } = this;
    if (isBlank(line)) {
      this.at += 1;
      return null;
    }
    const fence = FENCE.exec(line);
    if (fence) return this.code(fence);
    if (HEADING.test(line)) return this.heading();
    if (RULE.test(line)) {
      this.at += 1;
      return h("hr");
    }
    if (this.depth < MAX_DEPTH && QUOTE.test(line)) return this.quote();
    const item = ITEM.exec(line);
    if (this.depth < MAX_DEPTH && item && item[1].length < 4) return this.list(item);
    if (this.startsTable()) return this.table();
    if (indentOf(line) >= 4) return this.indentedCode();
    return this.paragraph();
  }

  /** Nothing follows the block that was read last, so it may still grow. */
  get isLast() {
    return this.open && this.done;
  }

  text(source) {
    return inline(source, this.isLast);
  }

  code([, mark, info]) {
    const indent = indentOf(this.line);
    const end = new RegExp(`^ {0,3}\\${mark[0]}{${mark.length},}[ \\t]*$`);
    const code = [];
    for (this.at += 1; !this.done && !end.test(this.line); this.at += 1) {
      code.push(this.line.slice(Math.min(indent, indentOf(this.line))));
    }
    const isClosed = !this.done;
    this.at += 1;
    if (!isClosed && this.open && mark.startsWith(code.at(-1)?.trim() || "-")) code.pop(); // half of the closing fence
    return codeBlock(code.join("\n"), info.trim().split(/\s/)[0].slice(0, 30));
  }

  indentedCode() {
    const code = [];
    for (; !this.done && (isBlank(this.line) || indentOf(this.line) >= 4); this.at += 1) code.push(this.line.slice(4));
    while (isBlank(code.at(-1))) code.pop();
    return codeBlock(code.join("\n"), "");
  }

  heading() {
    const [mark, hashes] = HEADING.exec(this.line);
    let text = this.line.slice(mark.length).trim();
    const closing = /(?:^|[ \t])#+$/.exec(text.slice(-20));
    if (closing) text = text.slice(0, text.length - closing[0].length).trimEnd();
    this.at += 1;
    // h1 is the page's, h2 the message's.
    return h(`h${Math.min(hashes.length + 2, 6)}`, { class: `level-${hashes.length}` }, this.text(text));
  }

  quote() {
    const inner = [];
    for (; !this.done && !isBlank(this.line); this.at += 1) {
      if (!QUOTE.test(this.line) && (isBlank(inner.at(-1) ?? "") || this.startsBlock())) break;
      inner.push(this.line.replace(QUOTE, ""));
    }
    return h("blockquote", {}, this.inside(inner));
  }

  inside(lines) {
    return readBlocks(new Blocks(lines, { open: this.isLast, depth: this.depth + 1 }));
  }

  list([, indent, mark]) {
    const isOrdered = mark.length > 1;
    const kind = mark.at(-1);
    const items = [];
    while (!this.done) {
      const item = ITEM.exec(this.line);
      if (!item || item[2].at(-1) !== kind || item[1].length > indent.length + 1 || RULE.test(this.line)) break;
      items.push(this.item(item));
      let next = this.at;
      while (next < this.lines.length && isBlank(this.lines[next])) next += 1;
      const follows = ITEM.exec(this.lines[next] ?? "");
      if (follows && follows[2].at(-1) === kind) this.at = next;
    }
    const start = isOrdered ? Number.parseInt(mark, 10) : 1;
    return h(isOrdered ? "ol" : "ul", { start: isOrdered && start !== 1 ? start : null }, items);
  }

  /** Read one item: the rest of its line, and what is indented below it. */
  item([marker, indent, mark]) {
    const first = this.line.slice(marker.length);
    const spaces = marker.length - indent.length - mark.length;
    const width = indent.length + mark.length + (spaces > 4 || spaces === 0 ? 1 : spaces);
    const inner = [spaces > 4 ? " ".repeat(spaces - 1) + first : first];
    for (this.at += 1; !this.done; this.at += 1) {
      const { line } = this;
      const wasBlank = isBlank(inner.at(-1)) && inner.length > 1;
      const deep = indentOf(line);
      if (isBlank(line)) {
        if (wasBlank || !this.continues(indent.length + 2)) break;
        inner.push("");
      } else if (deep >= width || (deep >= indent.length + 2 && (ITEM.test(line) || wasBlank))) {
        inner.push(line.slice(Math.min(deep, width)));
      } else if (wasBlank || ITEM.test(line) || this.startsBlock()) break;
      else inner.push(line.trimStart());
    }
    return this.itemOf(inner);
  }

  /** The next line that is not blank belongs to the item. */
  continues(width) {
    const next = this.lines.slice(this.at, this.at + 3).find((line) => !isBlank(line));
    return next !== undefined && indentOf(next) >= width;
  }

  itemOf(lines) {
    const task = /^\[([ xX])\] +/.exec(lines[0]);
    const inner = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines;
    let kids = this.inside(inner);
    const paragraphs = kids.filter((kid) => kid.tag === "p").length;
    if (paragraphs < 2) kids = kids.flatMap((kid) => (kid.tag === "p" ? kid.kids : [kid]));
    if (!task) return h("li", {}, kids);
    const isDone = task[1] !== " ";
    const box = h("input", { type: "checkbox", disabled: true, checked: isDone, "aria-label": isDone ? "done" : "open" });
    return h("li", { class: "task" }, box, kids);
  }

  startsBlock(line = this.line) {
    const item = ITEM.exec(line);
    const isItem = item && item[1].length < 4 && line.length > item[0].length
      && (item[2].length === 1 || /^ *1[.)]/.test(line));
    return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || Boolean(isItem)
      || this.startsTable();
  }

  startsTable() {
    const { lines, at } = this;
    if (!lines[at].includes("|")) return false;
    const next = lines[at + 1];
    if (next !== undefined && next.includes("-") && DELIMITERS.test(next)) {
      return splitRow(lines[at]).length === splitRow(next).length;
    }
    // A table whose second line is still arriving.
    const isEnd = this.open && (next === undefined || (at + 2 === lines.length && /^[ \t|:-]*$/.test(next)));
    return isEnd && lines[at].trimStart().startsWith("|");
  }

  table() {
    const head = splitRow(this.line);
    const sides = splitRow(this.lines[this.at + 1] ?? "").map((cell) => {
      const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
      return right ? (left ? "center" : "right") : null;
    });
    const rows = [];
    for (this.at += 2; !this.done && !isBlank(this.line) && !this.startsRowless(); this.at += 1) {
      rows.push(splitRow(this.line));
    }
    const cells = (tag, row) => head.map((_, at) => h(tag, { class: sides[at] ?? null }, this.text(row[at] ?? "")));
    return h("div", { class: "table", tabindex: "0" }, h("table", {},
      h("thead", {}, h("tr", {}, cells("th", head))),
      rows.length > 0 && h("tbody", {}, rows.map((row) => h("tr", {}, cells("td", row))))));
  }

  /** The line cannot be a row, since another block starts with it. */
  startsRowless() {
    const { line } = this;
    return !line.includes("|") && (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line));
  }

  paragraph() {
    const from = this.at;
    for (this.at += 1; !this.done && !isBlank(this.line) && !this.startsBlock(); this.at += 1);
    const text = this.lines.slice(from, this.at).map((line) => line.trim()).join("\n");
    return h("p", {}, this.text(text));
  }
}

/** Split a table's row at the bars that are neither escaped nor in code. */
function splitRow(line) {
  const cells = [""];
  let isCode = false;
  const text = line.trim().replace(/^\|/, "");
  for (let at = 0; at < text.length; at += 1) {
    const pair = text.slice(at, at + 2);
    if (pair === "\\|") {
      cells[cells.length - 1] += "|";
      at += 1;
    } else if (text[at] === "|" && !isCode) cells.push("");
    else {
      if (text[at] === "`") isCode = !isCode && text.includes("`", at + 1);
      cells[cells.length - 1] += text[at];
    }
  }
  if (cells.length > 1 && isBlank(cells.at(-1))) cells.pop();
  return cells.map((cell) => cell.trim());
}

function codeBlock(code, language) {
  const label = language || "code";
  return h("div", { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, label),
      h("button", { type: "button", class: "quiet", "data-action": "copy-code" }, icon("copy"), h("span", {}, "Copy"))),
    h("pre", { tabindex: "0", role: "region", "aria-label": `Code: ${label}` },
      h("code", {}, highlight(code, language.toLowerCase()))));
}

function readBlocks(blocks) {
  const out = [];
  while (!blocks.done) {
    const block = blocks.next();
    if (block) out.push(block);
  }
  return out;
}

const linesOf = (text) => text.replace(/\r\n?/g, "\n").replace(/^[ \t]+/gm, (s) => s.replaceAll("\t", "    "))
  .replaceAll("\0", "\ufffd").split("\n");

/**
 * Return what a text shows.
 * @param {string} text
 * @param {boolean} [open] more of the text is still to come
 */
export function markdown(text, open = false) {
  if (text.length > MAX_CHARS) return [h("p", { class: "plain" }, text)];
  return readBlocks(new Blocks(linesOf(text), { open, depth: 0 }));
}

/**
 * The same for text that grows: only the last block is read again, since what follows a block cannot change it. The
 * descriptions of the others stay the same objects, which `patch` passes over.
 */
export class GrowingMarkdown {
  #before = "";
  #kids = [];

  /** @param {string} text */
  render(text, open) {
    if (!open || !text.startsWith(this.#before)) {
      this.#before = "";
      this.#kids = [];
    }
    if (!open || text.length > MAX_CHARS) return markdown(text, open);
    const rest = text.slice(this.#before.length);
    const lines = linesOf(rest);
    const blocks = new Blocks(lines, { open, depth: 0 });
    const fresh = [];
    while (!blocks.done) {
      const from = blocks.at;
      const kid = blocks.next();
      if (kid) fresh.push({ from, kid });
    }
    const kids = [...this.#kids, ...fresh.map(({ kid }) => kid)];
    // Half a line may turn out to belong to the block before it ("2" becomes "2. next").
    const growing = fresh.at(-1)?.from === lines.length - 1 ? 2 : 1;
    const kept = fresh.length - growing;
    if (kept > 0 && !rest.includes("\r")) {
      this.#kids.push(...fresh.slice(0, kept).map(({ kid }) => kid));
      this.#before += rest.split("\n").slice(0, fresh[kept].from).map((line) => `${line}\n`).join("");
    }
    return kids;
  }
}
