// Which tiles there are, and how they share the room.

import { button, el } from "./dom.js";
import { makeFrameTile } from "./frametile.js";
import { historyList } from "./history.js";
import { presetsFor } from "./presets.js";
import { isShown, makeResultTile, resultKey } from "./resulttile.js";

// Beside a source without analyses: what to begin with.
class FirstSteps {
  constructor(app) {
    const choices = presetsFor(app).map((p) => el("button", { type: "button", class: "step", on: { click: () => p.add() } }, el("strong", { text: p.title }), el("span", { class: "dim", text: p.help })));
    this.root = el(
      "section",
      { class: "tile steps", "aria-label": "First analysis" },
      el("h3", { text: choices.length ? "What would you like to see?" : "Add an analysis" }),
      choices,
      button("Other analyses…", () => document.querySelector("#analyses .button.wide").click(), { symbol: "add" }),
    );
  }

  update() {}

  close() {
    this.root.remove();
  }
}

const LEAST_WIDTH = 330;
const LEAST_HEIGHT = 320;
const BARS = 96; // px of a tile that are not image

export class Grid {
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.tiles = new Map();
    new ResizeObserver(() => ((this.size = null), this.arrange())).observe(root);
  }

  update() {
    const { app } = this;
    const source = app.store.source;
    const wanted = source?.sig ? this.wanted(source) : [];
    this.welcome(source);
    const keys = new Set(wanted.map((w) => w.key));
    for (const [key, tile] of this.tiles) {
      if (keys.has(key)) continue;
      tile.close();
      this.tiles.delete(key);
    }
    let previous = null;
    for (const { key, make } of wanted) {
      let tile = this.tiles.get(key);
      if (tile) tile.update();
      else {
        tile = make();
        this.tiles.set(key, tile);
      }
      const after = previous ? previous.nextSibling : this.root.firstChild;
      if (tile.root !== after) this.root.insertBefore(tile.root, after);
      previous = tile.root;
    }
    this.arrange();
  }

  wanted(source) {
    const { app } = this;
    const { state } = app.store;
    const channel = app.frameChannel();
    const list = [];
    const sig = channel?.sig ?? source.sig;
    if (sig.length === 1 || sig.length === 2) list.push({ key: `frame|${source.id}|${sig}|${source.nav}|${channel?.name}`, make: () => makeFrameTile(app) });
    for (const id of state.order) {
      const a = state.analyses[id];
      for (const o of a?.outputs ?? []) {
        if (!isShown(o) || !app.layout.isOutputShown(a, o.name)) continue;
        const describe = () => {
          const analysis = app.store.analysis(id);
          const output = analysis?.outputs.find((x) => x.name === o.name) ?? o;
          return { analysis: analysis ?? a, output, topic: output.topic, title: (analysis ?? a).title, settings: `${id}/${o.name}`, label: `${a.title}, ${o.title}` };
        };
        list.push({ key: `${resultKey(id, o)}|${o.planes}|${source.id}`, make: () => makeResultTile(app, describe) });
      }
    }
    if (!state.order.length && app.store.mayChange && app.udfList.size) list.push({ key: `first|${source.id}`, make: () => new FirstSteps(app) });
    for (const pin of Object.values(state.pins)) {
      const describe = () => ({ analysis: null, output: pin.output, topic: pin.topic, title: pin.title, settings: `pin/${pin.id}`, label: `Pinned: ${pin.title}`, past: () => app.do("unpin", { id: pin.id }) });
      list.push({ key: `pin|${pin.id}`, make: () => makeResultTile(app, describe) });
    }
    for (const [topic, past] of app.past) {
      const describe = () => ({ analysis: null, output: past.output, topic, title: past.title, settings: topic, label: `Past run: ${past.title}`, past: () => (app.past.delete(topic), app.refresh()) });
      if (past.output && isShown(past.output)) list.push({ key: `past|${topic}`, make: () => makeResultTile(app, describe) });
    }
    return list;
  }

  // Columns such that images are as large as can be; rows scroll where they would get too small.
  arrange() {
    const n = this.tiles.size;
    if (!n) return;
    this.size ??= [this.root.clientWidth, this.root.clientHeight]; // asking makes the browser lay everything out: not at every change of the state
    const key = `${n}|${this.size}`;
    if (key === this.arranged) return;
    this.arranged = key;
    const gap = 8;
    const [w, h] = this.size.map((s) => s - gap);
    let best = { columns: 1, size: 0 };
    for (let columns = 1; columns <= Math.min(n, Math.max(1, Math.floor(w / LEAST_WIDTH))); columns++) {
      const rows = Math.ceil(n / columns);
      const height = Math.max(LEAST_HEIGHT, h / rows - gap);
      const size = Math.min(w / columns - gap, height - BARS);
      const fits = rows * (height + gap) <= h + 1;
      const worth = size * (fits ? 1 : 0.8);
      if (worth >= best.size) best = { columns, size: worth, rows: `${height}px` };
    }
    this.root.style.gridTemplateColumns = `repeat(${best.columns}, minmax(0, 1fr))`;
    this.root.style.gridAutoRows = best.rows;
  }

  // What is shown while nothing is open, or when opening failed.
  welcome(source) {
    const { app } = this;
    const live = app.store.state?.live;
    const key = source?.sig ? "" : JSON.stringify([source?.state, source?.error, source?.name, live?.state, app.store.state.history.map((h) => h.id)]);
    if (key === this.welcomed) return;
    this.welcomed = key;
    this.panel?.remove();
    this.panel = null;
    if (source?.sig) return;
    const head = [];
    if (source?.state === "opening") head.push(el("h1", { text: `Opening ${source.name} …` }), el("div", { class: "spinner" }));
    else if (source?.state === "failed") head.push(el("h1", { text: `${source.name} was not opened` }), el("p", { class: "failure", role: "alert", text: String(source.error?.message ?? source.error ?? "") }));
    else if (source?.state === "waiting" || live) head.push(el("h1", { text: "Waiting for the next acquisition" }), el("p", { class: "dim", text: `${live?.url ?? source?.uri ?? ""} · ${live?.state ?? ""}. Images appear as soon as the detector sends.` }), el("div", { class: "spinner" }));
    else head.push(el("h1", { text: "Open a measurement" }), el("p", { class: "dim", text: "See the images at once, drag a detector over the diffraction pattern, and watch the map follow." }));
    this.panel = el(
      "div",
      { class: "welcome" },
      head,
      el("div", { class: "row" }, button("Open a file…", () => app.openDialog(), { symbol: "folder", kind: live ? "" : "primary" }), button("Connect a detector…", () => app.liveDialog(), { symbol: "detector" })),
      app.store.state.history.length ? el("h2", { text: "Recent" }) : null,
      app.store.state.history.length ? historyList(app, 6) : null,
    );
    this.root.append(this.panel);
  }
}
