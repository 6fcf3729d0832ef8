// Contrast: histogram, limits, and scales from values to 0..1. Pure.

export const SCALES = ["linear", "log", "sqrt", "symlog"];
const BINS = 128;

// Smallest and largest finite value; null where there is none.
export function extent(values) {
  let lo = Infinity;
  let hi = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const v = values[i];
    if (v < lo && v > -Infinity) lo = v;
    if (v > hi && v < Infinity) hi = v;
  }
  return lo <= hi ? [lo, hi] : null;
}

export function histogram(values, [lo, hi]) {
  const counts = new Uint32Array(BINS);
  const k = hi > lo ? BINS / (hi - lo) : 0;
  for (let i = 0; i < values.length; i++) {
    const v = values[i];
    if (v >= lo && v <= hi) counts[Math.min(BINS - 1, Math.floor((v - lo) * k))] += 1;
  }
  return counts;
}

// Limits that hold all but the outermost 0.3 % on either side, from a sample: hot pixels do not darken the image.
export function robust(values, part = 0.003) {
  const step = Math.max(1, Math.floor(values.length / 6000));
  const sample = new Float64Array(Math.ceil(values.length / step));
  let n = 0;
  for (let i = 0; i < values.length; i += step) if (Number.isFinite(values[i])) sample[n++] = values[i];
  if (n === 0) return null;
  const seen = sample.subarray(0, n).sort();
  const lo = seen[Math.floor(part * (n - 1))];
  const hi = seen[Math.ceil((1 - part) * (n - 1))];
  if (hi > lo) return [lo, hi];
  const all = extent(values); // nearly all pixels have one value: the others are what is to be seen
  return all[1] > all[0] ? all : spread(lo);
}

function spread(value) {
  const half = Math.abs(value) * 1e-3 || 0.5;
  return [value - half, value + half];
}

// A function value -> 0..1 (may lie outside; NaN stays NaN).
export function scaler(kind, [lo, hi]) {
  const width = hi - lo || 1;
  if (kind === "sqrt") return (v) => Math.sqrt(Math.max(0, (v - lo) / width));
  if (kind === "log") {
    const k = Math.log1p(1000);
    return (v) => Math.log1p(Math.max(0, (1000 * (v - lo)) / width)) / k;
  }
  if (kind === "symlog") {
    const top = Math.max(Math.abs(lo), Math.abs(hi)) || 1;
    const f = (v) => Math.sign(v) * Math.log1p((1000 * Math.abs(v)) / top);
    const a = f(lo);
    const b = f(hi);
    return (v) => (f(v) - a) / (b - a || 1);
  }
  return (v) => (v - lo) / width;
}

// A number for people: 4 digits, no rounding noise.
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "not seen";
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value).replace(/\B(?=(\d{3})+$)/g, " ");
  const size = Math.abs(value);
  if (size >= 1e5 && size < 1e7) return short(Math.round(value));
  return size !== 0 && (size >= 1e7 || size < 1e-3) ? value.toExponential(3) : String(Number(value.toPrecision(5)));
}

// A round length for a scale bar: 1, 2 or 5 times a power of ten, at most `most`.
export function round125(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  for (const k of [5, 2, 1]) if (k * power <= most) return k * power;
  return power;
}

// The inverse of `scaler`: 0..1 -> value.
export function unscaler(kind, [lo, hi]) {
  const width = hi - lo || 1;
  if (kind === "sqrt") return (t) => lo + t * t * width;
  if (kind === "log") return (t) => lo + (Math.expm1(t * Math.log1p(1000)) / 1000) * width;
  if (kind === "symlog") {
    const top = Math.max(Math.abs(lo), Math.abs(hi)) || 1;
    const f = (v) => Math.sign(v) * Math.log1p((1000 * Math.abs(v)) / top);
    const [a, b] = [f(lo), f(hi)];
    return (t) => {
      const u = a + t * (b - a);
      return (Math.sign(u) * Math.expm1(Math.abs(u)) * top) / 1000;
    };
  }
  return (t) => lo + t * width;
}
