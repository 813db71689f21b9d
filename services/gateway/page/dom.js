// What the other modules need of the document. Text goes in by textContent alone, never as HTML.

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Set an element's text where it differs, so that an unchanged page costs nothing and keeps its selection. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Clone a template; return its root element and its `data-part` elements by name. */
export function fromTemplate(id) {
  const root = byId(id).content.firstElementChild.cloneNode(true);
  const parts = {};
  for (const part of root.querySelectorAll("[data-part]")) parts[part.dataset.part] = part;
  return { root, parts };
}

/**
 * Keep a list's children in step with `items`: rows are made, updated in place, moved and removed by key, so
 * that focus and selection inside a row outlive an update.
 */
export class KeyedList {
  #list;
  #template;
  #update;
  #rows = new Map();

  constructor(list, template, update) {
    this.#list = list;
    this.#template = template;
    this.#update = update;
  }

  render(items, keyOf) {
    const wanted = new Map(items.map((item) => [keyOf(item), item]));
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      row.root.remove();
      this.#rows.delete(key);
    }
    let place = this.#list.firstElementChild;
    for (const [key, item] of wanted) {
      let row = this.#rows.get(key);
      if (row === undefined) {
        row = fromTemplate(this.#template);
        this.#rows.set(key, row);
      }
      this.#update(row.parts, item);
      if (row.root === place) place = place.nextElementSibling;
      else this.#list.insertBefore(row.root, place);
    }
  }
}

/** Put text on the clipboard; return whether it worked. Plain http off loopback has only the old way. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "hidden";
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}

/** Copy, and say on the button for a moment how it went. */
export async function copyFrom(button, text) {
  const copied = await copyText(text);
  button.dataset.label ??= button.textContent;
  button.textContent = copied ? "Copied" : "Not allowed";
  clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = setTimeout(() => setText(button, button.dataset.label), 1500);
}
