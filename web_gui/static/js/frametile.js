// The diffraction pattern: the frame at the cursor, the newest one, mean or maximum; shapes of the analyses over it.

import { button, select, svgEl } from "./dom.js";
import { fileStem } from "./export.js";
import { ImageTile } from "./imagetile.js";
import { short } from "./levels.js";
import { Plot } from "./plot1d.js";
import { plotActions } from "./resulttile.js";
import { Tile } from "./tile.js";

const MODE_TITLES = { at: "at the cursor", newest: "newest frame", mean: "mean", max: "maximum" };

export function makeFrameTile(app) {
  const channel = app.frameChannel();
  return (channel?.sig ?? app.store.source.sig).length === 1 ? new SpectrumTile(app) : new FrameTile(app);
}

// What the frame tile shows: mode and channel, kept with the source.
class FrameChoice {
  constructor(app, tile, changed) {
    this.app = app;
    this.changed = changed;
    const live = app.store.source.kind === "live";
    const kept = app.layout.tile("frame");
    this.mode = kept.mode && (kept.mode !== "newest" || live) ? kept.mode : "mean";
    const modes = Object.entries(MODE_TITLES).filter(([m]) => m !== "newest" || live);
    this.modes = select("Which frame", modes, this.mode, (v) => this.setMode(v));
    const channels = app.store.source.channels ?? [];
    this.channels = channels.length > 1 ? select("Detector channel", channels.map((c) => [c.name, c.name]), app.frameChannel()?.name ?? channels[0].name, (v) => app.setFrameChannel(v)) : null;
    this.modes.hidden = app.store.source.nav?.length === 0; // there is one frame
    for (const node of [this.modes, this.channels]) if (node) tile.head.insertBefore(node, tile.fit ?? tile.grow);
    const moved = () => this.cursorMoved();
    app.addEventListener("cursor", moved);
    tile.end(() => app.removeEventListener("cursor", moved));
  }

  cursorMoved() {
    if (this.app.cursor && this.mode !== "at") this.setMode("at", false);
    else this.changed();
  }

  setMode(mode, keep = true) {
    this.mode = mode;
    this.modes.value = mode;
    if (keep) this.app.layout.keep("frame", { mode });
    this.changed();
  }

  get topic() {
    return { at: "frame", newest: "frame", mean: "frame/mean", max: "frame/max" }[this.mode];
  }

  get options() {
    const channel = this.app.frameChannel()?.name;
    const nav = this.app.store.source.nav ?? [];
    const at = this.app.cursor ?? (this.app.store.source.kind === "live" ? null : nav.map(() => 0));
    return { ...(this.mode === "at" && at ? { at } : {}), ...(channel ? { channel } : {}) };
  }

  // Address of what is shown as a file.
  address(end) {
    const { at, channel } = this.options;
    const query = new URLSearchParams({ ...(at ? { at: at.join() } : {}), ...(channel ? { channel } : {}) });
    return `api/${this.topic === "frame" ? "frame" : `topics/${this.topic}`}.${end}${String(query) && `?${query}`}`;
  }

  // What can be done with the frame that is shown.
  actions(tile, image) {
    const file = (end) => this.app.fetchFile(this.address(end), `${fileStem(this.app)}_${tile.pictureName()}.${end}`);
    return [null, ["Save numbers (.npy)", () => file("npy"), "save"], image && ["Save as TIFF", () => file("tif"), "save"]].filter((x) => x !== false);
  }

  get words() {
    if (this.mode !== "at") return "";
    return this.app.cursor ? `at ${this.app.cursor.join(", ")}` : "at the first position";
  }
}

class FrameTile extends ImageTile {
  constructor(app) {
    super(app, "frame", "Diffraction", { map: "gray", scale: "log" });
    this.choice = new FrameChoice(app, this, () => this.update());
    this.centre = button("Auto centre", () => app.autoCentre(), { symbol: "centre", title: "Find the centre of the bright disk and use it for the selected analysis" });
    this.centre.setAttribute("aria-label", "Auto centre");
    this.centre.classList.add("shrinks");
    this.head.insertBefore(this.centre, this.fit);
    this.records = svgEl("g", { class: "records" });
    this.view.layer.append(this.records);
    this.view.marks.add(() => this.drawRecords());
    app.shapes.attach(this, null);
    app.corrections.attach(this);
    this.end(() => this.stopRecords?.());
    this.update();
  }

  update() {
    const source = this.app.store.source;
    const channel = this.app.frameChannel();
    this.title(source.sig?.length === 2 && source.kind ? "Diffraction" : "Frame", this.choice.words);
    const sig = channel?.sig ?? source.sig;
    const first = !channel || channel.name === source.channels?.[0]?.name;
    this.axes = first ? (source.axes ?? []).slice(-2) : [];
    this.grid(sig.slice(-2), this.axes);
    this.follow(this.choice.topic, this.choice.options);
    const a = this.app.store.analysis(this.app.selected);
    this.centre.hidden = !a || !this.app.handleOf(a);
    this.centre.disabled = !this.app.store.mayChange;
    this.followRecords(a);
    this.app.shapes.update();
  }

  // Peaks and events of the selected analysis, drawn where they were found.
  followRecords(a) {
    const output = this.choice.mode === "at" ? a?.outputs.find((o) => o.display === "ragged" && o.fields?.includes("y") && o.fields.includes("x")) : null;
    const key = output ? `${output.topic}|${this.choice.options.at}` : null;
    if (key === this.recordsKey) return;
    this.recordsKey = key;
    this.stopRecords?.();
    this.stopRecords = null;
    this.points = [];
    this.drawRecords();
    if (!output) return;
    const [iy, ix] = [output.fields.indexOf("y"), output.fields.indexOf("x")];
    this.stopRecords = this.app.link.subscribe(output.topic, (array) => {
      const [n, c] = array.shape.length === 2 ? array.shape : [0, 1];
      this.points = Array.from({ length: Math.min(n, 2000) }, (_, i) => [array.values[i * c + iy], array.values[i * c + ix]]);
      this.drawRecords();
    }, { at: this.choice.options.at, exact: true });
  }

  drawRecords() {
    const points = this.points ?? [];
    while (this.records.children.length > points.length) this.records.lastChild.remove();
    while (this.records.children.length < points.length) this.records.append(svgEl("circle", { r: 6 }));
    points.forEach(([y, x], i) => {
      const [sy, sx] = this.view.toScreen(y, x);
      this.records.children[i].setAttribute("cx", sx);
      this.records.children[i].setAttribute("cy", sy);
    });
  }

  extraNotes() {
    const list = [];
    const { sampled } = this.app.store.source;
    if (sampled && ["mean", "max"].includes(this.choice?.mode)) list.push([`of ${sampled} frames`, "of frames that are spread over the scan, not of all"]);
    if (this.choice?.mode === "at" && this.points?.length) list.push([`${this.points.length} peaks`, "records of the selected analysis at this position"]);
    return list;
  }

  actions() {
    return [...super.actions(), ...this.choice.actions(this, true), null, ["Mean", () => this.choice.setMode("mean")], ["Maximum", () => this.choice.setMode("max")], ["Frame at the cursor", () => this.choice.setMode("at")], null, ...this.app.corrections.actions()];
  }
}

// Frames of one axis: a spectrum.
class SpectrumTile extends Tile {
  constructor(app) {
    super(app, "frame");
    this.plot = new Plot("Spectrum", { hover: (i, v) => this.hover(i, v), double: () => this.toggleFull() });
    this.body.append(this.plot.root);
    this.choice = new FrameChoice(app, this, () => this.update());
    this.log = button("log", () => ((this.plot.log = !this.plot.log), this.log.setAttribute("aria-pressed", this.plot.log), this.plot.draw()), { kind: "toggle", title: "Logarithmic values" });
    this.head.insertBefore(this.log, this.grow);
    this.end(() => (this.unsubscribe?.(), this.plot.close()));
    this.update();
  }

  update() {
    this.title("Spectrum", this.choice.words);
    const { topic, options } = this.choice;
    const key = JSON.stringify([topic, options]);
    if (key === this.topicKey) return;
    this.topicKey = key;
    this.unsubscribe?.();
    const axes = this.app.store.source.axes ?? [];
    const axis = axes.at(-1);
    this.unsubscribe = this.app.link.subscribe(topic, (array) => this.plot.show([Float64Array.from(array.values)], axis), { px: [4096, 1], ...options });
  }

  hover(i, values) {
    const axis = this.app.store.source.axes?.at(-1);
    this.readout.textContent = i === null ? "" : `${axis?.name || "channel"} ${short(axis ? axis.offset + i * axis.step : i)} ${axis?.unit ?? ""}   ${values.map(short).join(", ")}`;
  }

  actions() {
    return [["Full size", () => this.toggleFull(), "full"], ...plotActions(this), ...this.choice.actions(this, false)];
  }
}

