// Speaks with the gateway: the key, requests and their failures, server-sent events.

const KEY_NAME = "sparkstack.key";
const VISIBLE_ASCII = /^[\x21-\x7e]+$/;

/** A failure, with a sentence for the person at the page. `status` 0: there was no answer at all. */
export class GatewayError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.name = "GatewayError";
    this.status = status;
  }
}

// The browser may forbid storage; then the key lives as long as the page.
let keyInMemory = null;

export const key = {
  get() {
    try {
      return sessionStorage.getItem(KEY_NAME) ?? keyInMemory;
    } catch {
      return keyInMemory;
    }
  },

  /** Keep a key for this tab. Raises GatewayError when it cannot be one. */
  set(value) {
    if (!VISIBLE_ASCII.test(value)) {
      throw new GatewayError("A key has letters, digits and signs without blanks; this is something else.");
    }
    keyInMemory = value;
    try {
      sessionStorage.setItem(KEY_NAME, value);
    } catch {
      // Kept in memory above.
    }
  },

  forget() {
    keyInMemory = null;
    try {
      sessionStorage.removeItem(KEY_NAME);
    } catch {
      // It was never stored.
    }
  },

  /** Take `#key=…` out of the address bar, so that it is not bookmarked, shared or seen; true if one was there. */
  takeFromAddress() {
    const found = /^#(?:.*&)?key=([^&]*)/.exec(location.hash);
    if (found === null) return false;
    history.replaceState(history.state, "", location.pathname + location.search);
    try {
      this.set(decodeURIComponent(found[1]).trim());
    } catch {
      return false;
    }
    return true;
  },
};

/** The address of something of this gateway's, also where a proxy serves it below a path. */
export const address = (path) => new URL(path, document.baseURI);

/**
 * Return the response to a request that the gateway accepted.
 * Raises GatewayError for anything else, AbortError when `signal` stopped it.
 */
export async function request(path, { body, signal } = {}) {
  const headers = {};
  const bearer = key.get();
  if (bearer !== null) headers.authorization = `Bearer ${bearer}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new GatewayError("The gateway is not reachable. Is it running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let message = `The gateway answered ${response.status} without saying why.`;
  try {
    message = errorMessage((await response.json()).error) ?? message;
  } catch {
    // Not the envelope: a proxy in between, or a server that is no gateway.
  }
  const wait = response.headers.get("retry-after");
  if (/^\d+$/.test(wait ?? "")) message += ` (Try again in ${wait} s.)`;
  return new GatewayError(message, response.status);
}

/** The envelope has `{message}`; some servers send the sentence bare. */
function errorMessage(error) {
  const message = typeof error === "string" ? error : error?.message;
  if (typeof message !== "string" || message === "") return undefined;
  return message[0].toUpperCase() + message.slice(1);
}

/**
 * Yield the data of each server-sent event of a byte stream, however it is cut into chunks.
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */
export async function* readEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let line = ""; // what has come of a line that has not ended
  let data = []; // the data lines of an event that has not ended
  let afterCr = false; // a LF that comes next belongs to the CR that ended the last chunk
  try {
    for (;;) {
      const { done, value } = await reader.read();
      let text = done ? decoder.decode() : decoder.decode(value, { stream: true });
      if (text !== "") {
        const rest = afterCr && text.startsWith("\n") ? text.slice(1) : text;
        afterCr = text.endsWith("\r");
        text = rest;
      }
      const lines = (line + text).split(/\r\n|\n|\r/);
      line = lines.pop();
      // The last event may lack its blank line when the sender was in a hurry to close.
      if (done) lines.push(line, "");
      for (const whole of lines) {
        if (whole === "") {
          if (data.length > 0) yield data.join("\n");
          data = [];
        } else if (whole === "data" || whole.startsWith("data:")) {
          data.push(whole.slice(whole.startsWith("data: ") ? 6 : 5));
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Yield the chunks of a streamed chat completion.
 * Raises GatewayError for an error before, in, or for want of the end of the stream.
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", { body, signal });
  if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    yield wholeAsChunk(await response.json());
    return;
  }
  let finished = false;
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new GatewayError(errorMessage(chunk.error) ?? "The engine failed without saying why.");
      finished ||= chunk.choices?.some((choice) => choice.finish_reason) ?? false;
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof GatewayError) throw error;
    throw new GatewayError("The connection broke in the middle of the answer.");
  }
  if (!finished) throw new GatewayError("The stream ended in the middle of the answer.");
}

/** An engine that does not stream answers at once, with `message` where a chunk has `delta`. */
function wholeAsChunk(answer) {
  const choices = (answer.choices ?? []).map((choice) => ({ ...choice, delta: choice.message }));
  return { ...answer, choices };
}
