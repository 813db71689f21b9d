// What another client needs: address, key, and a first program. The key is masked until it is asked for.

import { address, key } from "./api.js";
import { byId, copyFrom, setText } from "./dom.js";

const MASK = "•".repeat(12);

const SNIPPETS = {
  curl: ({ base, bearer }) =>
    [
      `curl ${base}/v1/chat/completions \\`,
      ...(bearer === null ? [] : [`  -H ${shellQuote(`Authorization: Bearer ${bearer}`)} \\`]),
      "  -H 'Content-Type: application/json' \\",
      `  -d '{"model": "default", "messages": [{"role": "user", "content": "Say hello."}]}'`,
    ].join("\n"),

  openai: ({ base, bearer }) =>
    [
      "from openai import OpenAI",
      "",
      `client = OpenAI(base_url=${JSON.stringify(`${base}/v1`)}, api_key=${JSON.stringify(bearer ?? "none needed")})`,
      "stream = client.chat.completions.create(",
      '    model="default", messages=[{"role": "user", "content": "Say hello."}], stream=True',
      ")",
      "for chunk in stream:",
      "    if chunk.choices:",
      '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    ].join("\n"),

  ollama: ({ base, bearer }) =>
    [
      "from ollama import Client",
      "",
      bearer === null
        ? `client = Client(host=${JSON.stringify(base)})`
        : `client = Client(host=${JSON.stringify(base)}, headers={"Authorization": ${JSON.stringify(`Bearer ${bearer}`)}})`,
      'messages = [{"role": "user", "content": "Say hello."}]',
      'for part in client.chat(model="default", messages=messages, stream=True):',
      '    print(part.message.content, end="", flush=True)',
    ].join("\n"),
};

const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The part of the page that tells how to connect; `onForget` is called when the key is to be dropped. */
export class ConnectView {
  #shown = false;
  #keyless = false;
  #base = address(".").href.replace(/\/$/, "");

  constructor(onForget) {
    byId("key-show").addEventListener("click", () => {
      this.#shown = !this.#shown;
      this.render();
    });
    byId("key-forget").addEventListener("click", onForget);
    document.querySelector(".connect").addEventListener("click", (event) => {
      const button = event.target.closest("[data-copy]");
      if (button !== null) copyFrom(button, this.#whole(button.dataset.copy));
    });
    this.render();
  }

  /** Whether the gateway answers without any key. */
  set keyless(value) {
    if (value === this.#keyless) return;
    this.#keyless = value;
    this.render();
  }

  render() {
    const real = key.get();
    const shown = real !== null && !this.#shown ? MASK : this.#bearer();
    setText(byId("base-url"), `${this.#base}/v1`);
    setText(byId("key-shown"), shown ?? "none needed from this machine");
    byId("key-buttons").hidden = byId("copy-note").hidden = real === null;
    byId("key-show").setAttribute("aria-pressed", this.#shown);
    setText(byId("key-show"), this.#shown ? "Hide" : "Show");
    for (const holder of document.querySelectorAll("[data-snippet]")) {
      const text = SNIPPETS[holder.dataset.snippet]({ base: this.#base, bearer: shown });
      setText(holder.querySelector("code"), text);
    }
  }

  hideKey() {
    this.#shown = false;
    this.render();
  }

  /** null where no key is needed. */
  #bearer() {
    return key.get() ?? (this.#keyless ? null : "YOUR_KEY");
  }

  #whole(what) {
    if (what === "base-url") return `${this.#base}/v1`;
    if (what === "key") return key.get() ?? "";
    return SNIPPETS[what]({ base: this.#base, bearer: this.#bearer() });
  }
}
