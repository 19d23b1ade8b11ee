// Cases for the chat page's pure modules; test_chat_page.py copies the page beside this file and runs it with Node.js.

import assert from "node:assert/strict";
import test from "node:test";

import { retrySeconds } from "./page/api.js";
import { inline, safeAddress } from "./page/inline.js";
import { GrowingMarkdown, markdown } from "./page/markdown.js";
import { samplingFields, stopTexts } from "./page/settings.js";
import { EventParser } from "./page/sse.js";

/** Descriptions as compact text; buttons and icons are left out. */
function show(kid) {
  if (Array.isArray(kid)) return kid.map(show).join("");
  if (typeof kid === "string") return kid;
  const { tag, attributes, kids } = kid;
  if (attributes.class === "code") return `<pre:${kids[0].kids[0].kids[0]}>${text(kids[1])}</pre>`;
  if (attributes.class === "table") return show(kids);
  const extra = ["href", "start"].filter((name) => attributes[name]).map((name) => `:${attributes[name]}`).join("");
  const side = ["center", "right"].includes(attributes.class) ? `:${attributes.class}` : "";
  const box = tag === "input" ? (attributes.checked ? ":x" : ":") : "";
  if (["br", "hr", "input"].includes(tag)) return `<${tag}${box}>`;
  return `<${tag}${extra}${side}>${show(kids)}</${tag}>`;
}

function text(kid) {
  return typeof kid === "string" ? kid : kid.kids.map(text).join("");
}

function* elements(kids) {
  for (const kid of kids) {
    if (typeof kid === "string") continue;
    yield kid;
    yield* elements(kid.kids);
  }
}

const encoder = new TextEncoder();

test("an event stream means the same however it is split", () => {
  const stream = "\ufeff: a comment\r\ndata: {\"a\":\"ü€😀\"}\r\n\r\nevent: x\rdata:first\rdata: second\r\rid: 1\ndata\n\ndata: [DONE]\n\n";
  const bytes = encoder.encode(stream);
  const expected = ['{"a":"ü€😀"}', "first\nsecond", "", "[DONE]"];
  const parse = (parts) => {
    const parser = new EventParser();
    return parts.flatMap((part) => parser.push(part));
  };
  assert.deepEqual(parse([bytes]), expected);
  assert.deepEqual(parse([...bytes].map((byte) => Uint8Array.of(byte))), expected);
  for (let at = 0; at <= bytes.length; at += 1) {
    assert.deepEqual(parse([bytes.slice(0, at), new Uint8Array(0), bytes.slice(at)]), expected, `split at ${at}`);
  }
});

test("an event without its empty line is not an event", () => {
  assert.deepEqual(new EventParser().push(encoder.encode("data: half\n")), []);
});

test("an endless event is refused", () => {
  const parser = new EventParser();
  const piece = encoder.encode("x".repeat(1 << 20));
  assert.throws(() => { for (let n = 0; n < 20; n += 1) parser.push(piece); }, RangeError);
});

test("text inside a line", () => {
  const cases = {
    "*a* **b** ***c*** ~~d~~": "<em>a</em> <strong>b</strong> <em><strong>c</strong></em> <del>d</del>",
    "snake_case_name 2 * 3 * 4 a*b": "snake_case_name 2 * 3 * 4 a*b",
    "__init__ _x_": "<strong>init</strong> <em>x</em>",
    "**重要**です": "<strong>重要</strong>です",
    "**“x”**y": "<strong>“x”</strong>y",
    "`a*b*` ``x`y``": "<code>a*b*</code> <code>x`y</code>",
    "`unclosed *x*": "`unclosed <em>x</em>",
    "\\*not\\* a\\b": "*not* a\\b",
    "[a **b**](https://x.y/z_(1) \"title\")": "<a:https://x.y/z_(1)>a <strong>b</strong></a>",
    "[a](javascript:alert(1))": "[a](javascript:alert(1))",
    "![pic](https://x.y/p.png)": "<a:https://x.y/p.png>pic</a>",
    "[![pic](https://x.y/p.png)](https://z.w/)": "<a:https://z.w/>pic</a>",
    "see https://x.y/a_b_c. (https://x.y)": "see <a:https://x.y/a_b_c>https://x.y/a_b_c</a>. (<a:https://x.y/>https://x.y</a>)",
    "<https://x.y> <a@b.c>": "<a:https://x.y/>https://x.y</a> <a:mailto:a@b.c>a@b.c</a>",
    "<b>x</b> a<br>b": "<b>x</b> a<br>b",
    "&lt;&amp;&#65;&#x1F600;&nope;": "<&A😀&nope;",
    "a\nb": "a<br>b",
  };
  for (const [source, expected] of Object.entries(cases)) assert.equal(show(inline(source)), expected, source);
});

test("unfinished text looks finished while it streams in", () => {
  const cases = {
    "a **bo": "a <strong>bo</strong>", "a **": "a ", "a *": "a ", "a **bold*": "a <strong>bold</strong>",
    "`co": "<code>co</code>", "[na": "na", "[name](https://exa": "name", "![p](": "p", "5 * 3": "5 * 3", "2*x": "2*x",
  };
  for (const [source, expected] of Object.entries(cases)) assert.equal(show(inline(source, true)), expected, source);
});

test("blocks", () => {
  const cases = {
    "# A\n## B ##\ntext\n---\nmore": "<h3>A</h3><h4>B</h4><p>text</p><hr><p>more</p>",
    "- a\n- b\n  - c\n\n- d": "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>",
    "1. a\n  - b\n2. c": "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>",
    "1. a\n\n- x\n\n2. b": "<ol><li>a</li></ol><ul><li>x</li></ul><ol:2><li>b</li></ol>",
    "1. a\n\n   ```py\n   x = 1\n   ```\n\n2. b": "<ol><li>a<pre:py>x = 1</pre></li><li>b</li></ol>",
    "- [x] a\n- [ ] b": "<ul><li><input:x>a</li><li><input:>b</li></ul>",
    "- a\nlazy\n\nafter": "<ul><li>a<br>lazy</li></ul><p>after</p>",
    "- a\n\n  b": "<ul><li><p>a</p><p>b</p></li></ul>",
    "> a\n> > b\n\nc": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>",
    "```js\nif (a < b) {}\n\n  x\n```\nafter": "<pre:js>if (a < b) {}\n\n  x</pre><p>after</p>",
    "~~~\n```\n~~~": "<pre:code>```</pre>",
    "````md\n```\n````": "<pre:md>```</pre>",
    "p\n\n    code\n\tmore": "<p>p</p><pre:code>code\nmore</pre>",
    "|a|b|\n|:-:|--:|\n|1|`x|y`|\n|2\\|3|": "<table><thead><tr><th:center>a</th><th:right>b</th></tr></thead><tbody>"
      + "<tr><td:center>1</td><td:right><code>x|y</code></td></tr><tr><td:center>2|3</td><td:right></td></tr></tbody></table>",
    "a | b\nno table": "<p>a | b<br>no table</p>",
    "**Steps:**\n1. x": "<p><strong>Steps:</strong></p><ol><li>x</li></ol>",
    "It was\n1986. A year": "<p>It was<br>1986. A year</p>",
    "<script>alert(1)</script>": "<p><script>alert(1)</script></p>",
  };
  for (const [source, expected] of Object.entries(cases)) {
    assert.equal(show(markdown(source)), expected, source);
    assert.equal(show(markdown(source.replaceAll("\n", "\r\n"))), expected, `CR LF: ${source}`);
  }
});

const SAMPLE = "# T\n\nSome *text* with `code`.\n\n1. one\n   - in\n\n2. two\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n"
  + "```python\ndef f():\n    return 1\n```\n\n> quote\n> more\n\n- [ ] task\n\nEnd with [a link](https://x.y/z) and **bold**.\n";

test("growing text shows at each step what whole text shows", () => {
  const growing = new GrowingMarkdown();
  for (let end = 1; end <= SAMPLE.length; end += 1) {
    const part = SAMPLE.slice(0, end);
    assert.equal(show(growing.render(part, true)), show(markdown(part, true)), JSON.stringify(part.slice(-30)));
  }
  assert.equal(show(growing.render(SAMPLE, false)), show(markdown(SAMPLE)));
});

test("finished blocks stay the same objects", () => {
  const growing = new GrowingMarkdown();
  const [first] = growing.render("one\n\ntwo\n\nthree is", true);
  assert.equal(growing.render("one\n\ntwo\n\nthree is long", true)[0], first);
});

test("only harmless addresses become links", () => {
  const bad = ["javascript:alert(1)", " JaVaScRiPt:alert(1)", "java\nscript:alert(1)", "data:text/html,<script>", "vbscript:x",
    "blob:https://x", "file:///etc/passwd", "//x.y", "/relative", "x", "", "\u0001javascript:alert(1)", "ftp://x"];
  for (const address of bad) assert.equal(safeAddress(address), null, address);
  assert.equal(safeAddress("https://x.y/\" onclick=alert(1)"), "https://x.y/%22%20onclick=alert(1)");
  assert.equal(safeAddress("mailto:a@b.c"), "mailto:a@b.c");
});

const FRAGMENTS = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "](", "[", "![", "`", "```",
  "**", "_", "~~", "|", "|-|", "\n", "\n\n", "> ", "- ", "1. ", "    ", "\t", "&lt;", "&#106;", "<javascript:alert(1)>", "x", "\\", "<br>",
  "https://", "(", ")", "\"", "\0", "\ud800", "[a](data:text/html,x)", "# ", "- [ ] ", "<", ":"];

test("no text makes an element, attribute or address that the renderer does not know", () => {
  const tags = new Set("p h3 h4 h5 h6 ul ol li blockquote pre code table thead tbody tr th td a em strong del br hr div span button svg use input"
    .split(" "));
  const attributes = new Set(["class", "href", "target", "rel", "start", "tabindex", "role", "aria-label", "aria-hidden", "type",
    "disabled", "checked", "data-action"]);
  let seed = 1;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  for (let round = 0; round < 4000; round += 1) {
    const source = Array.from({ length: 1 + random(30) }, () => FRAGMENTS[random(FRAGMENTS.length)]).join("");
    for (const open of [false, true]) {
      for (const element of elements(markdown(source, open))) {
        assert.ok(tags.has(element.tag), `${element.tag} from ${JSON.stringify(source)}`);
        for (const name of Object.keys(element.attributes)) assert.ok(attributes.has(name), `${name} from ${JSON.stringify(source)}`);
        if (element.tag !== "a") continue;
        assert.match(element.attributes.href, /^(https?:|mailto:)/);
        assert.match(element.attributes.rel, /noopener/);
      }
    }
  }
});

test("hostile text takes no longer than other text", () => {
  const large = 60_000;
  const sources = ["[", "![", "](", "[](a (", "[](<", "*", "_*", "**a", "~~a", "`", "`a``", "<", "&", "\\", "> ", "- ", "1. ", "# ", "|", "||\n",
    "|-", "https://", "<https://", "[a](https://x(", "    ", "\t", " ", "\n", "a\n", "> a\n", "- a\n", "  - ", "~~~\n", "```\n", "(", "<br"];
  for (const source of sources) {
    const started = performance.now();
    const whole = source.repeat(Math.ceil(large / source.length));
    markdown(whole);
    markdown(`|a|\n|-|\n${whole}`);
    inline(whole, true);
    assert.ok(performance.now() - started < 8000, JSON.stringify(source));
  }
});

test("Retry-After holds seconds or a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  const cases = { 7: 7, " 3 ": 3, "Thu, 01 Jan 2026 00:00:09 GMT": 9, "Wed, 31 Dec 2025 00:00:00 GMT": 0, soon: 0, "": 0, 99999999: 3600, "-5": 0 };
  for (const [header, seconds] of Object.entries(cases)) assert.equal(retrySeconds(header, now), seconds, header);
});

test("settings go into the request, empty ones do not", () => {
  const empty = { temperature: 0.7, top_p: 0.95, max_tokens: "", seed: "", stop: "", system: "" };
  assert.deepEqual(samplingFields(empty), { temperature: 0.7, top_p: 0.95 });
  const full = { temperature: 0, top_p: 1, max_tokens: 9, seed: 0, stop: "a\n\\n\n\nb", system: "" };
  assert.deepEqual(samplingFields(full), { temperature: 0, top_p: 1, max_tokens: 9, seed: 0, stop: ["a", "\n", "b"] });
  assert.equal(stopTexts("1\n2\n3\n4\n5").length, 4);
});
