// Connecting a detector: one that is configured on the server, or any by its address.

import { button, dialog, el } from "./dom.js";
import { makeField } from "./fields.js";

const ADDRESSES_KEY = "libstream-detectors";

// Options that every connection takes; what the detector says of itself comes first.
const SCAN_FIELDS = [
  { name: "scan", title: "Scan (rows, columns)", kind: "numbers", optional: true, default: null, help: "positions of the scan, such as 256, 256; empty: as the detector says" },
  { name: "scan_step", title: "Step of the scan", kind: "text", optional: true, default: null, help: 'such as "0.4 nm"' },
];
const MORE_FIELDS = [
  { name: "pixel", title: "Pixel of the detector", kind: "text", optional: true, default: null, help: 'such as "0.9 mrad"' },
  { name: "order", title: "Order of the lines", kind: "choice", optional: true, default: null, choices: [{ value: "raster", title: "raster" }, { value: "serpentine", title: "serpentine" }], help: "serpentine: every other line backwards" },
  { name: "flyback", title: "Flyback", unit: "frames", kind: "integer", optional: true, default: null, min: 0, help: "frames at the end of each line that belong to no position" },
  { name: "frames_per_position", title: "Frames at each position", kind: "integer", optional: true, default: null, min: 1 },
  { name: "record", title: "Record into the folder", kind: "text", optional: true, default: null, help: "everything that arrives is written there, and can be run again from the past runs; the folder lies under one of the places of the file dialog" },
];

function knownAddresses() {
  try {
    return JSON.parse(localStorage.getItem(ADDRESSES_KEY) ?? "[]").filter((p) => typeof p === "string");
  } catch {
    return [];
  }
}

class LiveDialog {
  constructor(app) {
    this.app = app;
    this.chosen = null; // configured detector whose address is shown
    const { live, source } = app.store.state;
    this.options = live ? { ...source?.options } : {};
    this.address = el("input", { type: "text", value: live?.url ?? knownAddresses()[0] ?? "", placeholder: "dectris://192.168.1.10:9999", "aria-label": "Address of the detector", list: "addresses", spellcheck: "false", autocomplete: "off" });
    this.address.addEventListener("change", () => this.look());
    this.address.addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), this.connect()));
    this.says = el("div", { class: "probe", "aria-live": "polite" });
    this.failure = el("p", { class: "failure", role: "alert" });
    this.accept = button("Connect", () => this.connect(), { kind: "primary" });
    this.configured = el("div", { class: "configured", role: "group", "aria-label": "Configured detectors" });
    this.kinds = el("div", { class: "chips" });
    this.fields = [...SCAN_FIELDS, ...MORE_FIELDS].map((f) => makeField(f, (value) => (value === null || value === "" ? delete this.options[f.name] : (this.options[f.name] = value))));
    const roots = this.fields.map((f) => f.root);
    this.node = dialog(
      "Connect a detector",
      { class: "dialog live-dialog" },
      this.configured,
      el("label", { class: "field" }, el("span", { text: "Address" }), this.address),
      el("datalist", { id: "addresses" }, knownAddresses().map((a) => el("option", { value: a }))),
      this.kinds,
      el("div", { class: "fields" }, roots.slice(0, SCAN_FIELDS.length)),
      el("details", { class: "options" }, el("summary", { text: "More: calibration, order, recording" }), el("div", { class: "fields" }, roots.slice(SCAN_FIELDS.length))),
      this.says,
      this.failure,
      el("div", { class: "actions" }, button("Cancel", () => this.node.close()), this.accept),
    );
    this.show();
    this.explain();
    this.address.focus();
    this.list();
    if (this.address.value) this.look();
  }

  show() {
    for (const f of this.fields) f.show(this.options[f.field.name] ?? null, null);
  }

  explain() {
    this.says.replaceChildren(el("p", { class: "dim", text: "An address begins with the kind of detector. With its control port in the address (dectris://host:9999?api=80, merlin://host:6342?control=6341) it can be armed from here, and says what it will send." }));
  }

  async list() {
    let found;
    try {
      found = await this.app.link.command("formats");
    } catch {
      return; // the lists are a help, no more
    }
    this.kinds.append(...found.detectors.map((d) => button(`${d.name}://`, () => this.begin(d.name), { kind: "chip" })));
    this.configured.append(...(found.configured ?? []).map((d) => this.entry(d)));
    if (found.configured_error) this.configured.append(el("p", { class: "failure", text: found.configured_error }));
  }

  entry(detector) {
    const scan = detector.options.scan ? `${[detector.options.scan].flat().join("\u00a0×\u00a0")}\u00a0scan` : "";
    const node = el("button", { type: "button", class: "step", "aria-pressed": "false", on: { click: () => this.choose(detector, node), dblclick: () => this.connect() } }, el("strong", { text: detector.title }), el("span", { class: "dim", text: [detector.url, scan].filter(Boolean).join(" · ") }));
    return node;
  }

  choose(detector, node) {
    this.chosen = detector;
    this.options = { ...detector.options };
    this.address.value = detector.url;
    for (const other of this.configured.querySelectorAll("button")) other.setAttribute("aria-pressed", other === node);
    this.show();
    this.look();
  }

  begin(kind) {
    this.address.value = `${kind}://${this.address.value.replace(/^[^:]*:\/\//, "")}`;
    this.address.focus();
    this.look();
  }

  get target() {
    const uri = this.address.value.trim();
    return this.chosen && uri === this.chosen.url ? { name: this.chosen.name } : { uri };
  }

  // What the detector says before anybody connects, where it has a control port; one that is connected is not disturbed.
  async look() {
    const target = this.target;
    if (!target.name) for (const other of this.configured.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
    this.failure.textContent = "";
    this.explain();
    const asks = target.name || /[?&](api|control)=/.test(target.uri ?? "");
    if (!asks || !this.app.store.mayChange || (target.uri && target.uri === this.app.store.state.live?.url)) return;
    this.says.replaceChildren(el("p", { class: "dim", text: "Asking the detector what it will send …" }));
    const found = await this.app.link.command("announced", target).catch((error) => ({ error: error.message }));
    if (JSON.stringify(target) !== JSON.stringify(this.target)) return;
    if (found.error) return this.says.replaceChildren(el("p", { class: "failure", text: `The detector was asked what it will send: ${found.error}` }));
    if (!found.says) return this.explain();
    const rows = Object.entries(found.says).flatMap(([k, v]) => [el("dt", { text: k }), el("dd", { text: String(v) })]);
    const frames = found.frames > 1 ? el("p", { text: `It will send ${found.frames.toLocaleString("en-US").replace(/,/g, " ")} frames: the scan has as many positions.` }) : null;
    const state = found.says.state ? el("p", { class: "dim", text: `It is ${found.says.state}.` }) : null;
    this.says.replaceChildren(...[frames, state, el("details", {}, el("summary", { text: "All that it says" }), el("dl", { class: "facts" }, rows))].filter(Boolean));
  }

  async connect() {
    const target = this.target;
    if (!target.name && !target.uri) return;
    this.accept.disabled = true;
    this.failure.textContent = "";
    const failed = (error) => (this.failure.textContent = error.message);
    const made = target.name ? await this.app.do("connect", { ...target, options: this.changed() }, failed) : await this.app.do("open", { ...target, options: this.options }, failed);
    this.accept.disabled = false;
    if (made === undefined) return;
    if (target.uri) localStorage.setItem(ADDRESSES_KEY, JSON.stringify([target.uri, ...knownAddresses().filter((a) => a !== target.uri)].slice(0, 10)));
    this.node.close();
  }

  // Options that are other ones than those of the configured detector: the server has these. null takes one away.
  changed() {
    const given = this.chosen.options;
    const names = new Set([...Object.keys(given), ...Object.keys(this.options)]);
    return Object.fromEntries([...names].filter((n) => JSON.stringify(this.options[n]) !== JSON.stringify(given[n])).map((n) => [n, this.options[n] ?? null]));
  }
}

export function openLiveDialog(app) {
  return new LiveDialog(app);
}
