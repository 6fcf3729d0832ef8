// The region of interest of the scan: drawn on scan images, edited by handles, restricts the run.

import { button, el, svgEl } from "./dom.js";
import { REGION_TITLES, regionPath, startDrawing, viewMap } from "./draw.js";

// Handles of a region: where they are, and the region with one of them moved.
function regionKnobs(shape) {
  if (shape.kind === "rectangle") {
    const corner = (y, x, label) => ({
      at: [shape[y] - 0.5, shape[x] - 0.5], label,
      moved: (py, px, [h, w]) => {
        const out = { ...shape, [y]: Math.max(0, Math.min(h, Math.round(py + 0.5))), [x]: Math.max(0, Math.min(w, Math.round(px + 0.5))) };
        return out.y1 > out.y0 && out.x1 > out.x0 ? out : shape;
      },
    });
    return [corner("y0", "x0", "upper left corner"), corner("y1", "x1", "lower right corner")];
  }
  const rounded = (v) => Math.round(v * 10) / 10;
  if (shape.kind === "ellipse") {
    const [cy, cx] = shape.centre;
    const [ry, rx] = shape.radii;
    return [
      { at: [cy, cx], label: "centre", moved: (y, x) => ({ ...shape, centre: [rounded(y), rounded(x)] }) },
      { at: [cy, cx + rx], label: "width", moved: (y, x) => ({ ...shape, radii: [ry, Math.max(0.6, rounded(Math.abs(x - cx)))] }) },
      { at: [cy + ry, cx], label: "height", moved: (y) => ({ ...shape, radii: [Math.max(0.6, rounded(Math.abs(y - cy))), rx] }) },
    ];
  }
  if (shape.kind !== "polygon") return [];
  return shape.points.map((p, i) => ({ at: p, label: `corner ${i + 1}`, moved: (y, x) => ({ ...shape, points: shape.points.map((q, k) => (k === i ? [rounded(y), rounded(x)] : q)) }) }));
}

export class Regions {
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.places = new Set();
    this.draft = null;
  }

  get shape() {
    return this.draft ?? this.app.store.state?.roi ?? null;
  }

  attach(tile) {
    const place = { tile, group: svgEl("g", { class: "region" }), knobs: [] };
    place.path = [svgEl("path", { class: "halo" }), svgEl("path", { class: "line" })];
    place.group.append(...place.path);
    tile.view.layer.append(place.group);
    tile.view.marks.add(() => this.draw(place));
    this.places.add(place);
    tile.end(() => this.places.delete(place));
  }

  actions(tile) {
    const draw = (kind) => [`Region: ${REGION_TITLES[kind]}`, () => this.start(tile, kind), kind];
    return ["rectangle", "ellipse", "polygon"].map(draw).concat(this.shape ? [["Region: take away", () => this.send(null), "close"]] : []);
  }

  start(tile, kind) {
    if (!this.app.mayChangeOrSay()) return;
    startDrawing(tile, kind, (shape) => this.send(shape));
  }

  async send(shape) {
    await this.app.do("roi", { shape });
    this.draft = null;
    this.update();
  }

  update() {
    const shape = this.app.store.state?.roi;
    const key = JSON.stringify([shape, this.app.store.mayChange]);
    if (this.draft === null) for (const place of this.places) this.draw(place);
    if (key === this.key) return;
    this.key = key;
    this.root.replaceChildren();
    this.root.hidden = !shape;
    if (!shape) return;
    const n = shape.n === undefined ? "" : ` · ${shape.n.toLocaleString("en-US").replace(/,/g, " ")} positions`;
    this.root.append(
      el("h2", { text: "Region of the scan" }),
      el("div", { class: "row" }, el("span", { class: "grow", text: `${REGION_TITLES[shape.kind] ?? "mask"}${n}` }), button("Whole scan", () => this.send(null), { symbol: "close" })),
    );
  }

  draw(place) {
    const { view } = place.tile;
    const shape = this.shape;
    const nav = this.app.store.source?.nav ?? [];
    const fits = shape && view.full && nav.length >= 2 && nav.at(-2) === view.full[0] && nav.at(-1) === view.full[1];
    const map = view.full && view.width ? viewMap(view) : null;
    const d = fits && map ? regionPath(shape, map) : "";
    place.path.forEach((n) => n.setAttribute("d", d));
    const knobs = d && this.app.store.mayChange ? regionKnobs(shape) : [];
    while (place.knobs.length > knobs.length) place.knobs.pop().remove();
    knobs.forEach((knob, i) => {
      const node = (place.knobs[i] ??= this.knob(place, i));
      node.setAttribute("transform", `translate(${map.x(knob.at[1])} ${map.y(knob.at[0])})`);
      node.setAttribute("aria-label", `Region: ${knob.label}`);
      node.setAttribute("aria-valuenow", knob.at[1]);
      node.setAttribute("aria-valuemin", 0);
      node.setAttribute("aria-valuemax", view.full[1]);
      node.setAttribute("aria-valuetext", `y ${knob.at[0]}, x ${knob.at[1]}`);
    });
  }

  knob(place, i) {
    const { view } = place.tile;
    const node = svgEl("g", { class: "knob corner", role: "slider", tabindex: "0" }, svgEl("circle", { class: "reach", r: 13 }), svgEl("circle", { class: "rim", r: 6 }), svgEl("circle", { class: "body", r: 4.5 }));
    place.group.append(node);
    const move = (y, x) => {
      this.draft = regionKnobs(this.shape)[i].moved(y, x, view.full);
      delete this.draft.n;
      for (const p of this.places) this.draw(p);
    };
    node.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      event.preventDefault();
      node.setPointerCapture(event.pointerId);
      const follow = (e) => move(...view.at(e));
      node.addEventListener("pointermove", follow);
      node.addEventListener("pointerup", () => {
        node.removeEventListener("pointermove", follow);
        if (this.draft) this.send(this.draft);
      }, { once: true });
    });
    node.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      const n = event.shiftKey ? 10 : 1;
      const { at } = regionKnobs(this.shape)[i];
      move(at[0] + by[0] * n, at[1] + by[1] * n);
      clearTimeout(this.sending);
      this.sending = setTimeout(() => this.draft && this.send(this.draft), 300);
    });
    return node;
  }
}
