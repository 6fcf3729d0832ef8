// One output of one analysis: image, vectors, complex numbers, lines, a number, or records.

import { axisValue, componentNames, isCalibrated } from "./axes.js";
import { button, el, put, svgEl } from "./dom.js";
import { ImageTile, bigNumber } from "./imagetile.js";
import { short } from "./levels.js";
import { Plot } from "./plot1d.js";
import { copyPicture, fileStem, savePicture } from "./export.js";
import { Tile } from "./tile.js";

const FEW = 4;
const IMAGES = new Set(["image", "vector", "complex"]);

// The key changes where another kind of tile is needed.
export function resultKey(id, output) {
  return `${id}/${output.name}/${output.display}/${output.kind}`;
}

export function isShown(output) {
  return output.display !== "none";
}

export function makeResultTile(app, describe) {
  const { output } = describe();
  const ragged = output.display === "ragged";
  if (IMAGES.has(output.display) || (ragged && (output.axes?.length ?? 2) === 2)) return new ResultImage(app, describe);
  return new ResultPlot(app, describe);
}

export function plotActions(tile) {
  if (!tile.plot?.size) return [];
  return [["Copy plot", () => copyPicture(tile), "copy"], ["Save plot as PNG", () => savePicture(tile), "save"]];
}

function resultActions(tile, describe) {
  const { analysis, output, topic, past } = describe();
  const { app } = tile;
  const title = `${tile.heading.textContent}${tile.sub.textContent ? ` · ${tile.sub.textContent}` : ""}`;
  const stem = fileStem(app);
  // a TIFF is what is seen: one plane of a stack; numbers are all of it
  const plane = tile.planes ? `?plane=${tile.planes.at}` : "";
  const file = (end) => app.fetchFile(`api/results/${encodeURIComponent(analysis.id)}/${encodeURIComponent(output.name)}.${end}${end === "tif" ? plane : ""}`, `${stem}_${analysis.id}_${output.name}.${end}`);
  const kept = (end) => app.fetchFile(`api/topics/${encodeURIComponent(tile.topic ?? topic)}.${end}`, `${stem}_${tile.pictureName()}.${end}`);
  const image = output.display === "image";
  return [
    null,
    !past && ["Pin for comparison", () => app.do("pin", { topic: tile.topic ?? topic, title }), "pin"],
    analysis && ["Save numbers (.npy)", () => file("npy"), "save"],
    analysis && image && ["Save as TIFF", () => file("tif"), "save"],
    past && ["Save numbers (.npy)", () => kept("npy"), "save"],
    past && image && ["Save as TIFF", () => kept("tif"), "save"],
    analysis && ["Hide this view", () => app.layout.showOutput(analysis.id, output.name, false), "eye"],
    past && ["Take away", () => past(), "close"],
  ].filter((x) => x !== false && x !== undefined);
}

// A slider over the planes of a stack.
class PlaneSlider {
  constructor(output, changed) {
    this.at = 0;
    this.text = el("output", { class: "readout" });
    this.input = el("input", { type: "range", min: 0, max: output.planes - 1, value: 0, "aria-label": `Plane along ${(output.plane_axes ?? []).map((a) => a.name).join(", ")}`, on: { input: () => this.set(Number(this.input.value), changed) } });
    this.axes = output.plane_axes ?? [];
    this.root = el("label", { class: "planes" }, el("span", { text: this.axes.map((a) => a.name).join(", ") || "plane" }), this.input, this.text);
    this.show();
  }

  set(i, changed) {
    this.at = i;
    this.show();
    changed();
  }

  put(indices) {
    this.at = indices.reduce((flat, i, k) => flat * this.axes[k].size + Math.max(0, Math.min(this.axes[k].size - 1, i)), 0);
    this.input.value = this.at;
    this.show();
  }

  // Indices along each of the axes of the planes.
  get indices() {
    let rest = this.at;
    return this.axes.map((a) => a.size).reduceRight((out, n) => {
      out.unshift(rest % n);
      rest = Math.floor(rest / n);
      return out;
    }, []);
  }

  show() {
    this.text.textContent = this.indices.map((i, k) => (isCalibrated(this.axes[k]) ? `${i}: ${short(axisValue(this.axes[k], i))} ${this.axes[k].unit}` : String(i))).join(", ") || String(this.at);
  }
}

class ResultImage extends ImageTile {
  constructor(app, describe) {
    const { output, label, settings } = describe();
    const scan = output.kind === "nav" || output.kind === "ragged";
    super(app, settings, label, {
      display: output.display === "ragged" ? "image" : output.display,
      map: scan ? "viridis" : "gray",
      scale: output.kind === "sig" ? "log" : "linear",
      calls: scan ? { click: (p) => this.pick(p), scrub: (p, phase) => phase !== "up" && this.pick(p), step: (d, n) => this.stepCursor(d, n) } : {},
    });
    this.describe = describe;
    this.scan = scan;
    if (output.planes) {
      const ofScan = scan && !output.plane_last && Boolean(output.plane_axes);
      this.planes = new PlaneSlider(output, () => (ofScan ? app.setPlane(this.planes.indices) : this.update()));
      this.foot.prepend(this.planes.root);
      if (ofScan) {
        const moved = () => app.plane && (this.planes.put(app.plane), this.update());
        app.addEventListener("plane", moved);
        this.end(() => app.removeEventListener("plane", moved));
        if (app.plane) this.planes.put(app.plane);
      }
    }
    if (scan) {
      this.cross = svgEl("g", { class: "cross" }, svgEl("rect", { class: "halo" }), svgEl("rect", { class: "line" }));
      this.view.layer.append(this.cross);
      this.view.marks.add(() => this.drawCross());
      const moved = () => this.drawCross();
      app.addEventListener("cursor", moved);
      this.end(() => app.removeEventListener("cursor", moved));
      this.view.root.title = "Drag to choose the frame. Shift and drag, or the right button: move the image. Wheel: zoom.";
      app.regions.attach(this);
    } else app.shapes.attach(this, output.shape);
    this.update();
  }

  update() {
    const { analysis, output, topic, title } = this.describe();
    this.title(title, output.title && output.title.toLowerCase() !== title.toLowerCase() ? output.title : "", analysis ? analysis.colour : null);
    this.unit = output.unit;
    this.axes = output.axes;
    const shape = output.display === "ragged" ? output.axes.map((a) => a.size) : output.axes.length === 2 ? output.axes.map((a) => a.size) : output.shape.slice(0, 2);
    if (shape.length === 2) this.grid(shape, output.axes);
    this.follow(output.display === "ragged" ? `${topic}/count` : this.planes ? `${topic}/${this.planes.at}` : topic);
    this.stale = Boolean(analysis) && analysis.shown_gen < analysis.gen;
    this.root.classList.toggle("failed", analysis?.state === "failed");
    this.root.classList.toggle("running", Boolean(analysis) && this.app.store.lasts(analysis.id));
    this.failed = analysis?.state === "failed" ? analysis.error?.message : null;
    this.root.classList.toggle("selected", Boolean(analysis) && analysis.id === this.app.selected);
    this.marks();
    this.drawCross();
  }

  extraNotes() {
    if (this.failed) return [["failed", this.failed, "bad"]];
    const state = this.describe().analysis?.state;
    if (state === "incomplete") return [["incomplete", "Some positions were not processed: stopped, dropped or still to come. Grey is what is missing."]];
    return [];
  }

  // Scan position of a point, with the indices of the planes before it where these are scan axes.
  position([y, x]) {
    const [h, w] = this.view.full;
    const at = [Math.max(0, Math.min(h - 1, Math.round(y))), Math.max(0, Math.min(w - 1, Math.round(x)))];
    const { output } = this.describe();
    return this.planes && !output.plane_last ? [...this.planes.indices, ...at] : at;
  }

  pick(point) {
    if (this.view.full) this.app.setCursor(this.position(point));
    const { analysis } = this.describe();
    if (analysis && this.app.selected !== analysis.id && !this.view.drag) this.app.select(analysis.id);
  }

  stepCursor(by, n) {
    const now = this.app.cursor ?? this.position([(this.view.full[0] - 1) / 2, (this.view.full[1] - 1) / 2]);
    this.app.setCursor(this.position([now.at(-2) + by[0] * n, now.at(-1) + by[1] * n]));
    this.hover(this.app.cursor.slice(-2));
  }

  drawCross() {
    const at = this.app.cursor;
    if (!this.cross) return;
    this.cross.toggleAttribute("hidden", !at || !this.view.full);
    this.cross.style.display = at && this.view.full ? "" : "none";
    if (!at || !this.view.full) return;
    const p = this.view.place();
    const [sy, sx] = this.view.toScreen(at.at(-2), at.at(-1));
    const [w, h] = [Math.max(8, p.kx), Math.max(8, p.ky)];
    for (const node of this.cross.children) for (const [k, v] of Object.entries({ x: sx - w / 2, y: sy - h / 2, width: w, height: h })) put(node, k, v);
  }

  actions() {
    const region = this.scan ? [null, ...this.app.regions.actions(this)] : [];
    return [...super.actions(), ...resultActions(this, this.describe), ...region];
  }
}

// So few values, and over no axis of the source, are written as numbers: a vector of a single frame is no line.
function isFew(output, nav) {
  if (output.display === "scalar") return true;
  const own = output.kind === "sig" || output.kind === "ragged" || (output.kind === "nav" && nav?.length > 0);
  const n = (output.shape ?? []).reduce((product, k) => product * k, 1);
  return !own && n <= (output.display === "complex-line" ? 1 : FEW);
}

class ResultPlot extends Tile {
  constructor(app, describe) {
    const { settings, output, label } = describe();
    super(app, settings);
    this.describe = describe;
    if (isFew(output, app.store.source?.nav)) {
      this.number = bigNumber();
      this.body.append(this.number);
    } else {
      const scan = output.kind === "nav" || output.kind === "ragged";
      this.plot = new Plot(label, {
        hover: (i, values) => this.hover(i, values),
        double: () => this.toggleFull(),
        pick: scan && output.axes?.length === 1 ? (i) => app.setCursor([i]) : null,
      });
      this.body.append(this.plot.root);
      this.log = button("log", () => this.setLog(!this.plot.log), { kind: "toggle", title: "Logarithmic values" });
      this.whole = button("Whole range (0)", () => this.plot.reset(), { symbol: "fit", bare: true });
      this.head.insertBefore(this.log, this.grow);
      this.head.insertBefore(this.whole, this.grow);
      this.plot.first = describe().analysis?.colour ?? 0;
      this.setLog(Boolean(app.layout.tile(settings).log), false);
      const moved = () => ((this.plot.cursor = scan && app.cursor?.length === 1 ? app.cursor[0] : null), this.plot.draw());
      app.addEventListener("cursor", moved);
      this.end(() => (app.removeEventListener("cursor", moved), this.plot.close()));
    }
    this.end(() => this.unsubscribe?.());
    this.update();
  }

  setLog(on, keep = true) {
    this.plot.log = on;
    this.log.setAttribute("aria-pressed", on);
    if (keep) this.app.layout.keep(this.key, { log: on });
    this.plot.draw();
  }

  update() {
    const { analysis, output, topic, title } = this.describe();
    this.title(title, output.title && output.title.toLowerCase() !== title.toLowerCase() ? output.title : "", analysis ? analysis.colour : null);
    this.unit = output.unit ? ` ${output.unit}` : "";
    const wanted = output.display === "ragged" ? `${topic}/count` : topic;
    if (wanted !== this.topic) {
      this.unsubscribe?.();
      this.topic = wanted;
      this.unsubscribe = this.app.link.subscribe(wanted, (array) => this.take(array), { px: [4096, 1], exact: true });
    }
    this.root.classList.toggle("running", Boolean(analysis) && this.app.store.lasts(analysis.id));
    const badge = this.plot?.badge;
    if (badge) this.notes(badge, analysis?.state === "failed" ? [["failed", analysis.error?.message ?? "", "bad"]] : []);
  }

  take(array) {
    const { output } = this.describe();
    this.array = array;
    if (this.number) {
      const names = output.display === "complex-line" ? ["real", "imaginary"] : componentNames(output.axes?.[0], array.values.length);
      this.number.textContent = Array.from(array.values, (v, i) => `${array.values.length > 1 ? `${names[i]} ` : ""}${short(v)}${this.unit}`).join("\n");
      return;
    }
    if (array.shape.length === 1) return this.plot.show([Float64Array.from(array.values)], output.axes?.[0], [output.title]);
    const [n, c] = array.shape;
    const lines = Array.from({ length: c }, (_, k) => Float64Array.from({ length: n }, (_, i) => array.values[i * c + k]));
    if (output.display === "complex-line") {
      const [re, im] = lines;
      this.plot.show([re.map((v, i) => Math.hypot(v, im[i])), re.map((v, i) => Math.atan2(im[i], v))], output.axes?.[0], ["amplitude", "phase"]);
    } else this.plot.show(lines, output.axes?.[0], componentNames(output.axes?.[1], lines.length));
  }

  hover(i, values) {
    const axis = this.describe().output.axes?.[0];
    this.readout.textContent = i === null ? "" : `${axis?.name || "index"} ${isCalibrated(axis) ? `${short(axisValue(axis, i))} ${axis.unit}` : i}   ${values.map((v) => short(v)).join(", ")}${this.unit}`;
  }

  actions() {
    return [["Full size", () => this.toggleFull(), "full"], ...plotActions(this), ...resultActions(this, this.describe)];
  }
}
