/** Colours for code: comments, strings, numbers and the words that most languages reserve. One pass, no grammar. */

import { h } from "./dom.js";

const WORDS = new Set(
  `abstract and as async await bool boolean break case catch char class const continue def default defer del delete do
  double echo elif else end enum except export extends extern False false final finally float fn for foreach from func
  function global go if impl implements import in include instanceof int interface is lambda let local long loop match
  mod module mut namespace new nil None nonlocal not null nullptr of or package pass private protected pub public raise
  range readonly ref return self short signed sizeof static str string struct super switch template then this throw
  throws trait True true try type typedef typeof union unsigned use using val var virtual void volatile when where while
  with yield SELECT FROM WHERE INSERT INTO UPDATE DELETE CREATE TABLE JOIN LEFT ON GROUP BY ORDER LIMIT VALUES SET AND
  OR NOT NULL AS`.split(/\s+/),
);
const HASH = "#[^\\n]*";
const SLASHES = "\\/\\/[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)";
const DASHES = "--[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)";
const MARKUP = "<!--[^]*?(?:-->|$)";
const COMMENTS = {
  python: HASH, py: HASH, bash: HASH, sh: HASH, shell: HASH, zsh: HASH, console: HASH, yaml: HASH, yml: HASH,
  toml: HASH, ruby: HASH, rb: HASH, r: HASH, perl: HASH, dockerfile: HASH, makefile: HASH, ini: HASH, elixir: HASH,
  sql: DASHES, lua: DASHES, haskell: DASHES, html: MARKUP, xml: MARKUP, svg: MARKUP, css: "\\/\\*[^]*?(?:\\*\\/|$)",
};
const PLAIN = new Set(["", "text", "txt", "plaintext", "markdown", "md", "output", "diff"]);
const STRINGS = "\"\"\"[^]*?(?:\"\"\"|$)|\"(?:[^\"\\\\\\n]|\\\\.)*\"?|'(?:[^'\\\\\\n]|\\\\.)*'?|`(?:[^`\\\\]|\\\\[^])*`?";
/** Longer code stays black: nobody reads it while it streams. */
const MAX_CHARS = 40_000;
const patterns = new Map();

function patternOf(language) {
  if (!patterns.has(language)) {
    const comment = COMMENTS[language] ?? SLASHES;
    const source = `(${comment})|(${STRINGS})|(\\b\\d[\\w.]*)|([A-Za-z_$][\\w$]*)`;
    patterns.set(language, new RegExp(source, "g"));
  }
  return patterns.get(language);
}

/**
 * Return descriptions of the code's parts.
 * @param {string} code
 * @param {string} language the word behind the fence, lower case
 */
export function highlight(code, language) {
  if (PLAIN.has(language) || code.length > MAX_CHARS) return [code];
  const out = [];
  let from = 0;
  for (const match of code.matchAll(patternOf(language))) {
    const [all, comment, string, number, word] = match;
    const kind = comment ? "comment" : string ? "string" : number ? "number" : WORDS.has(word) ? "word" : "";
    if (!kind) continue;
    out.push(code.slice(from, match.index), h("span", { class: `t-${kind}` }, all));
    from = match.index + all.length;
  }
  out.push(code.slice(from));
  return out;
}
