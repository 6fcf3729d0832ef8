// Values along a line that is drawn over an image.

import { distanceText, isCalibrated } from "./axes.js";
import { button, el, svgEl } from "./dom.js";
import { Plot } from "./plot1d.js";

// Nearest values along the line, one for each pixel of its length.
export function profileOf(array, field, from, to) {
  const [h, w] = array.shape;
  const k = [h / array.full[0], w / array.full[1]];
  const n = Math.max(2, Math.round(Math.hypot(to[0] - from[0], to[1] - from[1])) + 1);
  const out = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const t = i / (n - 1);
    const y = Math.floor((from[0] + t * (to[0] - from[0]) + 0.5) * k[0]);
    const x = Math.floor((from[1] + t * (to[1] - from[1]) + 0.5) * k[1]);
    out[i] = y >= 0 && x >= 0 && y < h && x < w ? field.values[y * w + x] : NaN;
  }
  return out;
}

export function startProfile(tile) {
  if (tile.profileEnd) return tile.profileEnd();
  const { view } = tile;
  const [h, w] = view.full;
  let ends = [[(h - 1) / 2, 0.1 * (w - 1)], [(h - 1) / 2, 0.9 * (w - 1)]];
  const plot = new Plot(`Line profile of ${tile.heading.textContent}`);
  const length = el("span", { class: "dim" });
  const panel = el("div", { class: "profile" }, el("div", { class: "profile-head" }, "Line profile", length, button("Close the profile", () => tile.profileEnd(), { symbol: "close", bare: true })), plot.root);
  const line = [svgEl("line", { class: "halo" }), svgEl("line", { class: "line" })];
  const knobs = ends.map((_, i) => {
    const node = svgEl("g", { class: "knob radius", role: "slider", tabindex: "0", "aria-label": `Line profile: ${i ? "end" : "start"}`, "aria-valuemin": 0, "aria-valuemax": w - 1 }, svgEl("circle", { class: "reach", r: 13 }), svgEl("circle", { class: "rim", r: 7 }), svgEl("circle", { class: "body", r: 5.5 }));
    node.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      event.preventDefault();
      node.setPointerCapture(event.pointerId);
      const move = (e) => put(i, view.at(e));
      node.addEventListener("pointermove", move);
      node.addEventListener("pointerup", () => node.removeEventListener("pointermove", move), { once: true });
    });
    node.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      const n = event.shiftKey ? 10 : 1;
      put(i, [ends[i][0] + by[0] * n, ends[i][1] + by[1] * n]);
    });
    return node;
  });
  const group = svgEl("g", { class: "shape active colour1" }, ...line, ...knobs);
  const put = (i, [y, x]) => {
    ends[i] = [Math.max(0, Math.min(h - 1, y)), Math.max(0, Math.min(w - 1, x))];
    draw();
    show();
  };
  const draw = () => {
    const p = ends.map(([y, x]) => view.toScreen(y, x));
    for (const node of line) for (const [k, v] of Object.entries({ y1: p[0][0], x1: p[0][1], y2: p[1][0], x2: p[1][1] })) node.setAttribute(k, v);
    knobs.forEach((node, i) => {
      node.setAttribute("transform", `translate(${p[i][1]} ${p[i][0]})`);
      node.setAttribute("aria-valuenow", ends[i][1]);
      node.setAttribute("aria-valuetext", `y ${ends[i][0].toFixed(1)}, x ${ends[i][1].toFixed(1)} px`);
    });
  };
  const show = () => {
    if (!tile.field) return;
    const values = profileOf(tile.array, tile.field, ...ends);
    const [dy, dx] = [ends[1][0] - ends[0][0], ends[1][1] - ends[0][1]];
    const [ay, ax] = view.axes;
    const same = isCalibrated(ax) && ax.unit === ay.unit;
    const step = same ? Math.hypot(dy * ay.step, dx * ax.step) / (values.length - 1) : Math.hypot(dy, dx) / (values.length - 1);
    length.textContent = distanceText(view.axes, dy, dx);
    plot.show([values], { name: same ? "distance" : "distance (px)", size: values.length, step, offset: 0, unit: same ? ax.unit : "px" });
  };
  const before = tile.taken;
  tile.taken = (array) => (before?.call(tile, array), show());
  view.marks.add(draw);
  view.layer.append(group);
  tile.body.append(panel);
  tile.profileEnd = () => {
    tile.profileEnd = null;
    tile.taken = before;
    view.marks.delete(draw);
    group.remove();
    plot.close();
    panel.remove();
  };
  tile.end(() => plot.close());
  draw();
  show();
}
