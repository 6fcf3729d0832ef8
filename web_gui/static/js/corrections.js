// Dark and gain reference, and pixels that do not count: beam stop and hot pixels, drawn on the frame.

import { button, el, icon, svgEl } from "./dom.js";
import { REGION_TITLES, regionPath, startDrawing, viewMap } from "./draw.js";

export class CorrectionsPanel {
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.places = new Set();
  }

  // What the pixels that are left out were made of: drawn shapes, files, a mask that a script gave.
  get shapes() {
    return this.own ?? this.app.store.state?.corrections.shapes ?? [];
  }

  attach(tile) {
    const place = { tile, path: [svgEl("path", { class: "halo" }), svgEl("path", { class: "line" })] };
    tile.view.layer.append(svgEl("g", { class: "excluded" }, ...place.path));
    tile.view.marks.add(() => this.draw(place));
    this.places.add(place);
    tile.end(() => this.places.delete(place));
    this.draw(place);
  }

  actions() {
    const tile = [...this.places][0]?.tile;
    if (!tile) return [];
    return ["rectangle", "ellipse", "polygon", "pixel"].map((kind) => [`Leave out: ${REGION_TITLES[kind]}`, () => this.start(tile, kind), kind === "pixel" ? "dotted" : kind]);
  }

  start(tile, kind) {
    if (this.app.mayChangeOrSay()) startDrawing(tile, kind, (shape) => this.exclude([...this.shapes, shape]));
  }

  async exclude(shapes) {
    this.own = shapes; // shown, and added to, until the server has it
    this.update();
    if ((await this.app.do("corrections", { excluded: shapes.length ? shapes : null, on: true })) !== undefined) return;
    this.own = null;
    this.update();
  }

  async maskFile() {
    const path = await this.app.pickFile("Mask: pixels that are not 0 are left out");
    if (path) await this.exclude([...this.shapes, { kind: "file", path }]);
  }

  async file(kind) {
    const path = await this.app.pickFile(kind === "dark" ? "Dark reference" : "Gain reference");
    if (path) await this.app.do("corrections", { [kind]: path, on: true });
  }

  update() {
    const c = this.app.store.state?.corrections;
    const source = this.app.store.source;
    if (this.own && JSON.stringify(this.own) === JSON.stringify(c?.shapes)) this.own = null;
    const key = JSON.stringify([c, source?.id, source?.sig, this.app.store.mayChange, this.shapes]);
    if (key === this.key) return;
    this.key = key;
    for (const place of this.places) this.draw(place);
    const open = this.root.querySelector("details")?.open ?? false;
    this.root.replaceChildren();
    this.root.hidden = !source?.sig;
    if (!source?.sig || !c) return;
    const used = [c.dark && "dark", c.gain && "gain", c.excluded && `${c.excluded} px left out`].filter(Boolean);
    const reference = (kind, title) =>
      el("div", { class: "row" }, el("span", { class: "grow", text: `${title}: ${c[kind] ? String(c[kind]).split("/").pop() : "none"}`, title: c[kind] ?? "" }), button("Choose…", () => this.file(kind)), c[kind] && button(`No ${kind} reference`, () => this.app.do("corrections", { [kind]: null, on: c.on }), { symbol: "close", bare: true }));
    const files = this.shapes.filter((s) => s.kind === "file").map((s) => s.path.split("/").pop());
    const draw = (kind) => button(`Leave out: ${REGION_TITLES[kind]}`, () => [...this.places][0] && this.start([...this.places][0].tile, kind), { symbol: kind === "pixel" ? "dotted" : kind, bare: true });
    const body = el(
      "fieldset",
      { class: "fields", disabled: !this.app.store.mayChange },
      used.length ? el("label", { class: "check" }, el("input", { type: "checkbox", checked: c.on, on: { change: (e) => this.app.do("corrections", { on: e.target.checked }) } }), "use the corrections") : null,
      reference("dark", "Dark"),
      reference("gain", "Gain"),
      source.sig.length === 2
        ? el(
            "div",
            { class: "row" },
            el("span", { class: "grow", text: `Left out: ${c.excluded || 0} px${files.length ? `, ${files.join(", ")}` : ""}`, title: "beam stop, hot pixels: excluded in all analyses" }),
            ["rectangle", "ellipse", "polygon", "pixel"].map(draw),
            button("Leave out: mask from a file", () => this.maskFile(), { symbol: "folder", bare: true }),
            this.shapes.length && !this.shapes.some((s) => s.kind === "mask") ? button("Take the last one back", () => this.exclude(this.shapes.slice(0, -1)), { symbol: "undo", bare: true }) : null,
            c.excluded ? button("Leave nothing out", () => this.exclude([]), { symbol: "trash", bare: true }) : null,
          )
        : null,
    );
    this.root.append(el("details", { class: "fold", open: open }, el("summary", {}, el("h2", { text: "Corrections" }), el("span", { class: "dim", text: used.length ? (c.on ? used.join(", ") : "off") : "none" }), !c.on && used.length ? icon("warn") : null), body));
  }

  draw({ tile, path }) {
    const { view } = tile;
    if (!view.full || !view.width) return;
    const map = viewMap(view);
    const d = this.shapes.filter((s) => !["file", "mask"].includes(s.kind)).map((s) => regionPath(s, map)).join("");
    path.forEach((n) => n.setAttribute("d", d));
  }
}
