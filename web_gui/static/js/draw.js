// Drawing a region on an image: rectangle, ellipse, polygon, single pixel. In image coordinates, as the protocol has them.

import { svgEl } from "./dom.js";

export const REGION_TITLES = { rectangle: "rectangle", ellipse: "ellipse", polygon: "polygon", pixel: "single pixel" };
const HINTS = {
  rectangle: "Drag a rectangle. Enter: one in the middle. Esc: leave.",
  ellipse: "Drag an ellipse. Enter: one in the middle. Esc: leave.",
  polygon: "Click the corners; double click or Enter ends. Esc: leave.",
  pixel: "Click the pixels. Esc: ready.",
};

// SVG path of a region; map as for shapes.
export function regionPath(shape, map) {
  if (shape.kind === "rectangle") {
    const [x0, x1, y0, y1] = [map.x(shape.x0 - 0.5), map.x(shape.x1 - 0.5), map.y(shape.y0 - 0.5), map.y(shape.y1 - 0.5)];
    return `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
  }
  if (shape.kind === "ellipse") {
    const [cy, cx] = shape.centre;
    const [ry, rx] = shape.radii.map((r, i) => r * (i ? map.kx : map.ky));
    return `M${map.x(cx) - rx} ${map.y(cy)}A${rx} ${ry} 0 1 0 ${map.x(cx) + rx} ${map.y(cy)}A${rx} ${ry} 0 1 0 ${map.x(cx) - rx} ${map.y(cy)}Z`;
  }
  if (shape.kind === "polygon") return `M${shape.points.map(([y, x]) => `${map.x(x)} ${map.y(y)}`).join("L")}Z`;
  return "";
}

export function viewMap(view) {
  const p = view.place();
  return { kx: p.kx, ky: p.ky, x: (x) => p.left + (x + 0.5) * p.kx, y: (y) => p.top + (y + 0.5) * p.ky };
}

// What two corners of a drag mean; null where it is too small.
export function regionOf(kind, from, to, [h, w]) {
  const clampIn = (v, n) => Math.max(0, Math.min(n, v));
  const [y0, y1] = [from[0], to[0]].sort((a, b) => a - b);
  const [x0, x1] = [from[1], to[1]].sort((a, b) => a - b);
  if (kind === "rectangle") {
    const out = { kind, y0: clampIn(Math.round(y0 + 0.5), h - 1), x0: clampIn(Math.round(x0 + 0.5), w - 1), y1: clampIn(Math.round(y1 + 0.5), h), x1: clampIn(Math.round(x1 + 0.5), w) };
    return out.y1 > out.y0 && out.x1 > out.x0 ? out : null;
  }
  if (kind === "pixel") {
    const [y, x] = [clampIn(Math.round(to[0]), h - 1), clampIn(Math.round(to[1]), w - 1)];
    return { kind: "rectangle", y0: y, x0: x, y1: y + 1, x1: x + 1 };
  }
  const half = (a, b) => Math.round(5 * (b - a)) / 10;
  const out = { kind: "ellipse", centre: [Math.round(5 * (y0 + y1)) / 10, Math.round(5 * (x0 + x1)) / 10], radii: [half(y0, y1), half(x0, x1)] };
  return out.radii[0] > 0.5 && out.radii[1] > 0.5 ? out : null;
}

// Draw one region (or pixels until Escape) on the view of a tile; done(shape) for each.
export function startDrawing(tile, kind, done) {
  const { view } = tile;
  tile.drawingEnd?.();
  const path = [svgEl("path", { class: "halo" }), svgEl("path", { class: "line" })];
  const group = svgEl("g", { class: "drawing" }, ...path);
  const hint = document.createElement("span");
  hint.className = "badge hint";
  hint.textContent = HINTS[kind];
  let from = null;
  let shape = null;
  let points = [];
  const show = (d) => path.forEach((n) => n.setAttribute("d", d));
  const draw = () => {
    if (kind !== "polygon") show(shape ? regionPath(shape, viewMap(view)) : "");
    else show(points.length ? regionPath({ kind, points }, viewMap(view)) : "");
  };
  const end = () => {
    view.tool = null;
    tile.drawingEnd = null;
    view.root.classList.remove("draws");
    view.marks.delete(draw);
    group.remove();
    hint.remove();
    removeEventListener("keydown", key, true);
  };
  const finish = (made) => {
    if (kind !== "pixel") end();
    if (made) done(made);
  };
  const polygon = () => {
    const [h, w] = view.full;
    const inside = points.map(([y, x]) => [Math.round(10 * Math.max(-0.5, Math.min(h - 0.5, y))) / 10, Math.round(10 * Math.max(-0.5, Math.min(w - 0.5, x))) / 10]);
    const own = inside.filter((p, i) => i === 0 || Math.hypot(p[0] - inside[i - 1][0], p[1] - inside[i - 1][1]) > 0.2);
    finish(own.length > 2 ? { kind, points: own } : null);
  };
  const key = (event) => {
    if (event.key === "Escape") end();
    else if (event.key === "Enter" && kind === "polygon" && points.length > 2) polygon();
    else if (event.key === "Enter" && (kind === "rectangle" || kind === "ellipse")) {
      const [h, w] = view.full;
      finish(regionOf(kind, [h / 4 - 0.5, w / 4 - 0.5], [(3 * h) / 4 - 0.5, (3 * w) / 4 - 0.5], view.full));
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  view.tool = {
    down: (point, event) => {
      if (kind === "polygon") {
        if (event.detail > 1) return;
        points.push(point);
      } else from = point;
      draw();
    },
    move: (point) => {
      if (kind === "polygon") points[points.length - 1] = point;
      else if (from) shape = regionOf(kind, from, point, view.full);
      draw();
    },
    up: (point, event) => {
      if (kind === "polygon") {
        if (points.length > 3 && event.timeStamp - (points.last ?? -1e9) < 350) polygon();
        else points.last = event.timeStamp;
        return;
      }
      const made = from && regionOf(kind, from, point, view.full);
      from = null;
      shape = null;
      draw();
      finish(made);
    },
  };
  view.root.classList.add("draws");
  view.marks.add(draw);
  view.layer.append(group);
  view.root.append(hint);
  addEventListener("keydown", key, true);
  tile.drawingEnd = end;
  tile.end(() => tile.drawingEnd?.());
}
