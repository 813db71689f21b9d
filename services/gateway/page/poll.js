// Reads GET /status each second while somebody looks, less often while it fails.

import { request } from "./api.js";

const PERIOD_MS = 1000;
const SLOWEST_MS = 10_000;
const PATIENCE_MS = 5000;

export class StatusPoll {
  #onStatus;
  #onFailure;
  #timer = null;
  #reading = false;
  #again = false;
  #failures = 0;

  /** `onFailure` gets a GatewayError; after a refusal (401, 403) the poll rests until `now()` is called. */
  constructor(onStatus, onFailure) {
    this.#onStatus = onStatus;
    this.#onFailure = onFailure;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#rest() : this.now()));
    window.addEventListener("online", () => this.now());
  }

  /** Read at once, and each second from then on. */
  async now() {
    this.#rest();
    // A read under way may hold the old key: read once more after it.
    this.#again = this.#reading;
    if (this.#reading) return;
    this.#reading = true;
    const wait = await this.#read();
    this.#reading = false;
    if (this.#again) this.now();
    else if (wait !== null && !document.hidden) this.#timer = setTimeout(() => this.now(), wait);
  }

  #rest() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Returns the milliseconds until the next read, null for none. */
  async #read() {
    let status;
    try {
      const response = await request("status", { signal: AbortSignal.timeout(PATIENCE_MS) });
      status = await response.json();
    } catch (error) {
      if (this.#again) return null; // asked before the key changed
      this.#failures += 1;
      this.#onFailure(error);
      if (error.status === 401 || error.status === 403) return null;
      return Math.min(PERIOD_MS * 2 ** (this.#failures - 1), SLOWEST_MS);
    }
    this.#failures = 0;
    this.#onStatus(status);
    return PERIOD_MS;
  }
}
