// One point.

import { centreKnob, circlePath, movedCentre } from "./round.js";

export const POINT = {
  needs: ["centre"],
  fill: () => "",
  lines: (v, map) => [{ key: "centre", d: circlePath(map, v, 4 / map.kx) }],
  knobs: (v, frame) => [centreKnob(v, frame)],
  drag: (v, key, y, x, frame) => movedCentre(v, y, x, frame),
};
