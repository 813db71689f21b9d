// An answer as paragraphs and fenced code blocks, drawn as it grows. Everything is text: nothing becomes markup.

import { copyFrom } from "./dom.js";

const OPENING = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;

/**
 * Cut text into blocks `{code, language, text}`: paragraphs at blank lines, code at its fences; a fence that has not ended yet is code up to the end.
 * Source: https://spec.commonmark.org/0.31.2/#fenced-code-blocks
 */
export function splitFences(text) {
  const blocks = [];
  let lines = [];
  let fence = null; // the marker that opened the current code block
  let language = "";
  const close = () => {
    const content = fence === null ? lines.join("\n").trimEnd() : lines.join("\n");
    if (fence !== null || content !== "") blocks.push({ code: fence !== null, language, text: content });
    lines = [];
  };
  for (const line of text.split("\n")) {
    const bare = line.trim();
    if (fence === null) {
      const opening = OPENING.exec(line);
      if (opening === null) {
        if (bare === "") close();
        else lines.push(line);
        continue;
      }
      close();
      fence = opening[1];
      language = opening[2].trim().split(/\s/)[0];
    } else if (bare.length >= fence.length && bare === fence[0].repeat(bare.length)) {
      close();
      fence = null;
      language = "";
    } else {
      lines.push(line);
    }
  }
  close();
  return blocks;
}

/** Draws a growing text into an element; only what changed is touched, so that a selection survives. */
export class GrowingText {
  #root;
  #drawn = []; // {code, holder, target}

  constructor(root) {
    this.#root = root;
  }

  draw(text) {
    const blocks = splitFences(text);
    while (this.#drawn.length > blocks.length) this.#drawn.pop().holder.remove();
    blocks.forEach((block, index) => {
      let drawn = this.#drawn[index];
      if (drawn?.code !== block.code) {
        const fresh = block.code ? codeBlock() : prose();
        if (drawn === undefined) this.#root.append(fresh.holder);
        else drawn.holder.replaceWith(fresh.holder);
        drawn = this.#drawn[index] = fresh;
      }
      if (block.code) drawn.label.textContent = block.language;
      grow(drawn.target, block.text);
    });
  }
}

/** Append to the text node where the new text begins with the old one. */
function grow(element, text) {
  const node = element.firstChild;
  if (node === null) element.append(text);
  else if (text.startsWith(node.data)) {
    if (text.length > node.length) node.appendData(text.slice(node.length));
  } else node.data = text;
}

function prose() {
  const holder = document.createElement("p");
  return { code: false, holder, target: holder };
}

function codeBlock() {
  const holder = document.createElement("div");
  const header = document.createElement("header");
  const label = document.createElement("span");
  const copy = document.createElement("button");
  const frame = document.createElement("pre");
  const target = document.createElement("code");
  holder.className = "code";
  copy.type = "button";
  copy.textContent = "Copy";
  copy.addEventListener("click", () => copyFrom(copy, target.textContent));
  frame.tabIndex = 0; // a wide block scrolls by keyboard too
  header.append(label, copy);
  frame.append(target);
  holder.append(header, frame);
  return { code: true, holder, target, label };
}
