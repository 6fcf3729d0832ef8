// A view of a run in a cell of a notebook: the tiles of the page, in a shadow tree, so that styles reach neither in nor out.

import { el, button } from "../js/dom.js";
import { FrameShapes } from "../js/frameshapes.js";
import { makeFrameTile } from "../js/frametile.js";
import { Layout } from "../js/layout.js";
import { isShown, makeResultTile, resultKey } from "../js/resulttile.js";
import { StatusBar } from "../js/statusbar.js";
import { Store } from "../js/store.js";
import { KernelLink } from "./kernellink.js";

const NOT_HERE = /^(Pin|Save numbers|Save as TIFF|Region|Leave out)/; // need the page's server
const NO_PART = { attach() {}, actions: () => [], update() {} };

class NotebookApp extends EventTarget {
  constructor(model, root) {
    super();
    this.body = root;
    this.alarm = el("div", { class: "hidden-text", role: "alert", "aria-live": "assertive" });
    this.note = el("div", { class: "note", role: "status" });
    this.head = el("header", { class: "notebook-head" });
    this.grid = el("div", { class: "grid" });
    const footer = el("footer", { class: "status", "aria-label": "Progress" });
    root.append(this.head, this.note, this.grid, footer, this.alarm);
    this.note.hidden = true;
    this.grid.style.setProperty("--tile", `${model.get("height") || 360}px`);
    this.link = new KernelLink(model);
    this.store = new Store(this.link);
    this.layout = new Layout(this);
    this.selected = null;
    this.cursor = null;
    this.channel = null;
    this.tiles = new Map();
    this.regions = NO_PART;
    this.corrections = NO_PART;
    this.do = this.do.bind(this);
    this.shapes = new FrameShapes(this);
    this.status = new StatusBar(this, footer);
    this.status.link.hidden = true;
    this.stop = button("Stop", () => this.do("cancel"), { symbol: "stop", kind: "plain" });
    footer.append(this.stop);
    this.store.addEventListener("change", () => this.refresh());
    this.store.addEventListener("refused", ({ detail }) => this.say(detail.error.message));
    this.layout.addEventListener("replaced", () => this.refresh());
    this.link.addEventListener("open", () => this.say(""));
    this.link.addEventListener("deaf", () => this.say("The kernel is busy with a cell, or gone. Pictures come all the same; handles work when it answers.", true));
    this.link.addEventListener("ended", () => this.say("This view was closed; the picture is its last one.", true));
    this.link.kept();
    this.link.connect();
  }

  // -- what the tiles ask for ------------------------------------------------------

  refresh() {
    const { state, source } = this.store;
    if (!state || !source) return;
    if (source.id !== this.sourceId) {
      this.sourceId = source.id;
      [this.cursor, this.channel] = [null, null];
    }
    this.layout.update();
    if (!state.analyses[this.selected]) this.selected = state.order[0] ?? null;
    this.drawHead();
    this.arrange();
    this.shapes.update();
    this.status.update();
    this.stop.hidden = !this.store.busy;
  }

  select(id) {
    this.selected = id;
    this.refresh();
  }

  setCursor(at) {
    if (String(at) === String(this.cursor)) return;
    this.cursor = at;
    this.dispatchEvent(new CustomEvent("cursor"));
  }

  handleOf(a) {
    const kind = this.store.state.kinds?.[a.id];
    const fallback = (name) => kind.fields.find((f) => f.name === name)?.default ?? null;
    return kind?.handles.find((h) => Object.entries(h.when).every(([name, value]) => this.store.param(a.id, name, fallback(name)) === value)) ?? null;
  }

  frameChannel() {
    const channels = this.store.source?.channels ?? [];
    const wanted = this.channel ?? this.store.analysis(this.selected)?.channel;
    return channels.length > 1 ? channels.find((c) => c.name === wanted) ?? channels[0] : null;
  }

  setFrameChannel(name) {
    this.channel = name;
    this.refresh();
  }

  async autoCentre() {
    const a = this.store.analysis(this.selected);
    const handle = a && this.handleOf(a);
    const found = handle && (await this.do("auto_centre", a.channel ? { channel: a.channel } : {}));
    if (!found) return;
    this.say(found.good ? "" : "No bright disk stands out in the mean frame. Drag the centre by hand.");
    if (found.good) this.store.set(a.id, { [handle.centre]: found.centre });
  }

  offered(actions) {
    const left = actions.filter((a) => a === null || !NOT_HERE.test(a[0]));
    return left.filter((a, i) => a !== null || (i > 0 && i < left.length - 1 && left[i + 1] !== null));
  }

  async do(name, args = {}) {
    try {
      return (await this.link.command(name, args)) ?? null;
    } catch (error) {
      this.say(error.message);
      return undefined;
    }
  }

  // A line over the tiles; what was wrong once goes away by itself.
  say(text, lasts = false) {
    this.note.textContent = text;
    this.note.hidden = !text;
    clearTimeout(this.silence);
    if (text && !lasts) this.silence = setTimeout(() => this.say(""), 10000);
  }

  mayChangeOrSay() {
    return true;
  }

  // -- what is drawn ---------------------------------------------------------------

  drawHead() {
    const { state, source } = this.store;
    const shown = (a, o) => isShown(o) && this.layout.isOutputShown(a, o.name);
    const key = JSON.stringify([source.name, source.id, this.selected, state.order.map((id) => [id, state.analyses[id].title, state.analyses[id].state, state.analyses[id].error, state.analyses[id].outputs.map((o) => [o.title, shown(state.analyses[id], o)])])]);
    if (key === this.headKey) return;
    this.headKey = key;
    const shape = [source.nav, source.sig].map((n) => n.join(" × ")).filter(Boolean).join(" positions, frames of ");
    this.head.replaceChildren(el("span", { class: "dim source-name", text: `${source.name === "memory:" ? "array" : source.name} · ${shape}${source.dtype ? ` · ${source.dtype}` : ""}`, title: source.uri }));
    for (const id of state.order) {
      const a = state.analyses[id];
      const outputs = a.outputs.filter(isShown);
      const choose = el("button", { type: "button", class: "chip name", "aria-pressed": String(id === this.selected), title: "Show its handles on the diffraction pattern", on: { click: () => this.select(id) } }, el("span", { class: `dot colour${a.colour % 8}` }), a.title);
      const chips = outputs.length < 2 ? [] : outputs.map((o) => el("button", { type: "button", class: "chip", "aria-pressed": String(shown(a, o)), text: o.title, title: `Show or hide ${o.title}`, on: { click: () => this.layout.showOutput(id, o.name, !shown(a, o)) } }));
      this.head.append(el("span", { class: "chips", role: "group", "aria-label": a.title }, choose, chips, a.state === "failed" ? el("span", { class: "failure", text: a.error?.message ?? "failed", title: a.error?.traceback ?? "" }) : null));
    }
  }

  wanted() {
    const { state, source } = this.store;
    const list = [];
    const channel = this.frameChannel();
    const sig = channel?.sig ?? source.sig;
    if (source.frames && (sig.length === 1 || sig.length === 2)) list.push([`frame|${source.id}|${sig}|${channel?.name}`, () => makeFrameTile(this)]);
    for (const id of state.order) {
      const a = state.analyses[id];
      for (const o of a.outputs) {
        if (!isShown(o) || !this.layout.isOutputShown(a, o.name)) continue;
        const describe = () => {
          const analysis = this.store.analysis(id) ?? a;
          const output = analysis.outputs.find((x) => x.name === o.name) ?? o;
          return { analysis, output, topic: output.topic, title: analysis.title, settings: `${id}/${o.name}`, label: `${a.title}, ${o.title}` };
        };
        list.push([`${resultKey(id, o)}|${o.planes}|${source.id}`, () => makeResultTile(this, describe)]);
      }
    }
    return list;
  }

  arrange() {
    const wanted = this.wanted();
    const keys = new Set(wanted.map(([key]) => key));
    for (const [key, tile] of this.tiles) if (!keys.has(key)) (tile.close(), this.tiles.delete(key));
    wanted.forEach(([key, make], i) => {
      let tile = this.tiles.get(key);
      if (tile) tile.update();
      else this.tiles.set(key, (tile = make()));
      if (this.grid.children[i] !== tile.root) this.grid.insertBefore(tile.root, this.grid.children[i] ?? null);
    });
    this.grid.dataset.tiles = Math.min(wanted.length, 3);
  }

  close() {
    clearTimeout(this.silence);
    for (const tile of this.tiles.values()) tile.close();
    this.tiles.clear();
    this.link.leave();
  }
}

// Whether the notebook is light: what it says itself, else the colour that is behind the cell.
function isLight(node) {
  const said = document.body.dataset.jpThemeLight ?? { "vscode-light": "true", "vscode-dark": "false" }[document.body.dataset.vscodeThemeKind];
  if (said !== undefined) return said === "true";
  for (let at = node; at instanceof Element; at = at.parentElement ?? at.getRootNode().host) {
    const [r, g, b, a = 1] = getComputedStyle(at).backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    if (a > 0.5) return 0.3 * r + 0.59 * g + 0.11 * b > 128;
  }
  return !matchMedia("(prefers-color-scheme: dark)").matches;
}

function followNotebook(host) {
  const look = () => {
    const theme = isLight(host) ? "light" : "dark";
    if (host.dataset.theme === theme) return;
    host.dataset.theme = theme;
    dispatchEvent(new Event("libstream-theme"));
  };
  const observer = new MutationObserver(look);
  for (const node of [document.body, document.documentElement]) observer.observe(node, { attributes: true });
  requestAnimationFrame(look);
  look();
  return () => observer.disconnect();
}

function render({ model, el: place }) {
  const host = document.createElement("div");
  host.dataset.lmSuppressShortcuts = "true"; // keys that are typed here are no commands of JupyterLab
  const style = el("style", { text: LIBSTREAM_CSS });
  const root = el("div", { class: "libstream" });
  host.attachShadow({ mode: "open" }).append(style, root);
  place.append(host);
  // the wheel scrolls the notebook, until an image was clicked or with Ctrl
  root.addEventListener("wheel", (e) => e.ctrlKey || e.metaKey || e.target.closest(".stage:focus, .stage:focus-within") || e.stopPropagation(), { capture: true, passive: true });
  const stopFollowing = followNotebook(host);
  const app = new NotebookApp(model, root);
  host.libstream = app;
  const seen = new IntersectionObserver(([entry]) => app.link.sleep(document.hidden || !entry.isIntersecting));
  const hidden = () => app.link.sleep(document.hidden);
  seen.observe(host);
  document.addEventListener("visibilitychange", hidden);
  return () => {
    seen.disconnect();
    stopFollowing();
    document.removeEventListener("visibilitychange", hidden);
    app.close();
    host.remove();
  };
}

export default { render };
