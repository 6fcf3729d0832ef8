// An image on a canvas: zoom, pan, what is under the pointer, scale bar. Knows nothing of server or state.

import { axisValue, isCalibrated, pixelAspect, pixelAxis } from "./axes.js";
import { el, svgEl } from "./dom.js";
import { round125, short } from "./levels.js";

const ZOOM_MAX = 64;
const MOVED = 4; // px that a pointer may move and still click

export class ImageView {
  // calls: hover(point or null), click(point), scrub(point) while dragged, sized() when other pixels are wanted, double()
  constructor(label, calls = {}) {
    this.calls = calls;
    this.canvas = el("canvas", { class: "pixels" });
    this.layer = svgEl("svg", { class: "layer" });
    this.badge = el("div", { class: "badges" });
    this.root = el("div", { class: "stage", role: "group", "aria-label": label, tabindex: "0" }, this.canvas, this.layer, this.badge);
    this.buffer = document.createElement("canvas");
    this.full = null;
    this.held = null;
    this.axes = [pixelAxis("y", 1), pixelAxis("x", 1)];
    this.zoom = 1;
    this.middle = [0.5, 0.5]; // what is in the middle, as a part of the image
    this.width = 0;
    this.height = 0;
    this.marks = new Set(); // functions that draw over the image on every change of view
    this.tool = null; // takes the pointer: {down, move, up}, points in image coordinates
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.root);
    this.root.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    this.root.addEventListener("pointerdown", (e) => this.down(e));
    this.root.addEventListener("pointermove", (e) => this.move(e));
    this.root.addEventListener("pointerup", (e) => this.up(e));
    this.root.addEventListener("pointercancel", (e) => this.up(e));
    this.root.addEventListener("pointerleave", () => this.drag || this.calls.hover?.(null));
    this.root.addEventListener("dblclick", (e) => this.tool === null && e.target.closest(".knob") === null && this.calls.double?.());
    this.root.addEventListener("keydown", (e) => this.key(e));
    this.root.addEventListener("contextmenu", (e) => e.preventDefault());
    this.pointers = new Map();
  }

  // Size of the array (pixels at full resolution) and its axes; zoom goes back where the size is new.
  setGrid(full, axes) {
    const same = this.full && this.full[0] === full[0] && this.full[1] === full[1];
    this.full = full;
    this.axes = axes?.length === 2 ? axes : [pixelAxis("y", full[0]), pixelAxis("x", full[1])];
    if (!same) this.reset();
    else this.draw();
  }

  // Pixels as 32-bit colours, to be painted by `paint(target)` between rows y0 and y1; drawn at once.
  setPixels([h, w], rows, paint) {
    if (this.buffer.width !== w || this.buffer.height !== h || !this.data) {
      this.buffer.width = w;
      this.buffer.height = h;
      this.data = new ImageData(w, h);
      rows = [0, h];
    }
    paint(new Uint32Array(this.data.data.buffer), rows);
    this.buffer.getContext("2d").putImageData(this.data, 0, 0, 0, rows[0], w, rows[1] - rows[0]);
    this.draw();
  }

  clear() {
    this.data = null;
    this.draw();
  }

  reset() {
    this.zoom = 1;
    this.middle = [0.5, 0.5];
    this.changed();
  }

  resized() {
    const box = this.root.getBoundingClientRect();
    const ratio = devicePixelRatio || 1;
    if (this.held) this.held = box;
    if (!box.width || (Math.abs(box.width - this.width) < 0.5 && Math.abs(box.height - this.height) < 0.5 && ratio === this.ratio)) return;
    this.width = box.width;
    this.height = box.height;
    this.ratio = ratio;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    this.layer.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    this.changed();
  }

  // Screen pixels per image pixel, and where the image begins.
  place() {
    const [h, w] = this.full;
    const aspect = pixelAspect(this.axes);
    let kx = Math.min(this.width / w, this.height / (h * (aspect ?? 1)));
    let ky = kx * (aspect ?? 1);
    if (aspect === null) [kx, ky] = [this.width / w, this.height / h];
    kx *= this.zoom;
    ky *= this.zoom;
    const clamp = (size, length, m) => (length <= size ? (size - length) / 2 : Math.min(0, Math.max(size - length, size / 2 - m * length)));
    return { kx, ky, left: clamp(this.width, kx * w, this.middle[1]), top: clamp(this.height, ky * h, this.middle[0]) };
  }

  // Image coordinates (centre of pixel (0, 0) is 0.0) to CSS pixels of the stage, and back.
  toScreen(y, x) {
    const p = this.place();
    return [p.top + (y + 0.5) * p.ky, p.left + (x + 0.5) * p.kx];
  }

  toImage(sy, sx) {
    const p = this.place();
    return [(sy - p.top) / p.ky - 0.5, (sx - p.left) / p.kx - 0.5];
  }

  // While something is dragged the stage stays where it is: to ask at every move makes the browser lay out the page every time.
  hold() {
    this.held = this.root.getBoundingClientRect();
  }

  release() {
    this.held = null;
  }

  get box() {
    return this.held ?? this.root.getBoundingClientRect();
  }

  at(event) {
    const { box } = this;
    return this.toImage(event.clientY - box.top, event.clientX - box.left);
  }

  inside([y, x]) {
    return this.full !== null && y >= -0.5 && x >= -0.5 && y < this.full[0] - 0.5 && x < this.full[1] - 0.5;
  }

  // Device pixels that the whole array covers.
  get px() {
    if (!this.full || !this.width) return [512, 512];
    const p = this.place();
    return [Math.ceil(p.kx * this.full[1] * this.ratio), Math.ceil(p.ky * this.full[0] * this.ratio)];
  }

  changed() {
    this.draw();
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.calls.sized?.(), 80);
  }

  draw() {
    const g = this.canvas.getContext("2d");
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.full && this.width) {
      const p = this.place();
      const r = this.ratio;
      g.imageSmoothingEnabled = false;
      if (this.data) {
        const fine = this.buffer.width > 1.5 * p.kx * this.full[1] * r;
        if (fine) (g.imageSmoothingEnabled = true), (g.imageSmoothingQuality = "high");
        g.drawImage(this.buffer, p.left * r, p.top * r, p.kx * this.full[1] * r, p.ky * this.full[0] * r);
      }
      if (this.data) this.scaleBar(g, r, p);
    }
    for (const mark of this.marks) mark(this);
  }

  scaleBar(g, r, p) {
    const axis = this.axes[1];
    const unit = isCalibrated(axis) ? axis.unit : "px";
    const perUnit = p.kx / Math.abs(unit === "px" ? 1 : axis.step);
    if (!Number.isFinite(perUnit) || perUnit <= 0) return;
    const length = round125((0.3 * Math.min(this.width, p.kx * this.full[1])) / perUnit);
    const bottom = p.top + p.ky * this.full[0];
    const thin = p.ky * this.full[0] < 60 && bottom + 32 < this.height; // the bar would hide the image
    const [x0, y0] = [Math.max(8, p.left + 10) * r, (thin ? bottom + 24 : Math.min(this.height, bottom) - 12) * r];
    drawScaleBar(g, x0, y0, length * perUnit * r, `${short(length)} ${unit}`, r);
  }

  // -- pointer ----------------------------------------------------------------

  wheel(event) {
    if (!this.full) return;
    event.preventDefault();
    const box = this.root.getBoundingClientRect();
    this.zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), event.clientY - box.top, event.clientX - box.left);
  }

  zoomAt(factor, sy, sx) {
    const before = this.toImage(sy, sx);
    this.zoom = Math.max(1, Math.min(ZOOM_MAX, this.zoom * factor));
    this.keep(before, sy, sx);
  }

  // Move the image so that `point` lies at (sy, sx).
  keep([y, x], sy, sx) {
    const p = this.place();
    const [h, w] = this.full;
    const part = (size, length, s, i) => Math.max(Math.min(0.5, size / 2 / length), Math.min(1 - Math.min(0.5, size / 2 / length), (size / 2 - s + i) / length));
    this.middle = [part(this.height, p.ky * h, sy, (y + 0.5) * p.ky), part(this.width, p.kx * w, sx, (x + 0.5) * p.kx)];
    this.changed();
  }

  down(event) {
    if (!this.full || event.target.closest?.(".knob, .grab, .badges button")) return;
    this.root.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientY, event.clientX]);
    this.hold();
    const point = this.at(event);
    const pans = event.button !== 0 || event.shiftKey || (!this.calls.scrub && !this.tool);
    this.drag = { id: event.pointerId, from: point, start: [event.clientY, event.clientX], moved: false, pans };
    if (!pans && this.tool) this.tool.down(point, event);
    else if (!pans) this.calls.scrub?.(point, "down");
  }

  move(event) {
    if (!this.full) return;
    const point = this.at(event);
    if (this.pointers.has(event.pointerId)) {
      const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
      if (others.length) return this.pinch(event, others[0][1]);
      this.pointers.set(event.pointerId, [event.clientY, event.clientX]);
    }
    if (this.drag) {
      const d = this.drag;
      d.moved ||= Math.hypot(event.clientY - d.start[0], event.clientX - d.start[1]) > MOVED;
      const { box } = this;
      if (d.pans) d.moved && this.keep(d.from, event.clientY - box.top, event.clientX - box.left);
      else if (this.tool) this.tool.move(point, event);
      else if (d.moved) this.calls.scrub?.(point, "move");
    } else if (this.tool) this.tool.hover?.(point, event);
    this.calls.hover?.(this.inside(point) ? point : null);
  }

  pinch(event, other) {
    const before = this.pointers.get(event.pointerId);
    const length = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
    const now = [event.clientY, event.clientX];
    const { box } = this;
    if (this.drag) this.drag.pans = true;
    this.zoomAt(length(now) / length(before), (now[0] + other[0]) / 2 - box.top, (now[1] + other[1]) / 2 - box.left);
    this.pointers.set(event.pointerId, now);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    const d = this.drag;
    if (!d || d.id !== event.pointerId) return;
    this.drag = null;
    const point = this.at(event);
    if (!this.pointers.size) this.release();
    if (!d.pans && this.tool) this.tool.up(point, event);
    else if (!d.moved && event.type === "pointerup" && event.button === 0) this.calls.click?.(point);
    else if (!d.pans) this.calls.scrub?.(point, "up");
  }

  key(event) {
    if (event.target !== this.root || !this.full) return;
    const pan = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "+" || event.key === "=") this.zoomAt(1.25, this.height / 2, this.width / 2);
    else if (event.key === "-") this.zoomAt(0.8, this.height / 2, this.width / 2);
    else if (event.key === "0") this.reset();
    else if (event.key === "Enter") this.calls.double?.();
    else if (pan && this.calls.step) this.calls.step(pan, event.shiftKey ? 10 : 1);
    else if (pan) this.keep(this.toImage(this.height / 2, this.width / 2), this.height / 2 - pan[0] * 40, this.width / 2 - pan[1] * 40);
    else return;
    event.preventDefault();
  }

  // Physical value of a point along both axes.
  physical([y, x]) {
    return [axisValue(this.axes[0], y), axisValue(this.axes[1], x)];
  }

  close() {
    this.observer.disconnect();
    clearTimeout(this.telling);
  }
}

// White bar with dark halo, `length` wide, label above; r: device pixels per CSS pixel.
export function drawScaleBar(g, x, y, length, label, r) {
  g.font = `600 ${12 * r}px system-ui, sans-serif`;
  g.textBaseline = "bottom";
  g.lineJoin = "round";
  g.strokeStyle = "rgba(0,0,0,0.75)";
  g.lineWidth = 3 * r;
  g.strokeText(label, x, y - 3 * r);
  g.strokeRect(x, y, length, 4 * r);
  g.fillStyle = "#fff";
  g.fillText(label, x, y - 3 * r);
  g.fillRect(x, y, length, 4 * r);
}
