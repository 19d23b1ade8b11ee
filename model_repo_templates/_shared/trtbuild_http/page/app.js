/** The page: its state, and what happens on a click, a key, a message. */

import { listModels } from "./api.js";
import { ask, askKey, editSettings, showShortcuts } from "./dialogs.js";
import { announce, byId, copyText, icon, patch } from "./dom.js";
import { Run } from "./run.js";
import { loadSettings } from "./settings.js";
import * as store from "./store.js";
import { conversationsView, messagesView, splitThoughts } from "./view.js";

const SAVE_EVERY_MS = 2000;
const NEAR_END_PX = 48;
const THEMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

const conversations = new store.Conversations();
const runs = new Map(); // conversation id -> Run
const [scroller, log, prompt] = ["scroller", "log", "prompt"].map(byId);
const isNarrow = matchMedia("(max-width: 767px)");
const isTouch = matchMedia("(pointer: coarse)");

let settings = loadSettings();
let shown = store.newConversation(settings.system);
let editing = null;
let follows = true; // the view stays at the end while text arrives

/* Drawing */

let isDrawing = false;
function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(drawNow);
}

function drawNow() {
  isDrawing = false;
  const run = runs.get(shown.id);
  patch(log, messagesView(shown, { run, editing, model: byId("model").value }));
  byId("stop").hidden = !run;
  byId("send").hidden = Boolean(run);
  byId("send").disabled = !prompt.value.trim();
  if (follows) scroller.scrollTop = scroller.scrollHeight;
  byId("latest").hidden = follows || isAtEnd();
}

function drawList() {
  const options = { shown: shown.id, search: byId("search").value, busy: runs };
  patch(byId("conversations"), conversationsView(conversations.list, options));
  document.title = shown.title ? `${shown.title} – Chat` : "Chat";
}

const isAtEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END_PX;

/** Scrolling up stops the following, coming back to the end starts it again. Growing text never scrolls up. */
let lastTop = 0;
scroller.addEventListener("scroll", () => {
  if (isAtEnd()) follows = true;
  else if (scroller.scrollTop < lastTop) follows = false;
  lastTop = scroller.scrollTop;
  byId("latest").hidden = follows || isAtEnd();
}, { passive: true });

let toastTimer = 0;
function toast(text) {
  byId("toast").textContent = text;
  byId("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { byId("toast").hidden = true; }, 6000);
}

/* Conversations */

function keep(conversation) {
  const { isSaved, removed } = conversations.keep(conversation);
  if (removed) toast(`${removed === 1 ? "The oldest conversation was" : `${removed} old conversations were`} removed to make room.`);
  else if (!isSaved && store.isLasting) toast("This conversation is too large to be kept. Export it to save it.");
}

function open(conversation) {
  shown.draft = prompt.value;
  shown = conversation;
  prompt.value = conversation.draft ?? "";
  editing = null;
  follows = true;
  if (isNarrow.matches) showSidebar(false);
  drawNow();
  drawList();
  resizePrompt();
}

function startNew() {
  open(store.newConversation(settings.system));
  prompt.focus();
}

async function removeConversation(id) {
  const title = conversations.get(id).title || "New chat";
  if (!await ask("Delete this conversation?", `“${title}” will be gone from this browser.`, "Delete")) return;
  runs.get(id)?.stop();
  conversations.remove(id);
  if (shown.id === id) startNew();
  else drawList();
}

async function removeAll() {
  const note = "All conversations will be gone from this browser. Export them first if you may need them.";
  if (!await ask("Delete all conversations?", note, "Delete all")) return;
  for (const run of runs.values()) run.stop();
  conversations.removeAll();
  startNew();
}

async function rename(id) {
  const conversation = conversations.get(id);
  const title = await ask("Rename the conversation", "", "Rename", conversation.title);
  if (!title) return;
  conversation.title = title;
  keep(conversation);
  drawList();
}

function exportAll() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([conversations.exportText()], { type: "application/json" }));
  link.download = `chats-${new Date().toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function importFile(file) {
  try {
    const count = await conversations.importFile(file);
    toast(count === 1 ? "1 conversation imported." : `${count} conversations imported.`);
  } catch (error) {
    toast(`Not imported. ${error.message}`);
  }
  drawList();
}

/* Questions and answers */

async function answer(conversation, parent) {
  const model = byId("model").value;
  const message = store.addBranch(parent, store.newMessage("assistant", ""));
  let saved = performance.now();
  const onChange = () => {
    if (shown === conversation) draw();
    if (performance.now() - saved < SAVE_EVERY_MS) return;
    saved = performance.now();
    keep(conversation);
  };
  const run = new Run(conversation, message, { onChange, askKey });
  runs.set(conversation.id, run);
  keep(conversation);
  drawNow();
  drawList();
  announce("The model is answering.");
  await run.go(model, settings);
  runs.delete(conversation.id);
  conversation.updated = Date.now();
  if (conversations.get(conversation.id)) keep(conversation);
  if (shown === conversation) {
    drawNow();
    sayEnd(message);
  }
  drawList();
  if (message.error && !byId("model").value) loadModels();
}

function sayEnd(message) {
  const { text } = splitThoughts(message);
  const spoken = text.length > 3000 ? `${text.slice(0, 3000)}… The answer goes on.` : text;
  if (message.error) announce(`${message.error.title} ${message.error.detail}`);
  else announce(message.stopped ? "Stopped." : `The model answered: ${spoken}`);
}

/** Ask below `parent`, which is the conversation itself or an answer. */
function question(parent, text) {
  if (!byId("model").value) {
    toast("The server lists no model yet.");
    loadModels();
    return false;
  }
  const message = store.addBranch(parent, store.newMessage("user", text));
  shown.title ||= text.trim().split("\n")[0].slice(0, 60);
  shown.updated = Date.now();
  follows = true;
  answer(shown, message);
  return true;
}

function send(text) {
  if (!text.trim() || runs.has(shown.id)) return;
  const last = store.shownPath(shown).at(-1)?.message ?? shown;
  if (!question(last, text)) return;
  prompt.value = "";
  resizePrompt();
  drawNow();
}

function again(at) {
  if (runs.has(shown.id)) return;
  const { message, parent } = store.shownPath(shown)[at];
  if (!message.text && !message.reasoning) store.removeBranch(parent, message); // nothing to come back to
  follows = true;
  answer(shown, parent);
}

function edit(at) {
  if (runs.has(shown.id)) return;
  editing = store.shownPath(shown)[at].message;
  drawNow();
  const area = log.querySelector(".editor textarea");
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}

function endEdit() {
  editing = null;
  drawNow();
  prompt.focus();
}

function sendEdit(form) {
  const text = form.querySelector("textarea").value;
  if (!text.trim() || runs.has(shown.id)) return;
  const { parent } = store.shownPath(shown)[form.dataset.at];
  editing = null;
  question(parent, text);
  prompt.focus();
}

async function copy(button, text) {
  const isDone = await copyText(text);
  announce(isDone ? "Copied." : "The browser does not allow copying.");
  if (!isDone) return toast("The browser does not allow copying.");
  const use = button?.querySelector("use");
  use?.setAttribute("href", "#i-check");
  setTimeout(() => use?.setAttribute("href", "#i-copy"), 1500);
}

/* The server */

async function loadModels() {
  const select = byId("model");
  let models = [];
  try {
    models = await listModels(store.apiKey.get());
  } catch (error) {
    if (error.status === 401 && await askKey(Boolean(store.apiKey.get()))) return loadModels();
    select.replaceChildren(new Option("No models: try again", ""));
    toast(`${error.title ?? "The models cannot be listed."} ${error.detail ?? ""}`);
    return;
  }
  const wanted = store.load("trtbuild.model", "");
  select.replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === wanted)));
  if (!models.length) select.replaceChildren(new Option("No models", ""));
  draw();
}

/* Controls */

function showSidebar(isShown = document.body.classList.contains("no-sidebar")) {
  document.body.classList.toggle("no-sidebar", !isShown);
  byId("show-sidebar").setAttribute("aria-expanded", isShown);
  byId("stage").inert = isShown && isNarrow.matches;
  if (isShown && isNarrow.matches) byId("search").focus({ preventScroll: true });
}

function showTheme() {
  const theme = store.theme.get();
  const button = byId("theme");
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.title = THEMES[theme] ?? THEMES.auto;
  button.setAttribute("aria-label", button.title);
  button.replaceChildren();
  patch(button, [icon(theme in THEMES ? theme : "auto")]);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  store.theme.set(names[(names.indexOf(store.theme.get()) + 1) % names.length]);
  showTheme();
}

/** For browsers without `field-sizing`. */
function resizePrompt() {
  if (CSS.supports("field-sizing", "content")) return;
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

async function changeSettings() {
  if (!await editSettings(shown) && store.isLasting) toast("The browser has no room for the settings.");
  settings = loadSettings();
  if (conversations.get(shown.id)) keep(shown);
  drawNow();
}

const textAt = (at) => {
  const { message } = store.shownPath(shown)[at];
  return message.role === "user" ? message.text : splitThoughts(message).text;
};

function copyLast() {
  const last = store.shownPath(shown).filter(({ message }) => message.role === "assistant").at(-1);
  if (last) copy(null, splitThoughts(last.message).text).then(() => toast("Copied."));
}

function branch({ at, by }) {
  const { parent } = store.shownPath(shown)[at];
  parent.pick += Number(by);
  keep(shown);
  drawNow();
}

const ACTIONS = {
  new: startNew,
  open: ({ dataset }) => open(conversations.get(dataset.id)),
  rename: ({ dataset }) => rename(dataset.id),
  delete: ({ dataset }) => removeConversation(dataset.id),
  "delete-all": removeAll,
  export: exportAll,
  import: () => byId("import-file").click(),
  shortcuts: showShortcuts,
  settings: changeSettings,
  sidebar: () => showSidebar(),
  theme: nextTheme,
  close: (button) => button.closest("dialog").close(),
  "forget-key": (button) => {
    store.apiKey.forget();
    button.hidden = true;
    toast("The API key is forgotten.");
  },
  stop: () => runs.get(shown.id)?.stop(),
  "retry-now": () => runs.get(shown.id)?.retryNow(),
  latest: () => {
    follows = true;
    drawNow();
    prompt.focus();
  },
  idea: (button) => send(button.textContent),
  again: ({ dataset }) => again(Number(dataset.at)),
  edit: ({ dataset }) => edit(Number(dataset.at)),
  "cancel-edit": endEdit,
  branch: ({ dataset }) => branch(dataset),
  copy: (button) => copy(button, textAt(button.dataset.at)),
  "copy-code": (button) => copy(button, button.closest(".code").querySelector("code").textContent),
};

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-action]");
  if (button) ACTIONS[button.dataset.action]?.(button);
});

const SHORTCUTS = {
  "shift+o": startNew, "shift+semicolon": copyLast, b: () => showSidebar(), period: changeSettings, slash: showShortcuts,
};

function onKey(event) {
  if (event.isComposing || event.keyCode === 229) return; // Enter ends a word of an input method, not the message
  const isOpenDialog = document.querySelector("dialog[open]");
  if (event.key === "Escape" && !isOpenDialog) {
    if (editing) endEdit();
    else if (isNarrow.matches && byId("stage").inert) showSidebar(false);
    else runs.get(shown.id)?.stop();
  } else if ((event.ctrlKey || event.metaKey) && !event.altKey && !isOpenDialog) {
    const name = `${event.shiftKey ? "shift+" : ""}${event.code.replace(/^Key/, "").toLowerCase()}`;
    if (!Object.hasOwn(SHORTCUTS, name)) return;
    event.preventDefault();
    SHORTCUTS[name]();
  } else if (event.key === "Enter" && !event.shiftKey && event.target.matches("#prompt, .editor textarea")) {
    if (isTouch.matches) return; // there is no Shift on a phone's keyboard: the button sends
    event.preventDefault();
    event.target.form.requestSubmit();
  } else if (event.key === "ArrowUp" && event.target === prompt && !prompt.value) {
    const at = store.shownPath(shown).findLastIndex(({ message }) => message.role === "user");
    if (at < 0) return;
    event.preventDefault();
    edit(at);
  }
}

function onSubmit(event) {
  if (event.defaultPrevented) return; // a dialog's
  event.preventDefault();
  if (event.target.id === "composer") send(prompt.value);
  else if (event.target.matches(".editor")) sendEdit(event.target);
}

/** Other tabs of this browser: their conversations, the theme. */
function onStorage({ key }) {
  if (key === "trtbuild.theme") return showTheme();
  if (runs.has(key?.slice("trtbuild.chat.".length)) || !conversations.reload(key)) return;
  const other = conversations.get(shown.id);
  if (other) shown = other;
  draw();
  drawList();
}

function listen() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("submit", onSubmit);
  addEventListener("storage", onStorage);
  addEventListener("pagehide", () => runs.forEach(({ conversation }) => keep(conversation)));
  prompt.addEventListener("input", () => {
    byId("send").disabled = !prompt.value.trim();
    resizePrompt();
  });
  byId("search").addEventListener("input", drawList);
  byId("model").addEventListener("change", ({ target }) => {
    store.save("trtbuild.model", target.value);
    draw();
  });
  byId("model").addEventListener("mousedown", ({ target }) => target.value || loadModels());
  byId("import-file").addEventListener("change", ({ target }) => {
    if (target.files[0]) importFile(target.files[0]);
    target.value = "";
  });
  isNarrow.addEventListener("change", () => showSidebar(!isNarrow.matches));
  // Safari lays its keyboard over the page: what is visible is the height.
  visualViewport?.addEventListener("resize", () => {
    document.documentElement.style.setProperty("--height", `${visualViewport.height}px`);
    if (follows) scroller.scrollTop = scroller.scrollHeight;
  });
}

byId("storage-note").hidden = store.isLasting;
showTheme();
showSidebar(!isNarrow.matches);
listen();
drawNow();
drawList();
loadModels();
if (!isTouch.matches) prompt.focus();
