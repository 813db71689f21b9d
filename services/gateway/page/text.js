// An answer as paragraphs, fenced code, `code` and **bold**, drawn as it grows. All the rest of it is plain text;
// every character goes in as text, so nothing that a model writes becomes markup.

import { copyFrom, setText } from "./dom.js";

const MARKS = /(?<!`)(`+)(?!`)([^]*?[^`])\1(?!`)|\*\*(?!\s)([^*]+?)(?<!\s)\*\*/g;
const OPENING = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;

/**
 * Cut text into blocks `{code, language, text}`: paragraphs at blank lines, code at its fences. A fence that has
 * not ended yet is code up to the end.
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

/** Cut a paragraph into runs `{tag, text}`: `code`, `strong`, or null for plain; an unclosed mark stays plain. */
export function splitMarks(text) {
  const runs = [];
  let end = 0;
  for (const mark of text.matchAll(MARKS)) {
    if (mark.index > end) runs.push({ tag: null, text: text.slice(end, mark.index) });
    runs.push({ tag: mark[2] === undefined ? "strong" : "code", text: mark[2] ?? mark[3] });
    end = mark.index + mark[0].length;
  }
  if (end < text.length) runs.push({ tag: null, text: text.slice(end) });
  return runs;
}

/** Draws a growing text into an element; only what changed is touched, so that a selection survives. */
export class GrowingText {
  #blocks;

  constructor(root) {
    this.#blocks = new Children(root, (block) => (block.code ? new CodeBlock() : new Paragraph()));
  }

  draw(text) {
    this.#blocks.draw(splitFences(text), (block) => block.code);
  }
}

/** An element's children, made anew from the first one whose kind is another, and updated in place before it. */
class Children {
  #root;
  #make;
  #drawn = []; // {kind, child}

  constructor(root, make) {
    this.#root = root;
    this.#make = make;
  }

  draw(items, kindOf) {
    items.forEach((item, index) => {
      if (this.#drawn[index]?.kind !== kindOf(item)) {
        this.#cut(index);
        const child = this.#make(item);
        this.#drawn.push({ kind: kindOf(item), child });
        this.#root.append(child.node);
      }
      this.#drawn[index].child.draw(item);
    });
    this.#cut(items.length);
  }

  #cut(length) {
    for (const { child } of this.#drawn.splice(length)) child.node.remove();
  }
}

class Paragraph {
  node = document.createElement("p");
  #runs = new Children(this.node, (run) => new Run(run.tag));

  draw({ text }) {
    this.#runs.draw(splitMarks(text), (run) => run.tag);
  }
}

/** Text that is appended to where the new one begins with the old one. */
class Run {
  #text = document.createTextNode("");

  constructor(tag) {
    this.node = tag === null ? this.#text : document.createElement(tag);
    if (tag !== null) this.node.append(this.#text);
  }

  draw({ text }) {
    const { data } = this.#text;
    if (!text.startsWith(data)) this.#text.data = text;
    else if (text.length > data.length) this.#text.appendData(text.slice(data.length));
  }
}

class CodeBlock {
  node = document.createElement("div");
  #label = document.createElement("span");
  #code = new Run("code");

  constructor() {
    const header = document.createElement("header");
    const copy = document.createElement("button");
    const frame = document.createElement("pre");
    this.node.className = "code";
    copy.type = "button";
    copy.textContent = "Copy";
    copy.addEventListener("click", () => copyFrom(copy, this.#code.node.textContent));
    frame.tabIndex = 0; // a wide block scrolls by keyboard too
    header.append(this.#label, copy);
    frame.append(this.#code.node);
    this.node.append(header, frame);
  }

  draw(block) {
    setText(this.#label, block.language);
    this.#code.draw(block);
  }
}
