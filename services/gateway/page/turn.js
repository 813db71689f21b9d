// One question and its answer: drawn while it streams, measured, and told apart when it fails.

import { Citations } from "./citations.js";
import { fromTemplate, setText } from "./dom.js";
import * as format from "./format.js";
import { GrowingText } from "./text.js";

const CLOCK_MS = 100;
const SPOKEN_CHARACTERS = 2000;

/** Finish reasons that a reader must know of, to not take a part for the whole. */
const CUT_SHORT = {
  length: "cut at the token limit",
  content_filter: "withheld by a filter",
};

export class Turn {
  question;
  root;
  #parts;
  #answer = "";
  #thoughts = "";
  #answerView;
  #thoughtsView;
  #citations;
  #frame = null;
  #onDraw = () => {};
  #failure = null;
  #stopped = false;
  #finish = null;
  #usage = null;
  #startedAt = 0;
  #firstAt = null;
  #lastAt = null;
  #deltas = 0;

  constructor(question, model, onRetry) {
    const { root, parts } = fromTemplate("turn-template");
    this.question = question;
    this.root = root;
    this.#parts = parts;
    this.#answerView = new GrowingText(parts.answer);
    this.#thoughtsView = new GrowingText(parts.thoughts);
    this.#citations = new Citations(parts.cited, parts.citations);
    new GrowingText(parts.question).draw(question);
    parts.model.textContent = model;
    parts.retry.addEventListener("click", onRetry);
  }

  /** What later requests carry of this turn; nothing where no answer came. */
  messages() {
    if (this.#answer === "") return [];
    return [
      { role: "user", content: this.question },
      { role: "assistant", content: this.#answer },
    ];
  }

  /** Another turn follows: this one is not to be asked again. */
  settle() {
    this.#parts.retry.hidden = true;
  }

  /** What a screen reader says when the answer has ended. */
  spoken() {
    if (this.#failure !== null) return `The answer failed. ${this.#failure.message}`;
    const text = this.#answer.slice(0, SPOKEN_CHARACTERS);
    const sources = this.#citations.count === 0 ? "" : ` ${format.plural(this.#citations.count, "source")} below.`;
    return this.#stopped ? `Stopped. ${text}` : `Answer: ${text}${sources}`;
  }

  /** Draw the answer as it comes, to its end; return the failure that ended it, else null. */
  async run(chunks, onDraw) {
    this.#onDraw = onDraw;
    this.#startedAt = performance.now();
    this.root.dataset.streaming = "";
    const clock = setInterval(() => this.#drawMeasures(), CLOCK_MS);
    try {
      for await (const chunk of chunks) this.#take(chunk);
    } catch (error) {
      if (error.name === "AbortError") this.#stopped = true;
      else this.#failure = error;
    }
    clearInterval(clock);
    delete this.root.dataset.streaming;
    this.#end();
    return this.#failure;
  }

  #take(chunk) {
    if (chunk.model) setText(this.#parts.model, chunk.model);
    if (chunk.usage) this.#usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (choice === undefined) return;
    if (choice.finish_reason) this.#finish = choice.finish_reason;
    if (Array.isArray(choice.delta?.annotations)) this.#citations.take(choice.delta.annotations);
    const words = choice.delta?.content ?? "";
    const thought = choice.delta?.reasoning_content ?? choice.delta?.reasoning ?? "";
    if (words === "" && thought === "") return;
    this.#answer += words;
    this.#thoughts += thought;
    this.#deltas += 1;
    this.#lastAt = performance.now();
    this.#firstAt ??= this.#lastAt;
    this.#frame ??= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = null;
    this.#parts.reasoning.hidden = this.#thoughts === "";
    if (this.#thoughts !== "") this.#thoughtsView.draw(this.#thoughts);
    this.#answerView.draw(this.#answer);
    this.#citations.draw();
    this.#onDraw();
  }

  #end() {
    this.#draw();
    const { failure, retry, measures } = this.#parts;
    if (this.#failure !== null) {
      failure.textContent = this.#failure.message;
      failure.hidden = retry.hidden = false;
    }
    measures.textContent = this.#measured();
    this.#onDraw();
  }

  #drawMeasures() {
    const { measures } = this.#parts;
    const waited = (performance.now() - this.#startedAt) / 1000;
    if (this.#firstAt === null) measures.textContent = `waiting for the first token, ${waited.toFixed(1)} s`;
    else setText(measures, this.#measured());
  }

  #measured() {
    const ttft = this.#firstAt === null ? "" : `${format.seconds((this.#firstAt - this.#startedAt) / 1000)} to first token`;
    const { prompt_tokens: read, completion_tokens: written } = this.#usage ?? {};
    return format.facts(
      ttft,
      this.#speed(),
      read === undefined ? "" : `${format.count(read)} tokens in, ${format.count(written ?? 0)} out`,
      this.#stopped ? "stopped" : CUT_SHORT[this.#finish],
      this.#isEmpty() ? "empty answer" : "",
    );
  }

  /** Tokens after the first over the time since it; counted by deltas, and marked, until usage has come. */
  #speed() {
    const tokens = this.#usage?.completion_tokens ?? this.#deltas;
    const seconds = (this.#lastAt - this.#firstAt) / 1000;
    if (tokens < 2 || seconds <= 0.02) return "";
    return `${this.#usage === null ? "~" : ""}${format.rate((tokens - 1) / seconds)} tokens/s`;
  }

  #isEmpty() {
    const running = "streaming" in this.root.dataset;
    return !running && !this.#stopped && this.#failure === null && this.#answer === "";
  }
}
