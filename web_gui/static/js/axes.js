// Physical units: from an index to a value with its unit. Pure.

import { short } from "./levels.js";

export function pixelAxis(name, size) {
  return { name, size, step: 1, offset: 0, unit: "px" };
}

export function isCalibrated(axis) {
  return Boolean(axis) && Boolean(axis.unit) && axis.unit !== "px" && axis.unit !== "";
}

export function axisValue(axis, i) {
  return axis.offset + i * axis.step;
}

// Names of the parts along an axis: "y_x" of two are y and x, others have numbers.
export function componentNames(axis, n) {
  const parts = (axis?.name ?? "").split("_").filter(Boolean);
  return parts.length === n && n > 1 ? parts : Array.from({ length: n }, (_, i) => `${axis?.name ?? ""} ${i}`.trim());
}

// "y 12, x 40 (4.8, 16 nm)"
export function positionText(axes, at) {
  const px = at.map((v, i) => `${axes[i].name || "yx"[i]} ${short(Number(v.toFixed(1)))}`).join(", ");
  if (!axes.every(isCalibrated)) return px;
  const values = at.map((v, i) => short(Number(axisValue(axes[i], v).toPrecision(4))));
  const units = [...new Set(axes.map((a) => a.unit))];
  return units.length === 1 ? `${px} (${values.join(", ")} ${units[0]})` : `${px} (${values.map((v, i) => `${v} ${axes[i].unit}`).join(", ")})`;
}

export function lengthText(axis, px) {
  return isCalibrated(axis) ? `${short(Number((px * Math.abs(axis.step)).toPrecision(4)))} ${axis.unit}` : `${short(Number(px.toFixed(1)))} px`;
}

export function distanceText(axes, dy, dx) {
  const [ay, ax] = axes;
  if (isCalibrated(ay) && ay.unit === ax?.unit) return `${short(Number(Math.hypot(dy * ay.step, dx * ax.step).toPrecision(4)))} ${ay.unit}`;
  return `${short(Number(Math.hypot(dy, dx).toFixed(1)))} px`;
}

// Height of a pixel over its width as drawn; null: fill the view (the axes have nothing in common).
export function pixelAspect(axes) {
  const [ay, ax] = axes;
  if (!isCalibrated(ay) && !isCalibrated(ax)) return 1;
  if (!ay || !ax || ay.unit !== ax.unit) return null;
  const ratio = Math.abs(ay.step / ax.step);
  return Number.isFinite(ratio) && ratio > 0.05 && ratio < 20 ? ratio : 1;
}
