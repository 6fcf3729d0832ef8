// A ring: inner <= r < outer; outer null reaches to the corners.

import { between, centreKnob, circlePath, movedCentre, radiusKnob, reach, tenth } from "./round.js";

const GAP = 0.5; // least width of a ring, px

export function setInner(v, r, frame) {
  return { ...v, inner: tenth(between(r, 0, (v.outer ?? reach(v, frame)) - GAP)) };
}

export function setOuter(v, r, frame) {
  return { ...v, outer: tenth(between(r, (v.inner ?? 0) + GAP, reach(v, frame))) };
}

// Where the outer knob is while there is no outer radius.
export function shownOuter(v, frame) {
  return v.outer ?? Math.max((v.inner ?? 0) + GAP, 0.48 * Math.min(...frame));
}

export const ANNULUS = {
  needs: ["centre", "inner", "outer"],
  fill: (v, map, frame) => {
    const corners = `M${map.x(-0.5)} ${map.y(-0.5)}H${map.x(frame[1] - 0.5)}V${map.y(frame[0] - 0.5)}H${map.x(-0.5)}Z`;
    return (v.outer === null ? corners : circlePath(map, v, v.outer)) + (v.inner > 0 ? circlePath(map, v, v.inner) : "");
  },
  lines: (v, map) => [
    ...(v.outer === null ? [] : [{ key: "outer", d: circlePath(map, v, v.outer) }]),
    ...(v.inner > 0 ? [{ key: "inner", d: circlePath(map, v, v.inner) }] : []),
  ],
  knobs: (v, frame) => [
    centreKnob(v, frame),
    radiusKnob(v, "inner", v.inner ?? 0, -1, frame, "Inner radius", (w, r) => setInner(w, r, frame)),
    {
      ...radiusKnob(v, "outer", shownOuter(v, frame), 1, frame, "Outer radius", (w, r) => setOuter(w, r, frame)),
      ...(v.outer === null ? { text: "outer radius: to the corners" } : {}),
    },
  ],
  drag: (v, key, y, x, frame) => {
    if (key === "centre") return movedCentre(v, y, x, frame);
    const r = Math.hypot(y - v.y, x - v.x);
    return key === "inner" ? setInner(v, r, frame) : setOuter(v, r, frame);
  },
};
