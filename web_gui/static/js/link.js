// The WebSocket: hello, subscriptions, commands; connects again by itself.

import { TopicArray, unpack } from "./wire.js";

const PROTO = 1;
const PAUSES = [500, 1000, 2000, 3500, 5000];

// A name that nobody else has.
export function randomName() {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

export class Link extends EventTarget {
  constructor(address = null) {
    super();
    this.address = address;
    this.topics = new Map(); // topic -> {array, options, listeners, dirty: not drawn yet, fresh: drawn since the last frame of the screen}
    this.replies = new Map();
    this.next = 1;
    this.tries = 0;
    this.open = false;
    this.stopped = false;
    this.painted = { n: 0, ages: [] };
    this.asleep = false;
  }

  // A page that nobody sees asks for nothing.
  sleep(asleep) {
    if (asleep === this.asleep) return;
    this.asleep = asleep;
    this.wanted(asleep ? "unsub" : "sub");
  }

  wanted(type) {
    for (const [topic, held] of this.topics) this.send({ type, topic, ...(type === "sub" ? held.options : {}) });
  }

  connect() {
    this.client ??= sessionStorage.getItem("libstream-client") ?? randomName();
    sessionStorage.setItem("libstream-client", this.client);
    this.socket = new WebSocket(this.address ?? new URL("ws", location.href).href.replace(/^http/, "ws"));
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.send({ type: "hello", proto: PROTO, client: this.client });
    this.socket.onmessage = (event) => (typeof event.data === "string" ? this.text(JSON.parse(event.data)) : this.binary(event.data));
    this.socket.onclose = () => this.closed();
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  text(message) {
    if (message.type === "welcome") {
      this.tries = 0;
      this.open = true;
      this.skew = message.now - Date.now();
      if (!this.asleep) this.wanted("sub");
      this.tell("open", message);
    } else if (message.type === "ping") {
      this.send({ type: "seen", t: message.t });
    } else if (message.type === "reply") {
      const waiting = this.replies.get(message.id);
      this.replies.delete(message.id);
      if (message.ok) waiting?.resolve(message.result);
      else waiting?.reject(Object.assign(new Error(message.error.message), { kind: message.error.kind }));
    } else if (message.type === "bye" && message.reason === "proto") {
      this.stopped = true;
      this.tell("outdated", message);
    } else {
      this.tell(message.type, message);
    }
  }

  binary(buffer) {
    const message = unpack(buffer);
    const held = this.topics.get(message.header.topic);
    if (!held) return;
    held.array.take(message);
    held.owed = message.header;
    held.dirty = true;
    if (held.fresh) return; // of two pictures in one frame of the screen nobody sees the first
    // at once, not with the next frame of the screen: it shows the same, and the server knows earlier that there is room for more
    held.fresh = true;
    requestAnimationFrame(() => {
      held.fresh = false;
      if (held.dirty) this.paint(message.header.topic, held);
    });
    this.paint(message.header.topic, held);
  }

  // Draw, and only then ask for more: a busy browser is sent less.
  paint(topic, held) {
    held.dirty = false;
    if (this.topics.get(topic) !== held) return;
    for (const listener of [...held.listeners]) listener(held.array);
    const header = held.owed;
    if (header) {
      held.owed = null;
      this.send({ type: "ack", topic, v: header.v });
      this.painted.n += 1;
      // what was there before, and its exact repetition, is no measure of how late new data are
      const news = header.ts > (held.newest ?? held.since + (this.skew ?? 0));
      held.newest = Math.max(held.newest ?? 0, header.ts ?? 0);
      if (news) {
        this.painted.ages.push(Date.now() + (this.skew ?? 0) - header.ts);
        if (this.painted.ages.length > 500) this.painted.ages.shift();
      }
    }
  }

  closed() {
    const was = this.open;
    this.open = false;
    for (const waiting of this.replies.values()) waiting.reject(new Error("the connection to the server was lost"));
    this.replies.clear();
    for (const held of this.topics.values()) held.owed = null;
    if (was) this.tell("lost", {});
    if (this.stopped) return;
    setTimeout(() => this.connect(), PAUSES[Math.min(this.tries, PAUSES.length - 1)]);
    this.tries += 1;
    this.tell("trying", { tries: this.tries });
  }

  // Listen to a topic: call(array) whenever it was changed; the returned function ends it.
  subscribe(topic, listener, options = {}) {
    let held = this.topics.get(topic);
    if (!held) {
      held = { array: new TopicArray(), options, listeners: new Set(), dirty: false, fresh: false, owed: null, since: Date.now() };
      this.topics.set(topic, held);
      if (!this.asleep) this.send({ type: "sub", topic, ...options });
    } else {
      this.adjust(topic, options);
      if (held.array.values !== null) requestAnimationFrame(() => held.listeners.has(listener) && listener(held.array));
    }
    held.listeners.add(listener);
    return () => {
      held.listeners.delete(listener);
      if (held.listeners.size === 0 && this.topics.get(topic) === held) {
        this.topics.delete(topic);
        this.send({ type: "unsub", topic });
      }
    };
  }

  // Change px, at, channel of a subscription.
  adjust(topic, options) {
    const held = this.topics.get(topic);
    if (!held) return;
    const next = { ...held.options, ...options };
    if (JSON.stringify(next) === JSON.stringify(held.options)) return;
    held.options = next;
    if (!this.asleep) this.send({ type: "sub", topic, ...next });
  }

  array(topic) {
    return this.topics.get(topic)?.array ?? null;
  }

  command(name, args = {}) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      if (!this.open) return reject(new Error("there is no connection to the server just now"));
      this.replies.set(id, { resolve, reject });
      this.send({ type: "cmd", id, name, args });
    });
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
