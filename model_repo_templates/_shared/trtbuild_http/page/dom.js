/**
 * Descriptions of elements, and the one function that makes the document look like them. What has not changed is not
 * touched, so a selection, a focus or an opened fold survives while text streams in. There is no way to give HTML as
 * text: strings always become text nodes.
 */

/**
 * Describe an element. `attributes.key` tells siblings apart; attributes that are false, null or undefined are left out.
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes]
 */
export function h(tag, attributes = {}, ...kids) {
  return { tag, attributes, kids: flatten(kids, []) };
}

function flatten(kids, into) {
  for (const kid of kids) {
    if (Array.isArray(kid)) flatten(kid, into);
    else if (kid) into.push(kid);
  }
  return into;
}

/** Describe an icon of the sprite in index.html. */
export function icon(name) {
  return h("svg", { class: "icon", "aria-hidden": "true" }, h("use", { href: `#i-${name}` }));
}

/** Describe a button that shows only an icon. */
export function iconButton(action, name, label, attributes = {}) {
  return h("button", { type: "button", class: "quiet", "data-action": action, "aria-label": label, title: label,
    ...attributes }, icon(name));
}

/** Node -> the description that it was made from. */
const made = new WeakMap();

/** Make the children of `parent` look like `kids`. */
export function patch(parent, kids) {
  let node = parent.firstChild;
  for (const kid of flatten(kids, [])) {
    if (node && fits(node, kid)) update(node, kid);
    else if (node) {
      const fresh = create(kid, parent.namespaceURI);
      node.replaceWith(fresh);
      node = fresh;
    } else {
      node = parent.appendChild(create(kid, parent.namespaceURI));
    }
    node = node.nextSibling;
  }
  while (node) {
    const next = node.nextSibling;
    node.remove();
    node = next;
  }
}

function fits(node, kid) {
  if (typeof kid === "string") return node.nodeType === Node.TEXT_NODE;
  const before = made.get(node);
  return before !== undefined && before.tag === kid.tag && before.attributes.key === kid.attributes.key;
}

function create(kid, namespace) {
  if (typeof kid === "string") return document.createTextNode(kid);
  const inside = kid.tag === "svg" ? "http://www.w3.org/2000/svg" : namespace;
  const element = document.createElementNS(inside, kid.tag);
  setAttributes(element, {}, kid.attributes);
  made.set(element, kid);
  patch(element, kid.kids);
  return element;
}

function update(node, kid) {
  if (typeof kid === "string") {
    // Text that grows is appended to, which keeps a selection in it.
    if (kid.startsWith(node.data)) node.appendData(kid.slice(node.data.length));
    else node.data = kid;
    return;
  }
  const before = made.get(node);
  if (before === kid) return;
  setAttributes(node, before.attributes, kid.attributes);
  made.set(node, kid);
  patch(node, kid.kids);
}

const isSet = (value) => value !== false && value !== null && value !== undefined;

function setAttributes(element, before, after) {
  for (const name of Object.keys(before)) {
    if (isSet(before[name]) && !isSet(after[name])) element.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(after)) {
    if (name === "key" || !isSet(value) || before[name] === value) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
}

export const byId = (id) => document.getElementById(id);

/** Say something to screen readers without moving the focus. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Copy text. Browsers offer the clipboard only to HTTPS and localhost; elsewhere the old way still works. */
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not permitted: try the old way.
    }
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "offscreen";
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus?.();
  return done;
}
