/** The dialogs: settings, the key, yes-or-no questions. The browser keeps the focus inside and gives it back. */

import { byId } from "./dom.js";
import { DEFAULTS, checkSettings, loadSettings, saveSettings } from "./settings.js";
import { apiKey } from "./store.js";

const FIELDS = { temperature: "temperature", top_p: "top_p", max_tokens: "max_tokens", seed: "seed", stop: "stop-texts" };

/** Show a dialog; return true once its form is sent, false once it is closed another way. */
function show(dialog) {
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    let isSent = false;
    form.onsubmit = (event) => {
      event.preventDefault(); // nothing is sent anywhere: the policy forbids forms
      isSent = true;
      dialog.close();
    };
    dialog.onclick = (event) => event.target === dialog && dialog.close(); // the backdrop
    dialog.onclose = () => resolve(isSent);
    if (!dialog.open) dialog.showModal();
  });
}

export function showShortcuts() {
  return show(byId("shortcuts"));
}

/**
 * Ask a question, and for a text if `value` is given.
 * @returns {Promise<string | boolean>} the text, or whether the answer was yes
 */
export async function ask(title, note, yes, value) {
  const field = byId("ask-value");
  byId("ask-title").textContent = title;
  byId("ask-note").textContent = note;
  byId("ask-yes").textContent = yes;
  field.hidden = value === undefined;
  field.value = value ?? "";
  const answer = show(byId("ask"));
  if (value !== undefined) field.select();
  return (await answer) && (value === undefined || field.value.trim());
}

/** Several requests that need a key ask once. */
let pending = null;

/** Ask for the API key; return whether one was given. */
export function askKey(isWrong) {
  pending ??= (async () => {
    byId("key-note").textContent = isWrong
      ? "The server does not accept this API key. Check it, or ask those who run the server for another one."
      : "This server answers only with an API key. You get one from those who run it.";
    const field = byId("key-value");
    field.value = "";
    const isGiven = await show(byId("key"));
    if (isGiven && field.value.trim()) apiKey.set(field.value.trim(), byId("key-remember").checked);
    field.value = "";
    pending = null;
    return isGiven;
  })();
  return pending;
}

function fill(settings) {
  for (const [name, id] of Object.entries(FIELDS)) byId(id).value = settings[name];
  showValues();
}

function showValues() {
  for (const name of ["temperature", "top_p"]) byId(`${name}-value`).textContent = Number(byId(name).value).toFixed(2);
}

/** Show the settings; what is typed counts when the dialog closes, however that happens. */
export async function editSettings(conversation) {
  const before = loadSettings();
  fill(before);
  byId("system").value = conversation.system;
  byId("system-always").checked = before.system !== "" && before.system === conversation.system;
  byId("forget-key").hidden = !apiKey.get();
  const dialog = byId("settings");
  dialog.oninput = showValues;
  dialog.querySelector('[data-action="reset"]').onclick = () => {
    fill(DEFAULTS);
    byId("system").value = "";
    byId("system-always").checked = false;
  };
  await show(dialog);
  const values = Object.fromEntries(Object.entries(FIELDS).map(([name, id]) => [name, byId(id).value]));
  const system = byId("system").value;
  const isDefault = byId("system-always").checked || (system === "" && before.system === conversation.system);
  const isSaved = saveSettings(checkSettings({ ...values, system: isDefault ? system : before.system }));
  conversation.system = system;
  return isSaved;
}
