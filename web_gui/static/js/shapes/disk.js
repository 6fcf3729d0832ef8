// A disk: r < outer.

import { centreKnob, circlePath, movedCentre, radiusKnob } from "./round.js";
import { setOuter, shownOuter } from "./annulus.js";

export const DISK = {
  needs: ["centre", "outer"],
  fill: (v, map) => (v.outer === null ? "" : circlePath(map, v, v.outer)),
  lines: (v, map) => (v.outer === null ? [] : [{ key: "outer", d: circlePath(map, v, v.outer) }]),
  knobs: (v, frame) => [
    centreKnob(v, frame),
    {
      ...radiusKnob(v, "outer", shownOuter({ ...v, inner: 0 }, frame), 1, frame, "Radius", (w, r) => setOuter({ ...w, inner: 0 }, r, frame)),
      ...(v.outer === null ? { text: "radius: not limited" } : {}),
    },
  ],
  drag: (v, key, y, x, frame) => (key === "centre" ? movedCentre(v, y, x, frame) : setOuter({ ...v, inner: 0 }, Math.hypot(y - v.y, x - v.x), frame)),
};
