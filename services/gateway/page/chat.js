// The conversation: composer, model picker, turns that stream.

import { streamChat } from "./api.js";
import { byId, setText } from "./dom.js";
import { Turn } from "./turn.js";

const NEAR_END_PX = 48;

export class Chat {
  #onKeyNeeded;
  #turns = [];
  #abort = null; // of the answer under way
  #offered = "";
  #following = true;
  #transcript = byId("transcript");
  #prompt = byId("prompt");
  #picker = byId("model-picker");

  constructor(onKeyNeeded) {
    this.#onKeyNeeded = onKeyNeeded;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#prompt.addEventListener("keydown", (event) => this.#onKey(event));
    this.#prompt.addEventListener("input", () => this.#fit());
    byId("stop").addEventListener("click", () => this.#abort?.abort());
    byId("clear").addEventListener("click", () => this.#clear());
    for (const id of ["system", "temperature", "max-tokens"]) {
      byId(id).addEventListener("input", () => this.#summariseOptions());
    }
    this.#transcript.addEventListener("scroll", () => this.#noteScroll());
    this.#summariseOptions();
  }

  /** Put the gateway's models into the picker, those that chat first; the choice made stays. */
  offer(models, defaultModel) {
    const offered = JSON.stringify([defaultModel, models.map(({ id, capabilities, state }) => [id, capabilities, state])]);
    if (offered === this.#offered) return;
    this.#offered = offered;
    const chosen = this.#picker.value;
    // Of a server that only names its models it is not known what they can do.
    const chats = ({ capabilities }) => !capabilities?.length || capabilities.includes("chat");
    const cites = ({ capabilities }) => capabilities?.includes("rag") ?? false;
    const groups = [
      group("Chat", models.filter((model) => chats(model) && !cites(model))),
      group("Answers from documents", models.filter(cites)),
      group("Other models", models.filter((model) => !chats(model) && !cites(model))),
    ].filter((one) => one.children.length > 0);
    const byDefault = new Option(defaultModel ? `default: ${defaultModel}` : "default", "default");
    this.#picker.replaceChildren(byDefault, ...groups);
    this.#picker.value = chosen;
    if (this.#picker.selectedIndex < 0) this.#picker.value = "default";
  }

  /** Choose a model and go to the composer. */
  pick(model) {
    this.#picker.value = model;
    this.#prompt.focus();
  }

  #onKey(event) {
    if (event.key === "Escape") this.#abort?.abort();
    // Enter that ends an input method's composition is not meant for us.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#send();
  }

  #send() {
    const question = this.#prompt.value.trim();
    if (this.#abort !== null || !this.#optionsAreValid()) return;
    if (question === "") {
      this.#prompt.focus();
      return;
    }
    this.#prompt.value = "";
    this.#fit();
    this.#ask(question);
  }

  async #ask(question) {
    const model = this.#picker.value;
    const body = this.#request(model, question);
    const turn = new Turn(question, model, () => this.#retry(turn));
    this.#turns.at(-1)?.settle();
    this.#turns.push(turn);
    byId("no-turns").hidden = true;
    this.#transcript.append(turn.root);
    this.#scrollToEnd();
    this.#begin();
    const abort = (this.#abort = new AbortController());
    const failure = await turn.run(streamChat(body, abort.signal), () => this.#followEnd());
    if (this.#abort !== abort) return; // cleared meanwhile
    this.#abort = null;
    this.#end(turn);
    if (failure?.status === 401) this.#onKeyNeeded();
  }

  #request(model, question) {
    const messages = this.#turns.flatMap((turn) => turn.messages());
    const system = byId("system").value.trim();
    if (system !== "") messages.unshift({ role: "system", content: system });
    messages.push({ role: "user", content: question });
    const body = { model, messages, stream: true, stream_options: { include_usage: true } };
    const temperature = byId("temperature").value;
    const maxTokens = byId("max-tokens").value;
    if (temperature !== "") body.temperature = Number(temperature);
    if (maxTokens !== "") body.max_tokens = Number(maxTokens);
    return body;
  }

  #retry(turn) {
    if (this.#abort !== null) return;
    this.#turns = this.#turns.filter((one) => one !== turn);
    turn.root.remove();
    this.#prompt.focus();
    this.#ask(turn.question);
  }

  #clear() {
    const abort = this.#abort;
    this.#abort = null;
    abort?.abort();
    for (const turn of this.#turns) turn.root.remove();
    this.#turns = [];
    this.#showStop(false);
    byId("no-turns").hidden = false;
    byId("clear").disabled = true;
    setText(byId("announcer"), "Conversation cleared.");
    this.#prompt.focus();
  }

  #begin() {
    this.#showStop(true);
    byId("clear").disabled = false;
    setText(byId("announcer"), "Answering.");
  }

  /** A screen reader hears the answer once, when it is whole, instead of each token. */
  #end(turn) {
    this.#showStop(false);
    this.#followEnd();
    setText(byId("announcer"), turn.spoken());
  }

  #showStop(streaming) {
    const [shown, gone] = streaming ? [byId("stop"), byId("send")] : [byId("send"), byId("stop")];
    const hadFocus = document.activeElement === gone;
    shown.hidden = false;
    gone.hidden = true;
    if (hadFocus) shown.focus();
    this.#transcript.setAttribute("aria-busy", streaming);
  }

  #optionsAreValid() {
    for (const id of ["temperature", "max-tokens"]) {
      if (byId(id).checkValidity()) continue;
      document.querySelector(".options").open = true;
      byId(id).reportValidity();
      return false;
    }
    return true;
  }

  /** Folded options must not be forgotten ones. */
  #summariseOptions() {
    const set = [];
    if (byId("system").value.trim() !== "") set.push("system prompt");
    if (byId("temperature").value !== "") set.push(`temperature ${byId("temperature").value}`);
    if (byId("max-tokens").value !== "") set.push(`at most ${byId("max-tokens").value} tokens`);
    setText(byId("options-summary"), set.join(", "));
  }

  #fit() {
    this.#prompt.style.height = "auto";
    this.#prompt.style.height = `${this.#prompt.scrollHeight + 2}px`;
  }

  #noteScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.#transcript;
    this.#following = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  /** Follow the answer unless the reader scrolled back. */
  #followEnd() {
    if (this.#following) this.#scrollToEnd();
  }

  #scrollToEnd() {
    this.#following = true;
    this.#transcript.scrollTop = this.#transcript.scrollHeight;
  }
}

function group(label, models) {
  const element = document.createElement("optgroup");
  element.label = label;
  for (const { id, state } of models) {
    element.append(new Option(state === "ready" ? id : `${id} (${state})`, id));
  }
  return element;
}
