// Colour maps as tables of 256 colours. The first ones are perceptually uniform.

const POINTS = {
  viridis: "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
  inferno: "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
  magma: "000004 180f3d 440f76 721f81 9e2f7f cd4071 f1605d fd9668 feca8d fcfdbf",
  cividis: "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
  gray: "000000 ffffff",
  "gray reversed": "ffffff 000000",
  "blue white red": "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f",
  twilight: "e2d9e2 9ebbc9 6785be 5e43a5 421257 2f1436 66194d a3404a c68862 d6bfb2 e2d9e2",
};

export const MAPS = Object.keys(POINTS);
export const UNSEEN = [58, 62, 66, 255]; // grey: not scanned yet

const tables = new Map();

// RGBA of 256 levels, Uint8ClampedArray.
export function table(name) {
  if (!tables.has(name)) tables.set(name, interpolated(POINTS[name] ?? POINTS.gray));
  return tables.get(name);
}

function interpolated(text) {
  const points = text.split(" ").map((c) => [0, 2, 4].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const out = new Uint8ClampedArray(1024);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (points.length - 1);
    const a = Math.min(points.length - 2, Math.floor(at));
    for (let k = 0; k < 3; k++) out[4 * i + k] = points[a][k] + (points[a + 1][k] - points[a][k]) * (at - a);
    out[4 * i + 3] = 255;
  }
  return out;
}

// Hue (angle, 0 to 1) and brightness (0 to 1) to RGB: colour wheel of vectors and of phases.
export function wheel(hue, value) {
  const h = ((hue % 1) + 1) % 1 * 6;
  const f = (n) => {
    const k = (n + h) % 6;
    return 255 * value * (1 - Math.max(0, Math.min(k, 4 - k, 1)));
  };
  return [f(5), f(3), f(1)];
}
