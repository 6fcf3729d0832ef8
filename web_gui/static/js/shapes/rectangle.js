// A rectangle around its centre; height or width null: the whole frame.

import { between, centreKnob, movedCentre, tenth } from "./round.js";

function rectangleSize(v, frame) {
  return [v.height ?? frame[0], v.width ?? frame[1]];
}

function rectanglePath(v, map, frame) {
  const [h, w] = rectangleSize(v, frame);
  return `M${map.x(v.x - w / 2)} ${map.y(v.y - h / 2)}H${map.x(v.x + w / 2)}V${map.y(v.y + h / 2)}H${map.x(v.x - w / 2)}Z`;
}

function resizedRectangle(v, h, w, frame) {
  return { ...v, height: tenth(between(h, 1, 2 * frame[0])), width: tenth(between(w, 1, 2 * frame[1])) };
}

export const RECTANGLE = {
  needs: ["centre", "height", "width"],
  fill: (v, map, frame) => rectanglePath(v, map, frame),
  lines: (v, map, frame) => [{ key: "corner", d: rectanglePath(v, map, frame) }],
  knobs: (v, frame) => {
    const [h, w] = rectangleSize(v, frame);
    return [
      centreKnob(v, frame),
      {
        key: "width", y: v.y, x: between(v.x + w / 2, 0, frame[1] - 1), kind: "radius", label: "Width", now: w, min: 1, max: 2 * frame[1],
        text: `width ${tenth(w)} px`, step: (u, dy, dx) => ({ ...resizedRectangle(u, h, w + dx - dy, frame), height: u.height }),
      },
      {
        key: "height", y: between(v.y + h / 2, 0, frame[0] - 1), x: v.x, kind: "radius", label: "Height", now: h, min: 1, max: 2 * frame[0],
        text: `height ${tenth(h)} px`, step: (u, dy, dx) => ({ ...resizedRectangle(u, h + dx - dy, w, frame), width: u.width }),
      },
    ];
  },
  drag: (v, key, y, x, frame) => {
    if (key === "centre") return movedCentre(v, y, x, frame);
    const [h, w] = rectangleSize(v, frame);
    const next = resizedRectangle(v, key === "width" ? h : 2 * Math.abs(y - v.y), key === "height" ? w : 2 * Math.abs(x - v.x), frame);
    return { ...next, height: key === "width" ? v.height : next.height, width: key === "height" ? v.width : next.width };
  },
};
