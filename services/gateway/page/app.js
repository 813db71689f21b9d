// Wires the page: one poll of the gateway's status, one conversation, one key.

import { GatewayError, key } from "./api.js";
import { Chat } from "./chat.js";
import { ConnectView } from "./connect.js";
import { byId, setText } from "./dom.js";
import { StatusPoll } from "./poll.js";
import { StatusView } from "./status.js";

const keyForm = byId("key-form");
const keyField = byId("key-field");

const chat = new Chat(askForKey);
const statusView = new StatusView((model) => chat.pick(model));
const connect = new ConnectView(forgetKey);

const poll = new StatusPoll(
  (status) => {
    closeKeyForm();
    // An answer without a key: this gateway asks for none.
    connect.keyless = key.get() === null;
    statusView.render(status);
    chat.offer(status.models, status.default_model);
  },
  (error) => {
    if (error.status === 401) askForKey();
    else statusView.renderDown(error);
  },
);

function askForKey() {
  statusView.renderLocked();
  connect.keyless = false;
  const refused = key.get() !== null;
  setText(byId("key-why"), refused ? "The gateway refused this key." : "This gateway asks for its API key.");
  keyForm.dataset.refused = refused;
  keyField.setAttribute("aria-invalid", refused);
  if (!keyForm.hidden) return;
  keyForm.hidden = false;
  keyField.focus();
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
    keyField.setAttribute("aria-invalid", true);
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
