// A tile with an image: pixels of a topic, contrast, hover, export. Base of results, frames and pins.

import { lengthText, positionText } from "./axes.js";
import { button, el, put, select, write } from "./dom.js";
import { copyPicture, savePicture } from "./export.js";
import { Contrast } from "./histogram.js";
import { ImageView } from "./imageview.js";
import { short } from "./levels.js";
import { defaultMap, fieldOf, MODES, paintRows, wheelPicture } from "./picture.js";
import { profileOf, startProfile } from "./profile.js";
import { Tile } from "./tile.js";

const REST = 150; // ms that the pointer rests before the exact value is asked for

export class ImageTile extends Tile {
  constructor(app, key, label, { display = "image", map = "viridis", scale = "linear", calls = {} } = {}) {
    super(app, key);
    this.display = display;
    const known = app.layout.tile(key);
    const kept = (known.display ?? display) === display ? known : {}; // another kind of result had this name before
    const modes = MODES[display];
    this.mode = modes.some(([m]) => m === kept.mode) ? kept.mode : modes[0][0];
    this.view = new ImageView(label, { hover: (p) => this.hover(p), sized: () => this.sized(), double: () => this.toggleFull(), ...calls });
    this.contrast = new Contrast(label, { map: defaultMap(display, this.mode, map), scale, ...kept.contrast }, () => this.repaint(), (c) => app.layout.keep(key, { contrast: c, display }));
    this.chooser = modes.length > 1 ? select(`${label}: what is shown`, modes, this.mode, (v) => this.setMode(v)) : null;
    this.fit = button("Whole image (0)", () => this.view.reset(), { symbol: "fit", bare: true });
    this.head.insertBefore(this.fit, this.grow);
    this.view.marks.add((view) => (this.fit.hidden = view.zoom === 1));
    if (this.chooser) this.head.insertBefore(this.chooser, this.fit);
    this.body.append(this.view.root);
    if (display !== "image") {
      this.legend = el("canvas", { class: "legend", width: 92, height: 92, title: display === "vector" ? "colour: direction; brightness: size" : "colour: phase; brightness: amplitude" });
      this.legend.getContext("2d").putImageData(wheelPicture(92), 0, 0);
      this.legend.hidden = this.mode !== "wheel";
      this.view.root.append(this.legend);
    }
    this.foot.append(this.contrast.root);
    this.topic = null;
    this.options = {};
    this.unit = "";
    this.end(() => (this.unsubscribe?.(), this.view.close(), clearTimeout(this.asking)));
  }

  // Show another topic; options: at, channel.
  follow(topic, options = {}) {
    const same = topic === this.topic;
    if (same && JSON.stringify(options) === JSON.stringify(this.options)) return;
    this.options = options;
    if (same) return this.app.link.adjust(topic, { at: undefined, channel: undefined, ...options });
    this.unsubscribe?.();
    this.topic = topic;
    this.shown = null;
    this.field = null;
    this.view.clear();
    this.unsubscribe = topic ? this.app.link.subscribe(topic, (array) => this.take(array), { px: this.view.px, ...options }) : null;
  }

  sized() {
    if (this.topic && this.view.full) this.app.link.adjust(this.topic, { px: this.view.px });
  }

  grid(full, axes) {
    const before = this.view.full;
    if (before && before[0] === full[0] && before[1] === full[1] && this.axesKey === JSON.stringify(axes)) return;
    this.axesKey = JSON.stringify(axes);
    this.view.setGrid(full, axes);
  }

  take(array) {
    if (array.shape.length < 2) return;
    this.array = array;
    if (!this.view.full || this.view.full[0] !== array.full[0] || this.view.full[1] !== array.full[1]) this.view.setGrid(array.full.slice(0, 2), this.axes ?? []);
    this.field = fieldOf(array, this.display, this.mode, this.field);
    const moved = this.contrast.feed(this.field, this.display, this.mode);
    const rows = array.header.rows ?? [0, array.shape[0]];
    const all = moved || array.header.whole || this.painted !== array.shape.join();
    this.painted = array.shape.join();
    this.paint(all ? [0, array.shape[0]] : rows);
    this.taken?.(array);
    if (this.last) this.hover(this.last);
  }

  paint(rows) {
    const shape = this.array.shape;
    this.view.setPixels(shape, rows, (target, [y0, y1]) => paintRows(target, this.field, shape[1], [y0, y1], this.contrast));
    this.marks();
  }

  repaint() {
    if (this.field) this.paint([0, this.array.shape[0]]);
  }

  setMode(mode) {
    this.mode = mode;
    this.legend.hidden = mode !== "wheel";
    this.app.layout.keep(this.key, { mode, display: this.display });
    this.contrast.map = defaultMap(this.display, mode, "viridis");
    this.contrast.choose({ map: this.contrast.map });
    this.field = null;
    if (this.array) this.take(this.array);
  }

  marks() {
    const header = this.array?.header;
    const list = [];
    if (header?.rough) list.push(["preview", "A coarse picture first: every few positions in y and x were computed, those between look like the nearest one. They are computed now, and replace it."]);
    if (header && !header.exact) {
      const bin = this.array.bin;
      list.push(["≈", bin > 1 ? `approximate: each point is the mean of ${bin} × ${bin} pixels; zoom in, or wait, for exact values` : "approximate while data come in; exact values follow at rest"]);
    }
    this.notes(this.view.badge, [...list, ...(this.extraNotes?.() ?? [])]);
  }

  // -- what is under the pointer ------------------------------------------------

  hover(point) {
    this.last = point;
    clearTimeout(this.asking);
    if (!point || !this.array) {
      write(this.readout, "");
      return;
    }
    const y = Math.max(0, Math.min(this.array.full[0] - 1, Math.round(point[0])));
    const x = Math.max(0, Math.min(this.array.full[1] - 1, Math.round(point[1])));
    const [h, w] = this.array.shape;
    const i = Math.min(h - 1, Math.floor((y * h) / this.array.full[0])) * w + Math.min(w - 1, Math.floor((x * w) / this.array.full[1]));
    const components = this.array.values.length / (h * w);
    const value = components === 1 ? this.array.values[i] : [...this.array.values.slice(i * components, (i + 1) * components)];
    const exact = this.array.header.exact && !this.array.header.rough;
    this.tell([y, x], value, exact);
    if (!exact) this.asking = setTimeout(() => this.askExact([y, x]), REST);
  }

  async askExact([y, x]) {
    try {
      const { value } = await this.app.link.command("pixel", { topic: this.topic, y, x, ...(this.options.at ? { at: this.options.at } : {}), ...(this.options.channel ? { channel: this.options.channel } : {}) });
      const now = this.last?.map(Math.round);
      if (now && now[0] === y && now[1] === x) this.tell([y, x], value, true);
    } catch {
      // what is shown stays marked as approximate
    }
  }

  tell(at, value, exact) {
    write(this.readout, `${positionText(this.view.axes, at)}   ${exact ? "" : "≈ "}${this.valueText(value)}`);
    put(this.readout, "title", this.readout.textContent);
  }

  valueText(value) {
    const unit = this.unit ? ` ${this.unit}` : "";
    if (!Array.isArray(value)) return `${short(value)}${Number.isFinite(value) ? unit : ""}`;
    if (value.some((v) => v === null || Number.isNaN(v))) return "not seen";
    const [a, b] = value;
    if (this.display === "complex") return `${short(Math.hypot(a, b))} · ${short((Math.atan2(b, a) * 180) / Math.PI)}°${unit}`;
    return `y ${short(a)}, x ${short(b)}${unit}`;
  }

  // -- export --------------------------------------------------------------------

  actions() {
    const ready = Boolean(this.array && this.field);
    return [
      ["Full size", () => this.toggleFull(), "full"],
      ready && ["Line profile", () => startProfile(this), "line"],
      ready && ["Copy image with scale bar", () => copyPicture(this), "copy"],
      ready && ["Save image as PNG", () => savePicture(this), "save"],
    ].filter((x) => x !== false);
  }

  profile(from, to) {
    return profileOf(this.array, this.field, from, to);
  }

  lengthText(px) {
    return lengthText(this.view.axes[1], px);
  }
}

// A number that fills a tile.
export function bigNumber() {
  return el("div", { class: "stage number" });
}
