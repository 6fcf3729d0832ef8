// Shapes over an image, with handles for pointer and keyboard. Local at once; `change` is told every move.

import { put, svgEl } from "./dom.js";
import { ANNULUS } from "./shapes/annulus.js";
import { DISK } from "./shapes/disk.js";
import { POINT } from "./shapes/point.js";
import { RECTANGLE } from "./shapes/rectangle.js";
import { SECTOR } from "./shapes/sector.js";

export const SHAPES = { point: POINT, disk: DISK, annulus: ANNULUS, rectangle: RECTANGLE, sector: SECTOR };
const KNOB_LEAST = 14; // px on the screen between centre and a knob: two knobs must never lie on each other

export class Overlay {
  constructor(view) {
    this.view = view;
    this.items = new Map(); // key -> {shape, values, colour, label, active, change, pick}
    this.group = svgEl("g", { class: "shapes" });
    view.layer.append(this.group);
    this.nodes = new Map();
    view.marks.add(() => this.draw());
  }

  // Show exactly these: {key: {kind, values, colour, label, active, change(values), pick()}}.
  show(items) {
    for (const key of [...this.nodes.keys()]) {
      const old = this.items.get(key);
      const next = items[key];
      if (next && next.kind === old?.kind && next.active === old.active && next.disabled === old.disabled) continue;
      this.nodes.get(key).root.remove();
      this.nodes.delete(key);
    }
    this.items = new Map(Object.entries(items));
    this.draw();
  }

  draw() {
    if (!this.view.full || !this.view.width) return;
    const p = this.view.place();
    const map = { kx: p.kx, ky: p.ky, x: (x) => p.left + (x + 0.5) * p.kx, y: (y) => p.top + (y + 0.5) * p.ky };
    for (const [key, item] of this.items) this.drawItem(key, item, map);
  }

  drawItem(key, item, map) {
    const frame = this.view.full;
    const shape = SHAPES[item.kind];
    let nodes = this.nodes.get(key);
    if (!nodes) {
      nodes = { root: svgEl("g", { class: `shape ${item.active ? "active" : ""} colour${item.colour % 8}` }), lines: [], knobs: new Map() };
      nodes.fill = svgEl("path", { class: "fill", "fill-rule": "evenodd" });
      nodes.root.append(nodes.fill);
      this.nodes.set(key, nodes);
    }
    if (item.active) this.group.append(...(nodes.root === this.group.lastChild ? [] : [nodes.root]));
    else if (!nodes.root.parentNode) this.group.prepend(nodes.root);
    put(nodes.fill, "d", item.active ? shape.fill(item.values, map, frame) : "");
    this.drawLines(key, item, nodes, shape.lines(item.values, map, frame));
    if (item.active && !item.disabled) for (const knob of shape.knobs(item.values, frame)) this.drawKnob(key, item, nodes, knob, map);
  }

  drawLines(key, item, nodes, lines) {
    while (nodes.lines.length > lines.length) nodes.lines.pop().forEach((n) => n.remove());
    lines.forEach((line, i) => {
      if (!nodes.lines[i]) {
        const grab = svgEl("path", { class: "grab" });
        nodes.lines[i] = [svgEl("path", { class: "halo" }), svgEl("path", { class: "line" }), grab];
        nodes.fill.after(...nodes.lines[i]);
        grab.addEventListener("pointerdown", (event) => this.grab(event, key, grab.dataset.key));
      }
      nodes.lines[i].forEach((n) => put(n, "d", line.d));
      put(nodes.lines[i][2], "data-key", line.key);
    });
  }

  drawKnob(key, item, nodes, knob, map) {
    let node = nodes.knobs.get(knob.key);
    if (!node) {
      node = svgEl("g", { class: `knob ${knob.kind}`, role: "slider", tabindex: "0", "aria-label": `${item.label}: ${knob.label}` });
      node.append(svgEl("circle", { class: "reach", r: 13 }), svgEl("circle", { class: "rim", r: knob.kind === "centre" ? 6 : 7 }), svgEl("circle", { class: "body", r: knob.kind === "centre" ? 4.5 : 5.5 }));
      node.addEventListener("pointerdown", (event) => this.grab(event, key, knob.key));
      node.addEventListener("keydown", (event) => this.step(event, key, knob.key));
      nodes.knobs.set(knob.key, node);
      nodes.root.append(node);
    }
    let [sx, sy] = [map.x(knob.x), map.y(knob.y)];
    if (knob.kind === "radius") {
      const [cx, cy] = [map.x(item.values.x), map.y(item.values.y)];
      const d = Math.hypot(sx - cx, sy - cy);
      const side = knob.key === "inner" ? -1 : 1;
      if (d < KNOB_LEAST) [sx, sy] = d > 0.5 ? [cx + ((sx - cx) * KNOB_LEAST) / d, cy + ((sy - cy) * KNOB_LEAST) / d] : [cx + side * KNOB_LEAST, cy];
    }
    put(node, "transform", `translate(${sx} ${sy})`);
    put(node, "aria-valuenow", knob.now);
    put(node, "aria-valuemin", knob.min);
    put(node, "aria-valuemax", knob.max);
    put(node, "aria-valuetext", knob.text);
  }

  grab(event, key, part) {
    const item = this.items.get(key);
    if (event.button !== 0 || !item) return;
    event.stopPropagation();
    if (!item.active || item.disabled) return item.pick?.();
    event.preventDefault();
    const target = event.currentTarget;
    target.setPointerCapture(event.pointerId);
    this.nodes.get(key)?.knobs.get(part)?.focus({ preventScroll: true });
    this.view.hold();
    const [y0, x0] = this.view.at(event);
    const start = { ...item.values };
    // the knob stays below the pointer where it was taken
    const offset = part === "centre" ? [start.y - y0, start.x - x0] : [0, 0];
    const move = (e) => {
      const [y, x] = this.view.at(e);
      const now = this.items.get(key);
      if (now) this.change(key, SHAPES[now.kind].drag(now.values, part, y + offset[0], x + offset[1], this.view.full));
    };
    const end = () => {
      target.removeEventListener("pointermove", move);
      target.removeEventListener("pointerup", end);
      target.removeEventListener("pointercancel", end);
      this.busy = null;
      this.view.release();
    };
    this.busy = key;
    target.addEventListener("pointermove", move);
    target.addEventListener("pointerup", end);
    target.addEventListener("pointercancel", end);
  }

  step(event, key, part) {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const item = this.items.get(key);
    if (!by || !item) return;
    event.preventDefault();
    event.stopPropagation();
    const n = event.shiftKey ? 10 : 1;
    const knob = SHAPES[item.kind].knobs(item.values, this.view.full).find((k) => k.key === part);
    if (knob) this.change(key, knob.step(item.values, by[0] * n, by[1] * n));
  }

  change(key, values) {
    const item = this.items.get(key);
    item.values = values;
    this.draw();
    item.change(values);
  }
}
