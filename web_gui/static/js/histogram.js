// Contrast of a view: histogram with two limits to drag, the same limits as numbers, automatic limits, scale, colour map.

import { MAPS, table } from "./colormap.js";
import { el, select } from "./dom.js";
import { extent, histogram, robust, scaler, SCALES, short, unscaler } from "./levels.js";
import { isSigned } from "./picture.js";

const PAUSE = 150; // ms between two histograms
const SAMPLE = 40000;
const SCALE_TITLES = { linear: "linear", log: "log", sqrt: "square root", symlog: "log ±" };

export class Contrast {
  // changed(): limits, scale or map are other ones; kept(settings): chosen by the user, to be remembered.
  constructor(label, settings, changed, kept) {
    this.label = label;
    this.auto = settings.auto ?? true;
    this.scale = settings.scale ?? "linear";
    this.map = settings.map ?? "viridis";
    this.limits = settings.limits ?? [0, 1];
    this.range = [...this.limits];
    this.changed = changed;
    this.kept = kept;
    this.display = "image";
    this.mode = "value";
    this.canvas = el("canvas", { class: "histogram", "aria-hidden": "true" });
    this.bar = el("canvas", { class: "colourbar", width: 256, height: 1, "aria-hidden": "true" });
    this.knobs = [0, 1].map((i) => this.knob(i));
    this.well = el("div", { class: "well" }, this.canvas, this.bar, ...this.knobs);
    this.fields = [0, 1].map((i) =>
      el("input", { class: "limit", type: "text", inputmode: "decimal", "aria-label": `${label}: ${i ? "upper" : "lower"} limit of the colours`, on: { change: (e) => this.typed(i, e.target), keydown: (e) => this.limitKey(i, e) } }),
    );
    this.check = el("input", { type: "checkbox", checked: this.auto, "aria-label": `${label}: limits follow the data`, on: { change: () => this.setAuto(this.check.checked) } });
    this.maps = select(`${label}: colour map`, MAPS.map((m) => [m, m]), this.map, (v) => this.choose({ map: v }));
    this.scales = select(`${label}: scale`, SCALES.map((s) => [s, SCALE_TITLES[s]]), this.scale, (v) => this.choose({ scale: v }));
    this.root = el(
      "div",
      { class: "contrast" },
      this.well,
      el("label", { class: "check", title: "Limits follow the data; outliers do not count" }, this.check, "auto"),
      this.maps,
      el("div", { class: "limits" }, ...this.fields),
      this.scales,
    );
    new ResizeObserver(() => this.drawSoon()).observe(this.well);
    this.drawBar();
  }

  settings() {
    return { auto: this.auto, scale: this.scale, map: this.map, ...(this.auto ? {} : { limits: this.limits }) };
  }

  // What is shown: the limits follow, where they are automatic. Returns whether they are other ones than before.
  feed(field, display, mode) {
    this.field = field;
    const other = display !== this.display || mode !== this.mode;
    [this.display, this.mode] = [display, mode];
    this.root.classList.toggle("wheel", Boolean(field.turns));
    if (other) this.drawBar();
    const before = this.limits;
    if (this.auto) this.limits = this.automatic() ?? this.limits;
    this.drawSoon();
    return other || before[0] !== this.limits[0] || before[1] !== this.limits[1];
  }

  automatic() {
    if (this.mode === "angle") return [-180, 180];
    const found = robust(this.field.values);
    if (!found) return null;
    if (this.field.turns) return [0, found[1] || 1];
    if (!isSigned(this.display, this.mode)) return found;
    const top = Math.max(Math.abs(found[0]), Math.abs(found[1])) || 1;
    return [-top, top];
  }

  setAuto(on) {
    this.auto = on;
    this.check.checked = on;
    if (on && this.field) this.limits = this.automatic() ?? this.limits;
    this.tell();
  }

  choose(what) {
    Object.assign(this, what);
    this.maps.value = this.map;
    this.scales.value = this.scale;
    this.drawBar();
    this.tell();
  }

  setLimit(i, value) {
    const next = [...this.limits];
    next[i] = value;
    if (!(next[1] > next[0])) return;
    this.limits = next;
    this.auto = false;
    this.check.checked = false;
    this.tell();
  }

  tell() {
    this.drawSoon();
    this.changed();
    this.kept(this.settings());
  }

  typed(i, input) {
    const value = Number(input.value.replace(",", ".").replace(/\s/g, ""));
    const good = input.value.trim() !== "" && Number.isFinite(value) && (i ? value > this.limits[0] : value < this.limits[1]);
    input.classList.toggle("wrong", !good);
    input.title = good ? "" : `a number ${i ? "above" : "below"} ${short(this.limits[1 - i])}`;
    if (good) this.setLimit(i, value);
  }

  limitKey(i, event) {
    const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.nudge(i, step * (event.shiftKey ? 10 : 1));
  }

  nudge(i, n) {
    const f = scaler(this.scale, this.range);
    this.setLimit(i, unscaler(this.scale, this.range)(f(this.limits[i]) + 0.01 * n));
  }

  knob(i) {
    const node = el("div", { class: "limit-knob", role: "slider", tabindex: "0", "aria-label": `${this.label}: ${i ? "upper" : "lower"} limit` });
    node.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      node.setPointerCapture(event.pointerId);
      node.focus({ preventScroll: true });
      const range = this.range;
      this.held = true;
      const move = (e) => {
        const box = this.well.getBoundingClientRect();
        this.setLimit(i, unscaler(this.scale, range)(Math.max(0, Math.min(1, (e.clientX - box.left) / box.width))));
      };
      const end = () => {
        this.held = false;
        node.removeEventListener("pointermove", move);
        node.removeEventListener("pointerup", end);
        node.removeEventListener("pointercancel", end);
        this.drawSoon();
      };
      node.addEventListener("pointermove", move);
      node.addEventListener("pointerup", end);
      node.addEventListener("pointercancel", end);
    });
    node.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.nudge(i, step * (event.shiftKey ? 10 : 1));
    });
    return node;
  }

  drawSoon() {
    if (this.waiting) return;
    const draw = () => {
      this.waiting = null;
      this.drawn = performance.now();
      this.draw();
    };
    const rest = PAUSE - (performance.now() - (this.drawn ?? 0));
    this.waiting = this.held || rest <= 0 ? requestAnimationFrame(draw) : setTimeout(draw, rest);
  }

  draw() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width) return;
    const values = this.sample();
    if (values && !this.held) this.range = this.wide(values);
    const f = scaler(this.scale, this.range);
    const w = (this.canvas.width = Math.round(box.width * devicePixelRatio));
    const h = (this.canvas.height = Math.round(box.height * devicePixelRatio));
    const g = this.canvas.getContext("2d");
    g.clearRect(0, 0, w, h);
    if (values) {
      const counts = histogram(Float32Array.from(values, f), [0, 1]);
      let top = 1;
      for (const n of counts) top = Math.max(top, Math.log1p(n));
      g.fillStyle = getComputedStyle(this.well).color;
      counts.forEach((n, i) => {
        const height = (Math.log1p(n) / top) * h;
        g.fillRect((i * w) / counts.length, h - height, Math.max(1, w / counts.length - 0.5), height);
      });
    }
    this.knobs.forEach((knob, i) => {
      knob.style.left = `${100 * Math.max(0, Math.min(1, f(this.limits[i])))}%`;
      knob.setAttribute("aria-valuenow", this.limits[i]);
      knob.setAttribute("aria-valuemin", this.range[0]);
      knob.setAttribute("aria-valuemax", this.range[1]);
      knob.setAttribute("aria-valuetext", short(this.limits[i]));
      if (!this.fields[i].matches(":focus")) this.fields[i].value = short(this.limits[i]);
    });
    const [a, b] = this.limits.map((v) => Math.max(0, Math.min(1, f(v))));
    this.bar.style.left = `${100 * a}%`;
    this.bar.style.width = `${100 * Math.max(0.01, b - a)}%`;
  }

  sample() {
    const all = this.field?.values;
    if (!all || all.length === 0) return null;
    if (all.length <= SAMPLE) return all;
    const step = Math.ceil(all.length / SAMPLE);
    const out = new Float32Array(Math.floor(all.length / step));
    for (let i = 0; i < out.length; i++) out[i] = all[i * step];
    return out;
  }

  // The values that the histogram spans: the data without outliers, some room, and the limits.
  wide(values) {
    const most = extent(values);
    const core = robust(values);
    if (!most || !core) return this.range;
    const room = 0.3 * (core[1] - core[0]);
    const lo = Math.min(Math.max(most[0], core[0] - room), this.limits[0]);
    const hi = Math.max(Math.min(most[1], core[1] + room), this.limits[1]);
    return hi > lo ? [lo, hi] : [lo - 0.5, hi + 0.5];
  }

  drawBar() {
    const g = this.bar.getContext("2d");
    const data = g.createImageData(256, 1);
    const colours = table(this.display !== "image" && this.mode === "wheel" ? "gray" : this.map);
    for (let i = 0; i < 256; i++) data.data.set(colours.subarray(4 * i, 4 * i + 4), 4 * i);
    g.putImageData(data, 0, 0);
  }
}
