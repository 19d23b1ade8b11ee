/**
 * What the browser keeps: conversations, settings, the key. Nothing of it is sent anywhere but to the model, as the
 * messages of a request. Where storage is blocked (private windows), everything works until the page is closed.
 */

const PREFIX = "trtbuild.chat.";
const MAX_CONVERSATIONS = 200;
const MAX_IMPORT_BYTES = 20 * 1024 * 1024;
const FORMAT = "trtbuild-chat";

/** A storage that forgets, for browsers that give none. */
class Memory {
  #items = new Map();
  getItem(key) { return this.#items.get(key) ?? null; }
  setItem(key, value) { this.#items.set(key, value); }
  removeItem(key) { this.#items.delete(key); }
  keys() { return [...this.#items.keys()]; }
}

function storage(name) {
  let found;
  try {
    found = window[name];
    found.setItem("trtbuild.probe", "1");
    found.removeItem("trtbuild.probe");
    return found;
  } catch {
    return found?.length ? found : new Memory(); // full is not blocked
  }
}

const local = storage("localStorage");
const session = storage("sessionStorage");
/** Conversations outlive the page. */
export const isLasting = !(local instanceof Memory);

/** Read a value that the page wrote; anything else counts as absent. */
export function load(key, fallback) {
  try {
    return JSON.parse(local.getItem(key)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Write a value; return whether there was room. */
export function save(key, value) {
  try {
    local.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export const theme = {
  get: () => local.getItem("trtbuild.theme") ?? "auto",
  set: (value) => {
    try {
      local.setItem("trtbuild.theme", value);
    } catch {
      // No room: the theme lasts as long as the page.
    }
  },
};

const KEY = "trtbuild.key";
export const apiKey = {
  get: () => session.getItem(KEY) ?? local.getItem(KEY) ?? "",
  /** Keep the key for this tab, or in this browser if `isLong`. */
  set: (value, isLong) => {
    apiKey.forget();
    try {
      (isLong ? local : session).setItem(KEY, value);
    } catch {
      session.setItem(KEY, value);
    }
  },
  forget: () => [session, local].forEach((place) => place.removeItem(KEY)),
};

/** Ids need no secure context, unlike crypto.randomUUID. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * A conversation is a tree: every message has the messages that follow it (`next`), of which `pick` is shown. An edited
 * question or another answer is one more branch; nothing is lost.
 */
export function newConversation(system) {
  const now = Date.now();
  return { id: newId(), title: "", system, created: now, updated: now, next: [], pick: 0 };
}

export function newMessage(role, text) {
  return { role, text, next: [], pick: 0 };
}

/** Append a branch below `parent` and show it. */
export function addBranch(parent, message) {
  parent.next.push(message);
  parent.pick = parent.next.length - 1;
  return message;
}

export function removeBranch(parent, message) {
  parent.next = parent.next.filter((other) => other !== message);
  parent.pick = Math.max(parent.next.length - 1, 0);
}

/** Return the messages shown, from the first to the last, each with its parent. */
export function shownPath(conversation) {
  const path = [];
  let parent = conversation;
  while (parent.next.length) {
    const message = parent.next[parent.pick];
    path.push({ message, parent });
    parent = message;
  }
  return path;
}

/** Return all texts of a conversation in lower case, for the search field. */
export function searchText(conversation) {
  const texts = [conversation.title];
  const waiting = [...conversation.next];
  while (waiting.length) {
    const message = waiting.pop();
    texts.push(message.text);
    waiting.push(...message.next);
  }
  return texts.join("\n").toLowerCase();
}

const asText = (value, most = 2_000_000) => (typeof value === "string" ? value.slice(0, most) : "");
const asTime = (value) => (Number.isFinite(value) && value > 0 ? value : Date.now());
const asCount = (value) => (Number.isFinite(value) && value >= 0 ? value : undefined);

/** Take from foreign data what a message has, and nothing else. Recursion is bounded by `depth`. */
function readBranches(data, depth = 0) {
  const next = [];
  if (depth < 2000 && Array.isArray(data?.next)) {
    for (const item of data.next.slice(0, 100)) {
      if (item?.role !== "user" && item?.role !== "assistant") continue;
      const message = { ...newMessage(item.role, asText(item.text)), ...readBranches(item, depth + 1) };
      for (const name of ["reasoning", "model", "finish"]) if (item[name]) message[name] = asText(item[name]);
      if (item.stopped === true) message.stopped = true;
      if (item.error) message.error = { title: asText(item.error.title, 500), detail: asText(item.error.detail, 5000) };
      if (item.stats) {
        message.stats = Object.fromEntries(["firstS", "rate", "prompt", "completion", "limit"]
          .map((name) => [name, asCount(item.stats[name])]));
      }
      next.push(message);
    }
  }
  const pick = Number.isInteger(data?.pick) && data.pick >= 0 && data.pick < next.length ? data.pick : 0;
  return { next, pick };
}

function readConversation(data) {
  if (typeof data?.id !== "string" || !/^[0-9a-f]{24}$/.test(data.id)) return null;
  return {
    id: data.id, title: asText(data.title, 200), system: asText(data.system),
    created: asTime(data.created), updated: asTime(data.updated), ...readBranches(data),
  };
}

/** The conversations of this browser, newest first. */
export class Conversations {
  #all = new Map();

  constructor() {
    const keys = local instanceof Memory ? local.keys() : Object.keys(local);
    for (const key of keys) if (key.startsWith(PREFIX)) this.reload(key);
  }

  get list() {
    return [...this.#all.values()].sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.#all.get(id);
  }

  /** Read what another tab wrote; return whether the key is a conversation's. */
  reload(key) {
    if (!key?.startsWith(PREFIX)) return false;
    const found = readConversation(load(key, null));
    if (found) this.#all.set(found.id, found);
    else this.#all.delete(key.slice(PREFIX.length));
    return true;
  }

  /**
   * Keep a conversation. The oldest others make room, by number and by size.
   * @returns {{isSaved: boolean, removed: number}}
   */
  keep(conversation) {
    this.#all.set(conversation.id, conversation);
    let removed = 0;
    const others = this.list.filter((other) => other !== conversation);
    while (others.length >= MAX_CONVERSATIONS) {
      this.remove(others.pop().id);
      removed += 1;
    }
    while (!save(PREFIX + conversation.id, conversation)) {
      if (!others.length) return { isSaved: false, removed };
      this.remove(others.pop().id);
      removed += 1;
    }
    return { isSaved: isLasting, removed };
  }

  remove(id) {
    this.#all.delete(id);
    local.removeItem(PREFIX + id);
  }

  removeAll() {
    for (const id of [...this.#all.keys()]) this.remove(id);
  }

  /** Return all conversations as the text of a file. */
  exportText() {
    return JSON.stringify({ format: FORMAT, version: 1, conversations: this.list }, null, 1);
  }

  /**
   * Take the conversations of a file; of two with one id, the newer stays.
   * @param {File} file
   * @returns {Promise<number>} how many were taken
   */
  async importFile(file) {
    if (file.size > MAX_IMPORT_BYTES) throw new Error("The file is larger than 20 MB.");
    let data;
    try {
      data = JSON.parse(await file.text());
    } catch {
      throw new Error("The file is not JSON.");
    }
    if (data?.format !== FORMAT || !Array.isArray(data.conversations)) {
      throw new Error("The file is not an export of this page.");
    }
    let taken = 0;
    for (const item of data.conversations.slice(0, MAX_CONVERSATIONS)) {
      const conversation = readConversation(item);
      if (!conversation || (this.get(conversation.id)?.updated ?? 0) >= conversation.updated) continue;
      const { isSaved } = this.keep(conversation);
      if (!isSaved && isLasting) throw new Error("The browser has no room for more conversations.");
      taken += 1;
    }
    return taken;
  }
}
