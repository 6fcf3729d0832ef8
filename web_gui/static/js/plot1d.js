// Lines over one axis on a canvas: profiles, spectra, series.

import { axisValue, isCalibrated } from "./axes.js";
import { el } from "./dom.js";
import { extent, round125, short } from "./levels.js";

const PAD = { right: 12, top: 12, bottom: 34 };
const LEAST_LEFT = 40; // px for the labels of the values; more where they are longer
const LINE_COLOURS = ["#ffb454", "#5cc8ff", "#c39bff", "#8fdc6f", "#ff8fb8", "#ffe066", "#4fd6c3", "#ff7b6b"];
const LINE_COLOURS_LIGHT = ["#a85200", "#0068a8", "#6f42c1", "#2a7a2e", "#b52d66", "#7d6200", "#006d60", "#b8362a"]; // the same hues, dark enough for a light ground

function lineColour(k) {
  return (document.documentElement.dataset.theme === "light" ? LINE_COLOURS_LIGHT : LINE_COLOURS)[k % 8];
}

const TICK_FONT = "11px system-ui, sans-serif";

// Round values between two limits, about n of them.
export function ticksBetween(a, b, n) {
  const step = round125((b - a) / n) || 1;
  const out = [];
  for (let i = Math.ceil(a / step); i * step <= b + step * 1e-9; i++) out.push(Number((i * step).toPrecision(10)) + 0);
  return out;
}

export class Plot {
  // calls: hover(index or null, values), pick(index), double()
  constructor(label, calls = {}) {
    this.calls = calls;
    this.canvas = el("canvas", { class: "pixels" });
    this.badge = el("div", { class: "badges" });
    this.root = el("div", { class: "stage plot", role: "img", "aria-label": label, tabindex: "0" }, this.canvas, this.badge);
    this.lines = [];
    this.names = [];
    this.log = false;
    this.first = 0; // colour of the first line
    this.pad = LEAST_LEFT;
    this.axis = null;
    this.cursor = null;
    this.span = null; // indices shown, null = all
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.root);
    this.redraw = () => this.draw();
    addEventListener("libstream-theme", this.redraw);
    this.root.addEventListener("pointermove", (e) => this.move(e));
    this.root.addEventListener("pointerleave", () => ((this.at = null), this.draw(), calls.hover?.(null)));
    this.root.addEventListener("pointerdown", (e) => e.button === 0 && (this.from = e.clientX));
    this.root.addEventListener("pointerup", (e) => this.up(e));
    this.root.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    this.root.addEventListener("dblclick", () => calls.double?.());
    this.root.addEventListener("keydown", (e) => this.key(e));
  }

  // lines: arrays of the same length; axis as in the state.
  show(lines, axis, names = []) {
    if (axis?.size !== this.axis?.size) this.span = null;
    [this.lines, this.axis, this.names] = [lines, axis, names];
    this.draw();
  }

  get size() {
    return this.lines[0]?.length ?? 0;
  }

  frame() {
    const box = this.root.getBoundingClientRect();
    const [a, b] = this.span ?? [0, Math.max(1, this.size - 1)];
    const left = this.pad;
    const w = box.width - left - PAD.right;
    return { box, a, b, w, left, h: box.height - PAD.top - PAD.bottom, x: (i) => left + ((i - a) / (b - a || 1)) * w };
  }

  index(event) {
    const f = this.frame();
    const i = Math.round(f.a + ((event.clientX - f.box.left - f.left) / f.w) * (f.b - f.a));
    return this.size ? Math.max(0, Math.min(this.size - 1, i)) : null;
  }

  move(event) {
    this.at = this.index(event);
    this.draw();
    if (this.at !== null) this.calls.hover?.(this.at, this.lines.map((l) => l[this.at]));
  }

  up(event) {
    const from = this.from;
    this.from = undefined;
    const f = this.frame();
    if (from === undefined || !this.size) return;
    if (Math.abs(event.clientX - from) < 5) return this.calls.pick?.(this.index(event));
    const ends = [from, event.clientX].map((x) => f.a + ((x - f.box.left - f.left) / f.w) * (f.b - f.a)).sort((p, q) => p - q);
    if (ends[1] - ends[0] >= 2) this.zoomTo(ends);
  }

  zoomTo([a, b]) {
    this.span = [Math.max(0, a), Math.min(this.size - 1, b)];
    if (this.span[0] <= 0 && this.span[1] >= this.size - 1) this.span = null;
    this.draw();
  }

  reset() {
    this.span = null;
    this.draw();
  }

  wheel(event) {
    if (this.size < 3) return;
    event.preventDefault();
    const f = this.frame();
    const i = f.a + ((event.clientX - f.box.left - f.left) / f.w) * (f.b - f.a);
    const k = Math.exp(event.deltaY * 0.0015);
    const next = [i - (i - f.a) * k, i + (f.b - i) * k];
    if (next[1] - next[0] >= 2) this.zoomTo(next);
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "0") this.reset();
    else if (event.key === "Enter") this.calls.double?.();
    else if (step && this.calls.pick && this.size) this.calls.pick(Math.max(0, Math.min(this.size - 1, (this.cursor ?? 0) + step * (event.shiftKey ? 10 : 1))));
    else return;
    event.preventDefault();
  }

  draw() {
    let f = this.frame();
    if (!f.box.width) return;
    const r = devicePixelRatio || 1;
    this.canvas.width = Math.round(f.box.width * r);
    this.canvas.height = Math.round(f.box.height * r);
    const g = this.canvas.getContext("2d");
    g.setTransform(r, 0, 0, r, 0, 0);
    const style = getComputedStyle(this.root);
    const ink = style.getPropertyValue("--plot-ink").trim() || "#ccc";
    const seen = this.lines.map((l) => l.subarray(Math.floor(f.a), Math.ceil(f.b) + 1));
    const all = extent(Float64Array.from(seen.flatMap((l) => [...l].map((v) => (this.log ? (v > 0 ? Math.log10(v) : NaN) : v)))));
    if (!all) {
      g.fillStyle = ink;
      g.font = "13px system-ui, sans-serif";
      g.fillText(this.size ? "no values yet" : "", f.left, PAD.top + 20);
      return;
    }
    const room = (all[1] - all[0]) * 0.05 || Math.abs(all[1]) * 0.05 || 1;
    const [lo, hi] = [!this.log && all[0] >= 0 && all[0] < 0.3 * all[1] ? 0 : all[0] - room, all[1] + room];
    const y = (v) => PAD.top + f.h - (((this.log ? Math.log10(v) : v) - lo) / (hi - lo)) * f.h;
    const labels = this.labels([lo, hi], f.h);
    g.font = TICK_FONT;
    this.pad = Math.max(LEAST_LEFT, 14 + Math.ceil(Math.max(0, ...labels.map(([, text]) => g.measureText(text).width))));
    f = this.frame();
    this.drawAxes(g, f, [lo, hi], labels, ink);
    g.save();
    g.beginPath();
    g.rect(f.left, PAD.top, f.w, f.h);
    g.clip();
    this.lines.forEach((line, k) => {
      g.strokeStyle = lineColour(k + this.first);
      g.lineWidth = 1.6;
      g.beginPath();
      let pen = false;
      for (let i = Math.max(0, Math.floor(f.a)); i <= Math.min(line.length - 1, Math.ceil(f.b)); i++) {
        const v = y(line[i]);
        if (!Number.isFinite(v)) pen = false;
        else if (pen) g.lineTo(f.x(i), v);
        else g.moveTo(f.x(i), v), (pen = true);
      }
      g.stroke();
    });
    for (const [i, colour] of [[this.cursor, lineColour(0)], [this.at, ink]]) {
      if (i === null || i === undefined) continue;
      g.strokeStyle = colour;
      g.lineWidth = 1;
      g.setLineDash([4, 3]);
      g.beginPath();
      g.moveTo(f.x(i), PAD.top);
      g.lineTo(f.x(i), PAD.top + f.h);
      g.stroke();
    }
    g.restore();
    if (this.names.length > 1) this.drawNames(g, f, ink);
  }

  // Values along the upright axis: [value, text].
  labels([lo, hi], height) {
    const values = ticksBetween(lo, hi, Math.max(1, Math.min(6, height / 34)));
    return values.map((v) => [v, this.log ? (Number.isInteger(v) ? short(10 ** v) : "") : short(v)]);
  }

  drawAxes(g, f, [lo, hi], labels, ink) {
    g.fillStyle = ink;
    g.strokeStyle = ink;
    g.globalAlpha = 0.35;
    g.lineWidth = 1;
    g.strokeRect(f.left + 0.5, PAD.top + 0.5, f.w, f.h);
    g.globalAlpha = 1;
    g.textAlign = "right";
    g.textBaseline = "middle";
    for (const [v, text] of labels) {
      const sy = PAD.top + f.h - ((v - lo) / (hi - lo)) * f.h;
      g.fillText(text, f.left - 6, sy);
      g.globalAlpha = 0.12;
      g.fillRect(f.left, sy, f.w, 1);
      g.globalAlpha = 1;
    }
    g.textAlign = "center";
    g.textBaseline = "top";
    const axis = this.axis ?? { name: "", step: 1, offset: 0, unit: "" };
    const [va, vb] = [axisValue(axis, f.a), axisValue(axis, f.b)].sort((p, q) => p - q);
    for (const v of ticksBetween(va, vb, Math.max(2, f.w / 80))) g.fillText(short(v), f.x((v - axis.offset) / (axis.step || 1)), PAD.top + f.h + 4);
    g.fillText(`${axis.name || "index"}${isCalibrated(axis) ? ` (${axis.unit})` : ""}`, f.left + f.w / 2, PAD.top + f.h + 18);
  }

  drawNames(g, f, ink) {
    g.textAlign = "right";
    g.textBaseline = "top";
    this.names.slice(0, 8).forEach((name, k) => {
      g.fillStyle = ink;
      g.fillText(name, f.left + f.w - 18, PAD.top + 6 + 15 * k);
      g.fillStyle = lineColour(k + this.first);
      g.fillRect(f.left + f.w - 14, PAD.top + 10 + 15 * k, 10, 3);
    });
  }

  // What is shown, on the colour that lies behind it.
  picture() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.canvas.width, this.canvas.height];
    const g = canvas.getContext("2d");
    g.fillStyle = getComputedStyle(this.root).backgroundColor;
    g.fillRect(0, 0, canvas.width, canvas.height);
    g.drawImage(this.canvas, 0, 0);
    return canvas;
  }

  close() {
    this.observer.disconnect();
    removeEventListener("libstream-theme", this.redraw);
  }
}
