// A part of a ring: start <= angle < stop in degrees, anticlockwise from the +x axis as the frame is shown.

import { ANNULUS, shownOuter } from "./annulus.js";
import { circlePath } from "./round.js";

function onCircle(v, r, degrees) {
  const a = (degrees * Math.PI) / 180;
  return [v.y - r * Math.sin(a), v.x + r * Math.cos(a)];
}

function sectorSpan([start, stop]) {
  return stop - start >= 360 ? 360 : (((stop - start) % 360) + 360) % 360;
}

function arc(v, map, r, from, to, move) {
  const [y0, x0] = onCircle(v, r, from);
  const [y1, x1] = onCircle(v, r, to);
  const large = Math.abs(to - from) > 180 ? 1 : 0;
  return `${move}${map.x(x0)} ${map.y(y0)}A${r * map.kx} ${r * map.ky} 0 ${large} ${to > from ? 0 : 1} ${map.x(x1)} ${map.y(y1)}`;
}

function sectorPath(v, map, frame) {
  const outer = shownOuter(v, frame);
  const span = sectorSpan(v.angles);
  if (span === 360) return circlePath(map, v, outer) + (v.inner > 0 ? circlePath(map, v, v.inner) : "");
  const [a, b] = [v.angles[0], v.angles[0] + span];
  if (!(v.inner > 0)) return `M${map.x(v.x)} ${map.y(v.y)}${arc(v, map, outer, a, b, "L")}Z`;
  return `${arc(v, map, outer, a, b, "M")}${arc(v, map, v.inner, b, a, "L")}Z`;
}

function turned(v, index, degrees) {
  const angles = [...v.angles];
  angles[index] = Math.round((((degrees % 360) + 360) % 360) * 10) / 10;
  if (index === 1 && angles[1] <= angles[0]) angles[1] += 360;
  if (index === 0 && angles[1] - angles[0] > 360) angles[1] -= 360;
  if (index === 0 && angles[1] <= angles[0]) angles[1] += 360;
  return { ...v, angles };
}

function angleKnob(v, index, frame) {
  const outer = shownOuter(v, frame);
  const [y, x] = onCircle(v, ((v.inner ?? 0) + outer) / 2, v.angles[index]);
  const label = index ? "Stop angle" : "Start angle";
  return {
    key: index ? "stop" : "start", y, x, kind: "angle", label, now: v.angles[index], min: 0, max: 720,
    text: `${label.toLowerCase()} ${v.angles[index]} degrees`, step: (u, dy, dx) => turned(u, index, u.angles[index] + dx - dy),
  };
}

// The radius knobs, put into the middle of the sector.
function onSector(v, knob, frame) {
  if (knob.kind !== "radius") return knob;
  const middle = v.angles[0] + sectorSpan(v.angles) / 2;
  const [y, x] = onCircle(v, knob.now, middle);
  return { ...knob, y: Math.max(0, Math.min(frame[0] - 1, y)), x: Math.max(0, Math.min(frame[1] - 1, x)) };
}

export const SECTOR = {
  needs: ["centre", "inner", "outer", "angles"],
  fill: sectorPath,
  lines: (v, map, frame) => [{ key: "outer", d: sectorPath(v, map, frame) }],
  knobs: (v, frame) => [...ANNULUS.knobs(v, frame).map((k) => onSector(v, k, frame)), angleKnob(v, 0, frame), angleKnob(v, 1, frame)],
  drag: (v, key, y, x, frame) => {
    if (key !== "start" && key !== "stop") return ANNULUS.drag(v, key, y, x, frame);
    return turned(v, key === "stop" ? 1 : 0, (Math.atan2(-(y - v.y), x - v.x) * 180) / Math.PI);
  },
};
