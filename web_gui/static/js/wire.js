// Binary messages of the server to arrays of numbers (docs/reference/gui-protocol.md, "Arrays"). Pure.

const DTYPES = { "<f4": Float32Array, "<f8": Float64Array, "<u2": Uint16Array, "<u1": Uint8Array };

// The header, and the values of the rows that were sent, as floats; NaN = not seen.
export function unpack(buffer) {
  const bytes = new Uint8Array(buffer, 0, 8);
  if (String.fromCharCode(...bytes.subarray(0, 4)) !== "LST1") throw new Error("this is no array of libstream");
  const length = new DataView(buffer).getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const type = DTYPES[header.dtype];
  if (!type) throw new Error(`unknown dtype ${header.dtype}`);
  return { header, values: dequantise(new type(buffer, 8 + length), header) };
}

export function dequantise(raw, header) {
  if (!(raw instanceof Uint8Array || raw instanceof Uint16Array)) return raw;
  const out = new Float32Array(raw.length);
  const { scale, offset } = header;
  for (let i = 0; i < raw.length; i++) out[i] = raw[i] === 0 ? NaN : raw[i] * scale + offset;
  return out;
}

// The newest values of a topic. `values` has the resolution of `shape`; `full` is the shape of the array itself.
export class TopicArray {
  constructor() {
    this.shape = null;
    this.full = null;
    this.values = null;
    this.coarse = null; // what is shown below rows that come one after the other
    this.header = null;
  }

  // Take a message; whether anything changed.
  take({ header, values }) {
    const shape = header.shape;
    const same = this.shape !== null && shape.length === this.shape.length && shape.every((n, i) => n === this.shape[i]);
    const size = shape.reduce((a, b) => a * b, 1);
    if (header.whole || !same) {
      this.coarse = header.keep && this.values !== null ? { shape: this.shape, values: this.values } : null;
      this.values = new Float64Array(size).fill(NaN);
      if (values instanceof Float32Array) this.values = new Float32Array(size).fill(NaN);
      this.shape = shape;
      if (this.coarse) this.values = refined(this.coarse, shape);
    }
    this.full = header.full ?? shape;
    const row = shape.length ? size / Math.max(1, shape[0]) : 1;
    this.values.set(values, (header.rows ? header.rows[0] : 0) * row);
    if (header.exact && header.rows && header.rows[1] === shape[0]) this.coarse = null;
    this.header = header;
    return true;
  }

  // Pixels of the array for one value.
  get bin() {
    return this.shape && this.full && this.shape.length > 1 ? this.full[0] / this.shape[0] : 1;
  }
}

// A coarse array blown up to another shape, nearest neighbour: shown until the fine rows have come.
export function refined(coarse, shape) {
  const size = shape.reduce((a, b) => a * b, 1);
  const out = new Float32Array(size).fill(NaN);
  if (shape.length < 2 || coarse.shape.length !== shape.length) return out;
  const [h, w] = shape;
  const c = size / (h * w);
  const [ch, cw] = coarse.shape;
  if (coarse.shape.slice(2).some((n, i) => n !== shape[i + 2])) return out;
  for (let y = 0; y < h; y++) {
    const cy = Math.min(ch - 1, Math.floor((y * ch) / h));
    for (let x = 0; x < w; x++) {
      const cx = Math.min(cw - 1, Math.floor((x * cw) / w));
      for (let k = 0; k < c; k++) out[(y * w + x) * c + k] = coarse.values[(cy * cw + cx) * c + k];
    }
  }
  return out;
}
