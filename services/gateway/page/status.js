// Draws what GET /status says: the strip of figures, models, live requests, backends.

import { KeyedList, byId, setText } from "./dom.js";
import * as format from "./format.js";
import { ModelsView } from "./models.js";
import { Sparkline } from "./sparkline.js";

/** `onPick` gets the id of the model whose name was pressed, `onChange` is called when one was loaded or unloaded. */
export class StatusView {
  #last = null;
  #seenAt = null;
  #sparkline = new Sparkline(byId("sparkline"));
  #models;
  #live = new KeyedList(byId("live"), "live-template", drawRequest);
  #backends = new KeyedList(byId("backends"), "backend-template", drawBackend);

  constructor(onPick, onChange) {
    this.#models = new ModelsView(onPick, onChange);
  }

  render(status) {
    this.#last = status;
    this.#seenAt = new Date();
    document.documentElement.dataset.link = "up";
    byId("down").hidden = true;
    drawLink(...(status.ready ? ["ready", "ready"] : ["loading", "not ready"]));
    setText(byId("identity"), `v${status.version}, up ${format.uptime(status.uptime_s)}`);
    drawFigures(status);
    this.#sparkline.add(status.rates.tokens_per_s);
    setText(byId("tokens-peak"), `peak ${format.rate(this.#sparkline.peak)} in the last minute`);
    this.#drawLists(status);
    drawLinks(status.links);
  }

  /** The gateway is down: nothing that was read is known to be true any more, and the page says so. */
  renderDown(error) {
    document.documentElement.dataset.link = "down";
    drawLink("unreachable", "not reachable");
    const seen = this.#seenAt === null ? "" : ` Last reading at ${this.#seenAt.toLocaleTimeString("en-GB")}.`;
    const what = error.status === 0 ? "The gateway is not reachable." : error.message;
    const down = byId("down");
    setText(down, `${what} Trying again by itself.${seen}`);
    down.hidden = false;
    this.#sparkline.add(null);
    if (this.#last === null) return;
    const unknown = (item) => ({ ...item, state: "unknown", reason: "" });
    const { models, backends } = this.#last;
    this.#drawLists({ models: models.map(unknown), backends: backends.map(unknown), live: [] });
  }

  /** Without a key there is nothing to show, also nothing of what an earlier key showed. */
  renderLocked() {
    document.documentElement.dataset.link = "locked";
    byId("down").hidden = true;
    drawLink("unknown", "key needed");
    this.#last = null;
    for (const element of document.querySelectorAll(".readouts .figure")) setText(element, "–");
    for (const element of document.querySelectorAll(".readouts .aside")) setText(element, "");
    byId("memory-meter").firstElementChild.style.width = "0";
    this.#sparkline.clear();
    this.#drawLists({ models: [], backends: [], live: [] }, "Shown with the key.");
    drawLinks([]);
  }

  #drawLists({ models, live, backends, not_pulled: notPulled = [] }, without = null) {
    this.#models.render(models);
    setText(byId("not-pulled"), notPulled.length > 0 ? `Not on this machine: ${notPulled.join(", ")}` : "");
    this.#live.render(live, (one) => one.request_id);
    this.#backends.render(backends, (backend) => backend.name);
    drawEmpty("no-models", models, without ?? "No model yet: each backend is asked for its models.");
    drawEmpty("no-live", live, without ?? "Nothing in flight.");
    drawEmpty("no-backends", backends, without ?? "No backend is configured.");
  }
}

/** Drawn anew only when they change: the keyboard's focus may be on one. */
function drawLinks(links) {
  const nav = byId("links");
  const drawn = JSON.stringify(links);
  if (nav.dataset.drawn === drawn) return;
  nav.dataset.drawn = drawn;
  nav.hidden = links.length === 0;
  nav.replaceChildren(
    ...links.map(({ name, url }) => {
      const link = document.createElement("a");
      link.href = url;
      link.rel = "noreferrer";
      setText(link, name);
      return link;
    }),
  );
}

function drawEmpty(id, items, sentence) {
  byId(id).hidden = items.length > 0;
  setText(byId(id), sentence);
}

function drawState(element, state, word = state) {
  element.dataset.state = state;
  setText(element, word);
}

function drawLink(state, word) {
  drawState(byId("link-state"), state, word);
}

function drawFigures({ rates, live, totals, memory }) {
  setText(byId("tokens-rate"), format.rate(rates.tokens_per_s));
  const streaming = live.filter((one) => one.phase === "streaming").length;
  setText(byId("in-flight"), format.count(live.length));
  setText(byId("in-flight-split"), `${live.length - streaming} waiting, ${streaming} streaming`);
  setText(byId("requests-total"), format.count(totals.requests));
  setText(
    byId("requests-split"),
    `${format.rate(rates.requests_per_s)}/s, ${format.count(totals.failed)} failed, ${format.count(totals.cancelled)} cancelled`,
  );
  setText(byId("tokens-total"), format.count(totals.prompt_tokens + totals.completion_tokens));
  setText(
    byId("tokens-split"),
    `${format.short(totals.prompt_tokens)} in, ${format.short(totals.completion_tokens)} out`,
  );
  drawMemory(memory);
}

function drawMemory({ total_bytes: total, available_bytes: available, gateway_rss_bytes: own }) {
  const used = total - available;
  const percent = total > 0 ? Math.round((100 * used) / total) : 0;
  const meter = byId("memory-meter");
  setText(byId("memory-used"), format.bytes(used));
  setText(byId("memory-split"), `of ${format.bytes(total)}, gateway ${format.bytes(own)}`);
  meter.setAttribute("aria-valuenow", percent);
  meter.setAttribute("aria-valuetext", `${format.bytes(used)} of ${format.bytes(total)}`);
  meter.firstElementChild.style.width = `${percent}%`;
  meter.dataset.full = percent >= 90;
}

function drawRequest(parts, one) {
  drawState(parts.phase, one.phase === "streaming" ? "ready" : "loading", one.phase);
  setText(parts.model, one.model);
  setText(parts.operation, one.operation);
  setText(parts.speed, one.tokens_per_s ? `${format.rate(one.tokens_per_s)} tok/s` : "");
  setText(
    parts.facts,
    format.facts(
      format.seconds(one.seconds ?? 0),
      one.tokens ? format.plural(one.tokens, "token") : "",
      one.stream ? "streamed" : "whole",
      one.client,
    ),
  );
  parts.model.title = `request ${one.request_id}`;
}

function drawBackend(parts, backend) {
  drawState(parts.state, backend.state);
  setText(parts.name, backend.name);
  setText(parts.url, backend.url);
  setText(parts.capabilities, backend.capabilities?.join(", ") ?? "");
  setText(parts.message, backend.message ?? "");
}
