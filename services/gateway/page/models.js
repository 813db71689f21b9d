// Draws the list of models: state, facts, and a button to load or unload those that are loaded on demand.

import { request } from "./api.js";
import { KeyedList, byId, setText } from "./dom.js";
import * as format from "./format.js";

const LOADED = new Set(["ready", "busy", "stalled"]);
const ON_THE_WAY = new Set(["queued", "loading", "unloading"]);

/** `onPick` gets the id of the model whose name was pressed, `onChange` is called when one was loaded or unloaded. */
export class ModelsView {
  #onChange;
  #failures = new Map(); // model → why its last button press came to nothing
  #asking = new Set();
  #list = new KeyedList(byId("models"), "model-template", (parts, model) => this.#draw(parts, model));

  constructor(onPick, onChange) {
    this.#onChange = onChange;
    byId("models").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button === null) return;
      if (button.classList.contains("name")) onPick(button.textContent);
      else this.#ask(button.dataset.model, button.dataset.verb);
    });
  }

  render(models) {
    this.#list.render(models, (model) => model.id);
  }

  async #ask(model, verb) {
    if (this.#asking.has(model)) return;
    this.#asking.add(model);
    this.#failures.delete(model);
    try {
      await request(`v1/models/${encodeURIComponent(model)}/${verb}`, { body: {} });
    } catch (error) {
      this.#failures.set(model, error.message);
    }
    this.#asking.delete(model);
    this.#onChange();
  }

  #draw(parts, model) {
    parts.state.dataset.state = model.state;
    setText(parts.state, model.state);
    setText(parts.id, model.id);
    const busy = model.requests_in_flight ?? 0;
    setText(parts.count, busy > 0 ? `${format.count(busy)} in flight` : "");
    // That BACKEND/ID always works goes without saying.
    const aliases = model.aliases?.filter((alias) => alias !== `${model.backend}/${model.id}`) ?? [];
    setText(parts.aliases, aliases.length > 0 ? `also ${aliases.join(", ")}` : "");
    setText(parts.facts, facts(model));
    setText(parts.residency, residency(model));
    setText(parts.failure, this.#failures.get(model.id) ?? model.reason ?? "");
    this.#drawButton(parts.act, model);
  }

  #drawButton(button, model) {
    button.hidden = !model.managed || model.state === "unknown";
    if (button.hidden) return;
    const verb = LOADED.has(model.state) || ON_THE_WAY.has(model.state) ? "unload" : "load";
    button.dataset.model = model.id;
    button.dataset.verb = verb;
    button.disabled = this.#asking.has(model.id);
    button.setAttribute("aria-label", `${verb === "load" ? "Load" : "Unload"} ${model.id}`);
    setText(button, verb === "load" ? "Load" : "Unload");
  }
}

function facts(model) {
  return format.facts(
    model.parameters && `${format.short(model.parameters)} parameters`,
    model.quantization,
    model.size_bytes && format.bytes(model.size_bytes),
    model.context_tokens && `${format.count(model.context_tokens)} context`,
    model.dimensions && `${format.count(model.dimensions)} dimensions`,
    model.capabilities?.join(", "),
    served(model),
  );
}

function served(model) {
  if (model.managed) return model.engine && `on ${model.engine}`;
  if (model.engine === "sparkstack") return `on ${model.backend}`; // one of the stack's own services
  return model.engine && model.engine !== model.backend ? `${model.engine} on ${model.backend}` : `on ${model.backend}`;
}

/** What is known of a model that is loaded on demand: its place, the time left, its memory, its end. */
function residency(model) {
  if (!model.managed) return "";
  if (ON_THE_WAY.has(model.state)) {
    return format.facts(
      model.queue_position ? `place ${model.queue_position} in the queue` : "",
      model.eta_s === null ? "" : `about ${format.seconds(model.eta_s)} left`,
    );
  }
  if (!LOADED.has(model.state)) return model.need_bytes ? `needs ${format.bytes(model.need_bytes)}` : "";
  return format.facts(
    model.held_bytes ? `holds ${format.bytes(model.held_bytes)}` : "",
    model.on_gpu === null ? "" : model.on_gpu ? "GPU" : "CPU",
    model.pinned ? "pinned" : "",
    model.expires_at === null ? "" : `until ${new Date(model.expires_at * 1000).toLocaleTimeString("en-GB")} unless used`,
  );
}
