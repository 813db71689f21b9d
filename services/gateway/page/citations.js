// The documents that an answer cites, listed below it: number, document, page, quote.

import { KeyedList, setText } from "./dom.js";
import * as format from "./format.js";

export class Citations {
  #frame;
  #list;
  #sources = new Map(); // number → what is shown of it

  constructor(frame, list) {
    this.#frame = frame;
    this.#list = new KeyedList(list, "citation-template", drawCitation);
  }

  get count() {
    return this.#sources.size;
  }

  /** Note the annotations of a delta: one for each mark in the text, so that a source may be there several times. */
  take(annotations) {
    for (const annotation of annotations) {
      const source = read(annotation, this.#sources.size + 1);
      if (source !== null && !this.#sources.has(source.number)) this.#sources.set(source.number, source);
    }
  }

  draw() {
    const sources = [...this.#sources.values()].sort((one, other) => one.number - other.number);
    this.#list.render(sources, (source) => source.number);
    this.#frame.hidden = sources.length === 0;
  }
}

/** Return what is shown of an annotation; null for one that cites nothing. Servers other than ours cite addresses. */
function read(annotation, next) {
  const own = annotation?.sparkstack ?? {};
  const web = annotation?.url_citation ?? {};
  const file = own.title || annotation?.filename || web.title || web.url;
  if (typeof file !== "string") return null;
  return {
    number: Number.isInteger(own.number) ? own.number : next,
    file,
    place: format.facts(
      own.title && own.title !== annotation.filename ? annotation.filename : "",
      Number.isInteger(own.page) ? `page ${own.page}` : "",
    ),
    quote: typeof own.quote === "string" ? own.quote : "",
  };
}

function drawCitation(parts, source) {
  setText(parts.number, `[${source.number}]`);
  setText(parts.document, source.file);
  setText(parts.place, source.place);
  setText(parts.quote, source.quote);
}
