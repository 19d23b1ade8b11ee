/** What messages and conversations look like: descriptions made from the data, nothing else. */

import { h, icon, iconButton } from "./dom.js";
import { GrowingMarkdown } from "./markdown.js";
import { searchText, shownPath } from "./store.js";

const IDEAS = [
  "Explain how a transformer generates text, step by step",
  "Write a Python function that finds duplicate files",
  "Compare TCP and UDP in a table",
  "Draft a short, friendly reminder about an unpaid invoice",
];

/** Message -> its growing text; dropped with the message. */
const growing = new WeakMap();

function markdownOf(message, name, text, open) {
  if (!growing.has(message)) growing.set(message, {});
  const texts = growing.get(message);
  const last = texts[name];
  if (last?.text === text && last.open === open) return last.kids;
  const maker = last?.maker ?? new GrowingMarkdown();
  texts[name] = { maker, text, open, kids: maker.render(text, open) };
  return texts[name].kids;
}

/** Some servers send a model's thoughts as part of its text: `<think>...</think>`. */
export function splitThoughts(message) {
  const match = /^\s*<think>([^]*?)(?:<\/think>\s*([^]*))?$/.exec(message.text);
  if (!match) return { thoughts: message.reasoning ?? "", text: message.text };
  return { thoughts: (message.reasoning ?? "") + match[1], text: match[2] ?? "" };
}

/** Return the conversation's messages, or a welcome. */
export function messagesView(conversation, { run, editing, model }) {
  const path = shownPath(conversation);
  if (!path.length) return [welcome(model)];
  const system = conversation.system.trim();
  const note = system && h("div", { class: "notice", key: "system" }, h("strong", {}, "System prompt: "),
    system.length > 280 ? `${system.slice(0, 280)}…` : system);
  return [note, path.map(({ message, parent }, at) => {
    const key = `${conversation.id}.${at}.${parent.pick}`;
    if (message.role === "user") return userView(message, parent, { key, at, isEdited: message === editing, run });
    const ownRun = run?.message === message ? run : null;
    return assistantView(message, parent, { key, at, run: ownRun, isBusy: Boolean(run), isLast: at === path.length - 1 });
  })];
}

function welcome(model) {
  return h("div", { class: "welcome", key: "welcome" },
    h("img", { src: "icon.svg", alt: "" }),
    h("h2", {}, "What can I help with?"),
    h("p", {}, model ? `You are talking to ${model}.` : "Choose a model to begin."),
    h("div", { class: "ideas" }, IDEAS.map((idea) => h("button", { type: "button", "data-action": "idea" }, idea))));
}

function branches(parent, at, isBusy) {
  const count = parent.next.length;
  if (count < 2) return null;
  const go = (by) => ({ "data-at": at, "data-by": by, disabled: isBusy || !parent.next[parent.pick + by] });
  return [iconButton("branch", "back", "Previous version", go(-1)),
    h("span", {}, `${parent.pick + 1}/${count}`),
    iconButton("branch", "next", "Next version", go(1))];
}

function userView(message, parent, { key, at, isEdited, run }) {
  const title = h("h2", { class: "offscreen" }, "You");
  if (isEdited) {
    return h("article", { class: "user", key: `${key}.edit` }, title, h("form", { class: "editor", "data-at": at },
      h("textarea", { "aria-label": "Edit the message", rows: "2" }, message.text),
      h("div", { class: "buttons" },
        h("button", { type: "button", "data-action": "cancel-edit" }, "Cancel"),
        h("button", { class: "main" }, "Send"))));
  }
  return h("article", { class: "user", key }, title, h("div", { class: "bubble" }, message.text),
    h("div", { class: "under" }, branches(parent, at, Boolean(run)),
      iconButton("copy", "copy", "Copy the message", { "data-at": at }),
      iconButton("edit", "edit", "Edit and send again", { "data-at": at, disabled: Boolean(run) })));
}

function assistantView(message, parent, { key, at, run, isBusy, isLast }) {
  const { thoughts, text } = splitThoughts(message);
  const isOpen = Boolean(run);
  const isThinking = isOpen && !text;
  return h("article", { class: "assistant", key, "aria-busy": isOpen ? "true" : null },
    h("h2", { class: "offscreen" }, message.model || "Answer"),
    thoughts && h("details", { class: "thoughts" }, h("summary", {}, isThinking ? "Thinking…" : "Thoughts"),
      h("div", { class: "markdown" }, markdownOf(message, "thoughts", thoughts, isThinking))),
    text && h("div", { class: "markdown" }, markdownOf(message, "text", text, isOpen)),
    isThinking && !run.waitUntil && h("div", { class: "waiting", role: "img", "aria-label": "Waiting for the model" },
      h("i"), h("i"), h("i")),
    run?.waitUntil && waitView(run),
    message.error && failureView(message.error, at, isBusy, isLast),
    !isOpen && h("div", { class: "under" },
      text && iconButton("copy", "copy", "Copy the answer", { "data-at": at }),
      !(message.error && isLast) && iconButton("again", "again", "Answer again", { "data-at": at, disabled: isBusy }),
      branches(parent, at, isBusy), statsView(message)));
}

function failureView({ title, detail }, at, isBusy, isLast) {
  return h("div", { class: "failure" }, icon("warn"), h("div", {}, h("p", {}, title), detail && h("p", {}, detail),
    isLast && h("div", { class: "buttons" },
      h("button", { type: "button", "data-action": "again", "data-at": at, disabled: isBusy }, icon("again"), "Try again"))));
}

function waitView(run) {
  const seconds = Math.max(0, Math.ceil((run.waitUntil - Date.now()) / 1000));
  return h("div", { class: "failure" }, icon("warn"), h("div", {},
    h("p", {}, run.failure.title), run.failure.detail && h("p", {}, run.failure.detail),
    h("p", { class: "countdown" }, `Trying again in ${seconds} s.`),
    h("div", { class: "buttons" },
      h("button", { type: "button", "data-action": "retry-now" }, "Try now"),
      h("button", { type: "button", "data-action": "stop" }, "Cancel"))));
}

function statsView({ stats, finish, stopped }) {
  const parts = [];
  if (stats?.rate) parts.push(`${stats.rate.toFixed(stats.rate < 10 ? 1 : 0)} tokens/s`);
  if (stats?.firstS !== undefined) parts.push(`first token ${stats.firstS.toFixed(2)} s`);
  if (stats?.prompt !== undefined) parts.push(`${stats.prompt} prompt + ${stats.completion} answer tokens`);
  const why = stats?.limit ? `The settings allow ${stats.limit} tokens.` : "No more tokens fit the model.";
  return [parts.length > 0 && h("span", { class: "stats" }, parts.join(" · ")),
    finish === "length" && h("span", { class: "cut", title: why }, "Cut at max tokens"),
    finish === "content_filter" && h("span", { class: "cut" }, "Cut by the server's filter"),
    stopped && h("span", { class: "cut" }, "Stopped")];
}

function ageOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - 86_400_000) return "Yesterday";
  return time >= midnight - 6 * 86_400_000 ? "This week" : "Earlier";
}

/** Return the list of conversations, grouped by age. */
export function conversationsView(conversations, { shown, search, busy }) {
  const wanted = search.trim().toLowerCase();
  const found = conversations.filter((one) => !wanted || searchText(one).includes(wanted));
  if (!found.length) return [h("p", {}, wanted ? "Nothing found." : "Your conversations will be kept here.")];
  return Object.entries(Object.groupBy ? Object.groupBy(found, ({ updated }) => ageOf(updated)) : { Conversations: found })
    .map(([age, group]) => [h("h2", { key: age }, age), h("ul", { key: `${age}.list` }, group.map((one) => {
      const title = one.title || "New chat";
      const isShown = one.id === shown;
      return h("li", { class: isShown ? "shown" : null, key: one.id },
        h("button", { type: "button", class: "name", "data-action": "open", "data-id": one.id, title,
          "aria-current": isShown ? "true" : null }, busy.has(one.id) ? `● ${title}` : title),
        h("span", { class: "tools" },
          iconButton("rename", "edit", `Rename ${title}`, { "data-id": one.id }),
          iconButton("delete", "delete", `Delete ${title}`, { "data-id": one.id })));
    }))]);
}
