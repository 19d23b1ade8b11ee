/** The sampling settings: what they may be, what they are at first, and how they go into a request. */

import { load, save } from "./store.js";

const KEY = "trtbuild.settings";

/** Empty means: the server decides (as many tokens as fit, another seed each time). */
export const DEFAULTS = Object.freeze({ temperature: 0.7, top_p: 0.95, max_tokens: "", seed: "", stop: "", system: "" });
const RANGES = { temperature: [0, 2], top_p: [0, 1], max_tokens: [1, 1_000_000], seed: [0, 2 ** 31 - 1] };
const MAX_STOPS = 4; // OpenAI's limit

/** Return the value of a setting, the default in place of what it must not be. */
function checked(name, value) {
  const range = RANGES[name];
  if (!range) return typeof value === "string" ? value : DEFAULTS[name];
  if (value === "" && DEFAULTS[name] === "") return "";
  const number = Number(value);
  const isIn = value !== "" && value !== null && Number.isFinite(number) && number >= range[0] && number <= range[1];
  if (!isIn) return DEFAULTS[name];
  return DEFAULTS[name] === "" ? Math.trunc(number) : number;
}

export function checkSettings(values) {
  return Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, checked(name, values?.[name])]));
}

export const loadSettings = () => checkSettings(load(KEY, {}));
export const saveSettings = (values) => save(KEY, checkSettings(values));

/** One stop text a line; `\n` in it is a line break. */
export function stopTexts(text) {
  return text.split("\n").map((line) => line.replaceAll("\\n", "\n")).filter((line) => line !== "").slice(0, MAX_STOPS);
}

/** Return the request's sampling fields. */
export function samplingFields(settings) {
  const { temperature, top_p, max_tokens, seed, stop } = settings;
  const fields = { temperature, top_p };
  if (top_p === 0) fields.top_p = 0.001; // the same to a reader; servers refuse 0
  if (max_tokens !== "") fields.max_tokens = max_tokens;
  if (seed !== "") fields.seed = seed;
  const stops = stopTexts(stop);
  if (stops.length) fields.stop = stops;
  return fields;
}
