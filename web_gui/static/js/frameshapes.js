// Shapes of all analyses over views of the frame: the selected one with handles, the others as outlines.

import { Overlay } from "./overlay.js";

export class FrameShapes {
  constructor(app) {
    this.app = app;
    this.places = new Set(); // {tile, overlay, shape}
    app.store.addEventListener("draft", () => this.update());
  }

  // shape: of the array where the tile shows something like a frame; null: the frame itself.
  attach(tile, shape) {
    const place = { tile, overlay: new Overlay(tile.view), shape };
    this.places.add(place);
    tile.end(() => this.places.delete(place));
    this.update();
  }

  update() {
    const { app } = this;
    const source = app.store.source;
    if (!source?.sig) return;
    const items = {};
    for (const id of app.store.state.order) {
      const a = app.store.analysis(id);
      const item = a && this.fits(a) ? this.item(a) : null;
      if (item) items[id] = item;
    }
    for (const { overlay, shape } of this.places) {
      const sig = app.frameChannel()?.sig ?? source.sig;
      const same = shape === null || (shape.length === 2 && shape[0] === sig[0] && shape[1] === sig[1]);
      overlay.show(same ? items : {});
    }
  }

  fits(a) {
    const channels = this.app.store.source.channels ?? [];
    const name = a.channel ?? channels[0]?.name;
    return channels.length < 2 || name === (this.app.frameChannel()?.name ?? channels[0]?.name);
  }

  item(a) {
    const { store } = this.app;
    const handle = this.app.handleOf(a);
    if (!handle) return null;
    const number = (name, missing) => {
      const v = name ? store.resolvedParam(a.id, name) : missing;
      return typeof v === "number" ? v : missing;
    };
    const centre = store.resolvedParam(a.id, handle.centre) ?? store.source.centre;
    if (!Array.isArray(centre)) return null;
    const values = {
      y: centre[0], x: centre[1], inner: number(handle.inner, 0), outer: number(handle.outer, null), height: number(handle.height, null),
      width: number(handle.width, null), angles: handle.angles ? store.param(a.id, handle.angles) ?? [0, 360] : null,
    };
    const active = a.id === this.app.selected;
    return {
      kind: handle.kind, values, colour: a.colour, label: a.title, active, disabled: !store.mayChange,
      pick: () => this.app.select(a.id),
      change: (next) => this.changed(a.id, handle, values, next),
    };
  }

  // Send what is different from what was shown.
  changed(id, handle, before, next) {
    const { store } = this.app;
    const params = {};
    if (next.y !== before.y || next.x !== before.x) params[handle.centre] = [next.y, next.x];
    for (const key of ["inner", "outer", "height", "width"]) if (handle[key] && next[key] !== before[key]) params[handle[key]] = next[key];
    if (handle.angles && next.angles.join() !== (before.angles ?? []).join()) params[handle.angles] = next.angles;
    if (Object.keys(params).length) store.set(id, params);
  }
}
