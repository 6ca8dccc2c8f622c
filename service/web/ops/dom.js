// The few things that every part of the page does with elements. Text only ever becomes text.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; attributes by name, children as elements or text. */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  setAttributes(node, attributes);
  node.append(...children);
  return node;
}

/** Make an element of a drawing. */
export function shape(name, attributes = {}) {
  const node = document.createElementNS(SVG, name);
  setAttributes(node, attributes);
  return node;
}

export function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  }
}

/** Set a text if it is another one: a screen reader tells of each change. */
export function setText(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

/**
 * Have one child for each item, in their order. The children of items that were there before stay
 * as they are, so that no focus and no open disclosure is lost.
 */
export function keep(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = String(keyOf(item));
    const node = known.get(key) ?? create(item);
    known.delete(key);
    node.dataset.key = key;
    update(node, item);
    return node;
  });
  for (const gone of known.values()) gone.remove();
  wanted.forEach((node, place) => {
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
  });
}
