// The state of the server, as this page knows it.

export class Store extends EventTarget {
  constructor(link) {
    super();
    this.link = link;
    this.state = null;
    this.stat = null;
    this.v = 0;
    this.sent = new Map(); // analysis -> generation that was sent last
    this.waiting = new Map(); // analysis -> parameters of this animation frame
    link.addEventListener("snapshot", ({ detail }) => this.replace(detail));
    link.addEventListener("patch", ({ detail }) => this.patch(detail));
    link.addEventListener("stat", ({ detail }) => {
      this.stat = detail;
      this.dispatchEvent(new CustomEvent("stat"));
    });
    link.addEventListener("refused", ({ detail }) => {
      this.sent.delete(detail.analysis);
      this.dispatchEvent(new CustomEvent("refused", { detail }));
      this.changed();
    });
  }

  replace({ v, state }) {
    this.v = v;
    this.state = state;
    this.sent.clear();
    this.changed();
  }

  patch({ v, ops }) {
    if (this.state === null) return;
    if (v !== this.v + 1) {
      this.link.socket.close(); // something was missed: come back and get everything
      return;
    }
    this.v = v;
    this.state = apply(this.state, ops);
    this.changed();
  }

  changed() {
    if (this.pending) return;
    this.pending = true;
    queueMicrotask(() => {
      this.pending = false;
      this.dispatchEvent(new CustomEvent("change"));
    });
  }

  get source() {
    return this.state?.source ?? null;
  }

  analysis(id) {
    return this.state?.analyses[id] ?? null;
  }

  // Whether this page may change things.
  get mayChange() {
    const held = this.state?.control;
    return !held || held.viewer === this.you;
  }

  // New parameters of an analysis; at most one message a frame, the newest wins.
  set(id, params) {
    const waiting = this.waiting.get(id);
    this.waiting.set(id, { ...waiting, ...params });
    if (waiting) return;
    requestAnimationFrame(() => {
      const values = this.waiting.get(id);
      this.waiting.delete(id);
      const gen = Math.max(this.analysis(id)?.gen ?? 0, this.sent.get(id) ?? 0) + 1;
      this.sent.set(id, gen);
      this.link.send({ type: "set", analysis: id, params: values, gen });
    });
  }
}

// A new state with these changes; what does not change is shared with the old one.
export function apply(state, ops) {
  let out = state;
  for (const [kind, path, value] of ops) out = changed(out, path, 0, kind, value);
  return out;
}

function changed(node, path, i, kind, value) {
  if (i === path.length) return value;
  const copy = Array.isArray(node) ? [...node] : { ...node };
  if (kind === "del" && i === path.length - 1) {
    if (Array.isArray(copy)) copy.splice(path[i], 1);
    else delete copy[path[i]];
  } else {
    copy[path[i]] = changed(node?.[path[i]], path, i + 1, kind, value);
  }
  return copy;
}
