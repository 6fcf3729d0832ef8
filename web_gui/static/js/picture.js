// From numbers to pixels: maps, colour wheels, and the numbers a histogram is made of. Pure.

import { table, UNSEEN, wheel } from "./colormap.js";
import { scaler } from "./levels.js";

export const MODES = {
  image: [["value", "value"]],
  vector: [["wheel", "direction and size"], ["size", "size"], ["y", "y part"], ["x", "x part"], ["angle", "direction"]],
  complex: [["wheel", "phase and amplitude"], ["size", "amplitude"], ["angle", "phase"], ["x", "real part"], ["y", "imaginary part"]],
};

const SHADES = 65536;
const HUES = 360;
const BRIGHT = 64;
const unseen32 = new Uint32Array(new Uint8ClampedArray(UNSEEN).buffer)[0];
const shadeTables = new Map();
let wheel32 = null;

// 32-bit colours of SHADES values spread evenly between the limits.
function shades(map, scale, limits) {
  const key = scale === "symlog" ? `${map}|${scale}|${limits}` : `${map}|${scale}`;
  let found = shadeTables.get(key);
  if (!found) {
    if (shadeTables.size > 40) shadeTables.clear();
    const colours = new Uint32Array(table(map).buffer);
    const span = scale === "symlog" ? limits : [0, 1];
    const f = scaler(scale, span);
    found = new Uint32Array(SHADES);
    for (let i = 0; i < SHADES; i++) {
      const t = f(span[0] + (span[1] - span[0]) * (i / (SHADES - 1)));
      found[i] = colours[Math.max(0, Math.min(255, Math.round(255 * t)))];
    }
    shadeTables.set(key, found);
  }
  return found;
}

function wheelTable() {
  if (wheel32) return wheel32;
  const bytes = new Uint8ClampedArray(HUES * BRIGHT * 4);
  for (let h = 0; h < HUES; h++) {
    for (let b = 0; b < BRIGHT; b++) {
      const rgb = wheel(h / HUES, b / (BRIGHT - 1));
      bytes.set([...rgb, 255], 4 * (h * BRIGHT + b));
    }
  }
  wheel32 = new Uint32Array(bytes.buffer);
  return wheel32;
}

// One number for each pixel, for histogram, limits and hover: {values, turns}; turns (0 to 1) only where a wheel is drawn.
export function fieldOf(array, display, mode, before = null) {
  const values = array.values;
  if (display === "image" || array.shape.length < 3) return { values, turns: null };
  const n = array.shape[0] * array.shape[1];
  const out = before?.values?.length === n && before.own ? before.values : new Float32Array(n);
  const turns = mode === "wheel" ? (before?.turns?.length === n ? before.turns : new Float32Array(n)) : null;
  // vectors come as (y, x) with y downwards; complex numbers as (real, imaginary)
  const [px, py, sign] = display === "vector" ? [1, 0, -1] : [0, 1, 1];
  for (let i = 0; i < n; i++) {
    const x = values[2 * i + px];
    const y = values[2 * i + py];
    if (mode === "x") out[i] = x;
    else if (mode === "y") out[i] = y;
    else if (mode === "angle") out[i] = x !== x || y !== y ? NaN : (Math.atan2(sign * y, x) * 180) / Math.PI;
    else out[i] = Math.hypot(x, y);
    if (turns) turns[i] = Math.atan2(sign * y, x) / (2 * Math.PI);
  }
  return { values: out, turns, own: true };
}

// Paint rows y0 to y1 of `target` (Uint32Array of width * height).
export function paintRows(target, field, width, [y0, y1], { map, scale, limits }) {
  const [lo, hi] = limits;
  const values = field.values;
  const k = (SHADES - 1) / (hi - lo || 1);
  const end = y1 * width;
  if (field.turns) {
    const colours = wheelTable();
    const f = scaler(scale, limits);
    for (let i = y0 * width; i < end; i++) {
      const v = values[i];
      if (v !== v) target[i] = unseen32;
      else {
        const hue = Math.floor((((field.turns[i] % 1) + 1) % 1) * HUES) % HUES;
        target[i] = colours[hue * BRIGHT + Math.max(0, Math.min(BRIGHT - 1, Math.round(f(v) * (BRIGHT - 1))))];
      }
    }
    return;
  }
  const colours = shades(map, scale, limits);
  for (let i = y0 * width; i < end; i++) {
    const v = values[i];
    if (v !== v) target[i] = unseen32;
    else {
      const t = (v - lo) * k;
      target[i] = colours[t <= 0 ? 0 : t >= SHADES - 1 ? SHADES - 1 : t | 0];
    }
  }
}

// A disk that says which colour is which direction: right is 0, up is a quarter turn.
export function wheelPicture(size) {
  const data = new ImageData(size, size);
  const target = new Uint32Array(data.data.buffer);
  const c = (size - 1) / 2;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const r = Math.hypot(y - c, x - c) / (c + 0.5);
      const turn = ((Math.atan2(c - y, x - c) / (2 * Math.PI)) % 1 + 1) % 1;
      if (r <= 1) target[y * size + x] = wheelTable()[(Math.floor(turn * HUES) % HUES) * BRIGHT + Math.round(r * (BRIGHT - 1))];
    }
  }
  return data;
}

export function isSigned(display, mode) {
  return display !== "image" && (mode === "x" || mode === "y");
}

// The map a view begins with.
export function defaultMap(display, mode, fallback = "viridis") {
  if (isSigned(display, mode)) return "blue white red";
  return mode === "angle" ? "twilight" : fallback;
}
