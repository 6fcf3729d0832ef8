// The connection to a kernel: messages and arrays as those of the page's server, over the model of a widget.

import { Link, randomName } from "../js/link.js";

const PATIENCE = 2500; // ms without an answer, after which the user is told why nothing moves

export class KernelLink extends Link {
  constructor(model) {
    super("kernel");
    this.model = model;
    this.client = randomName();
    this.socket = { close: () => this.connect() }; // a patch was missed: come back and get everything
    this.heard = (message, buffers) => this.message(message, buffers ?? []);
    this.renewed = () => this.kept();
    model.on("msg:custom", this.heard);
    model.on("change:arrays", this.renewed);
  }

  connect() {
    this.open = false;
    this.send({ type: "hello" });
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.open || this.tell("deaf", {}), PATIENCE);
  }

  send(message) {
    if (!this.left) this.model.send({ ...message, client: this.client });
  }

  message(message, buffers) {
    if (this.left || !message?.type || (message.to && message.to !== this.client)) return;
    if (message.type === "array") this.binary(bytesOf(buffers[0]));
    else if (message.type === "again") this.connect();
    else if (message.type === "bye") this.tell("ended", {});
    else this.text(message);
  }

  // What is kept with the notebook: shown until, and whenever, no kernel answers.
  kept() {
    const kept = this.model.get("kept");
    if (this.left || this.open || !kept?.state) return;
    this.tell("snapshot", { v: -1, state: kept.state });
    this.tell("stat", kept.stat);
    this.pictures();
  }

  pictures() {
    if (this.open) return;
    for (const part of this.model.get("arrays") ?? []) this.binary(bytesOf(part));
  }

  // Nobody answers: what was kept is all that there is.
  subscribe(topic, listener, options = {}) {
    const end = super.subscribe(topic, listener, options);
    clearTimeout(this.later);
    if (!this.open) this.later = setTimeout(() => this.pictures(), 0);
    return end;
  }

  leave() {
    this.send({ type: "bye" });
    this.left = true;
    clearTimeout(this.waiting);
    clearTimeout(this.later);
    this.model.off("msg:custom", this.heard);
    this.model.off("change:arrays", this.renewed);
  }
}

// The bytes of one part of a message, in a buffer of their own that starts with them.
function bytesOf(part) {
  if (part instanceof ArrayBuffer) return part;
  return part.buffer.slice(part.byteOffset, part.byteOffset + part.byteLength);
}
