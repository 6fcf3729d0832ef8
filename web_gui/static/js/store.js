// The state of the server, as this page knows it.

// Between two looks at changes that come with every step of a drag. What is dragged itself, and pictures, do not wait.
export const SPACE_MS = 80;
const LONG_MS = 300; // only what takes longer is said to be running
const OFTEN = new Set(["params", "resolved", "gen", "shown_gen", "state"]);

const isOften = ([, path]) => path[0] === "run" || path[0] === "history" || (path[0] === "analyses" && OFTEN.has(path[2]));

export class Store extends EventTarget {
  constructor(link) {
    super();
    this.link = link;
    this.state = null;
    this.stat = null;
    this.v = 0;
    this.sent = new Map(); // analysis -> generation that was sent last
    this.waiting = new Map(); // analysis -> parameters of this animation frame
    this.drafts = new Map(); // analysis -> {params, gen}: sent, and not yet in the state
    this.you = null;
    this.since = new Map(); // analysis -> time (ms) since which it has been computed and nothing new of it was shown
    this.told = -Infinity;
    link.addEventListener("open", ({ detail }) => (this.you = detail.you));
    link.addEventListener("snapshot", ({ detail }) => this.replace(detail));
    link.addEventListener("patch", ({ detail }) => this.patch(detail));
    link.addEventListener("stat", ({ detail }) => {
      this.stat = detail;
      this.dispatchEvent(new CustomEvent("stat"));
    });
    link.addEventListener("refused", ({ detail }) => {
      this.sent.delete(detail.analysis);
      this.drafts.delete(detail.analysis);
      this.dispatchEvent(new CustomEvent("refused", { detail }));
      this.changed();
    });
  }

  replace({ v, state }) {
    this.v = v;
    this.state = state;
    this.sent.clear();
    this.drafts.clear();
    this.timed(null);
    this.changed();
  }

  patch({ v, ops }) {
    if (this.state === null) return;
    if (v !== this.v + 1) {
      this.link.socket.close(); // something was missed: come back and get everything
      return;
    }
    this.v = v;
    const before = this.state;
    this.state = apply(before, ops);
    this.timed(before);
    for (const [id, draft] of this.drafts) if (draft.gen !== null && (this.analysis(id)?.gen ?? Infinity) >= draft.gen) this.drafts.delete(id);
    if (ops.every(isOften)) this.changed(this.told + SPACE_MS - performance.now());
    else this.changed();
  }

  // Tell everybody, soon or in `ms` milliseconds.
  changed(ms = 0) {
    if (ms > 0) {
      this.later ??= setTimeout(() => ((this.later = null), this.changed()), ms);
      return;
    }
    if (this.pending) return;
    this.pending = true;
    queueMicrotask(() => {
      this.pending = false;
      this.told = performance.now();
      this.dispatchEvent(new CustomEvent("change"));
    });
  }

  // Note which analyses are being computed; what takes long is told again.
  timed(before) {
    for (const id of this.since.keys()) if (!this.state.analyses[id]) this.since.delete(id);
    for (const [id, a] of Object.entries(this.state.analyses)) {
      const old = before?.analyses[id];
      if (a.state !== "running") this.since.delete(id);
      else if (!this.since.has(id) || a.shown_gen !== old?.shown_gen) {
        this.since.set(id, performance.now());
        this.checking ??= setTimeout(() => ((this.checking = null), this.changed()), LONG_MS + 20);
      }
    }
  }

  // Whether an analysis has been computed for some time, and nothing new of it was shown.
  lasts(id) {
    return performance.now() - (this.since.get(id) ?? Infinity) > LONG_MS;
  }

  // Whether any has.
  get busy() {
    return this.state?.run.state === "running" && [...this.since.keys()].some((id) => this.lasts(id));
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
    this.drafts.set(id, { params: { ...this.drafts.get(id)?.params, ...params }, gen: null });
    this.dispatchEvent(new CustomEvent("draft", { detail: { id } }));
    const waiting = this.waiting.get(id);
    this.waiting.set(id, { ...waiting, ...params });
    if (waiting) return;
    requestAnimationFrame(() => {
      const values = this.waiting.get(id);
      this.waiting.delete(id);
      const gen = Math.max(this.analysis(id)?.gen ?? 0, this.sent.get(id) ?? 0) + 1;
      this.sent.set(id, gen);
      if (this.drafts.has(id)) this.drafts.get(id).gen = gen;
      this.link.send({ type: "set", analysis: id, params: values, gen });
    });
  }

  // Value of a parameter as the user sees it: what was just entered, what was given, or the default.
  param(id, name, fallback = null) {
    const draft = this.drafts.get(id)?.params;
    if (draft && name in draft) return draft[name];
    const given = this.analysis(id)?.params;
    return given && name in given ? given[name] : fallback;
  }

  // The same in px, for shapes on the frame.
  resolvedParam(id, name, fallback = null) {
    const draft = this.drafts.get(id)?.params;
    if (draft && name in draft && (typeof draft[name] === "number" || Array.isArray(draft[name]))) return draft[name];
    const found = this.analysis(id)?.resolved?.[name];
    return found === undefined ? this.param(id, name, fallback) : found;
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
