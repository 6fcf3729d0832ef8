// What all shapes share: numbers as they are sent, limits, paths. Pure.
// A shape has values {y, x, ...}; `map` takes image coordinates to the screen: {x(x), y(y), kx, ky}.

// Steps of a tenth of a pixel: fine enough for a detector, short enough for a form.
export function tenth(value) {
  return Math.round(value * 10) / 10;
}

export function between(value, lo, hi) {
  return Math.max(lo, Math.min(hi, value));
}

// The longest distance from a point to a corner of the frame.
export function reach({ y, x }, [h, w]) {
  return Math.hypot(Math.max(y, h - 1 - y), Math.max(x, w - 1 - x)) + 1;
}

export function circlePath(map, { y, x }, r) {
  const [rx, ry] = [r * map.kx, r * map.ky];
  const [cx, cy] = [map.x(x), map.y(y)];
  return `M${cx - rx} ${cy}A${rx} ${ry} 0 1 0 ${cx + rx} ${cy}A${rx} ${ry} 0 1 0 ${cx - rx} ${cy}Z`;
}

export function centreKnob(values, [h, w]) {
  return {
    key: "centre", y: values.y, x: values.x, kind: "centre", label: "Centre",
    now: values.x, min: 0, max: w - 1, text: `centre y ${values.y}, x ${values.x} px`,
    step: (v, dy, dx) => movedCentre(v, v.y + dy, v.x + dx, [h, w]),
  };
}

export function movedCentre(values, y, x, [h, w]) {
  return { ...values, y: tenth(between(y, 0, h - 1)), x: tenth(between(x, 0, w - 1)) };
}

// A knob on a circle: the first of four places that lies in the frame. Inner and outer ones prefer opposite sides.
export function radiusKnob(values, key, r, side, frame, label, change) {
  const places = [[0, side], [side, 0], [-side, 0], [0, -side]].map(([dy, dx]) => [values.y + dy * r, values.x + dx * r]);
  const fits = ([py, px]) => px >= 0 && px <= frame[1] - 1 && py >= 0 && py <= frame[0] - 1;
  const [y, x] = places.find(fits) ?? places[0];
  return {
    key, y: between(y, 0, frame[0] - 1), x: between(x, 0, frame[1] - 1), kind: "radius", label, now: r, min: 0,
    max: tenth(reach(values, frame)), text: `${label.toLowerCase()} ${tenth(r)} px`,
    step: (v, dy, dx) => change(v, (v[key] ?? r) + dx - dy),
  };
}
