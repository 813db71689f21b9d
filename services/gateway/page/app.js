// Wires the page: one poll of the gateway's status, one conversation, one key.

import { GatewayError, key } from "./api.js";
import { Chat } from "./chat.js";
import { ConnectView } from "./connect.js";
import { byId, setText } from "./dom.js";
import { StatusPoll } from "./poll.js";
import { StatusView } from "./status.js";

const keyForm = byId("key-form");
const keyField = byId("key-field");

let refusedBefore = false; // a key was sent and refused since the last answer

const chat = new Chat(() => poll.now());
const statusView = new StatusView(
  (model) => chat.pick(model),
  () => poll.now(),
);
const connect = new ConnectView(forgetKey);

const poll = new StatusPoll(
  (status) => {
    closeKeyForm();
    refusedBefore = false;
    // An answer without a key: this gateway asks for none.
    connect.keyless = key.get() === null;
    statusView.render(status);
    chat.offer(status.models, status.default_model);
  },
  (error) => {
    if (error.status === 401 || error.status === 403) onRefused(error);
    else statusView.renderDown(error);
  },
);

/**
 * A key that is refused is dropped and the gateway asked again without one: it may need none, and a key of
 * an earlier start must not stand in the way.
 */
function onRefused(error) {
  if (key.get() === null) {
    askForKey(error);
    return;
  }
  key.forget();
  refusedBefore = true;
  poll.now();
}

function askForKey(error) {
  statusView.renderLocked();
  connect.keyless = false;
  connect.render();
  if (refusedBefore) setText(byId("key-why"), "The gateway refused the key it was given.");
  else setText(byId("key-why"), error.status === 403 ? error.message : "This gateway asks for its API key.");
  markRefused(refusedBefore);
  if (!keyForm.hidden) return;
  keyForm.hidden = false;
  keyField.focus();
}

function markRefused(refused) {
  keyForm.dataset.refused = refused;
  keyField.setAttribute("aria-invalid", refused);
}

function closeKeyForm() {
  if (keyForm.hidden) return;
  const hadFocus = keyForm.contains(document.activeElement);
  keyForm.hidden = true;
  keyField.value = "";
  if (hadFocus) byId("prompt").focus();
}

function forgetKey() {
  key.forget();
  refusedBefore = false;
  connect.hideKey();
  poll.now();
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    key.set(keyField.value.trim());
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    setText(byId("key-why"), error.message);
    markRefused(true);
    return;
  }
  connect.render();
  poll.now();
});

// The address with the key may be pasted into a tab that is open already.
window.addEventListener("hashchange", () => {
  if (!key.takeFromAddress()) return;
  connect.render();
  poll.now();
});

key.takeFromAddress();
connect.render();
poll.now();
