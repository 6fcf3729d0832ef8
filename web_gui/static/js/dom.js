// Small helpers to make elements. No element carries a style attribute: the policy of the page forbids it.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open", "selected", "readOnly", "indeterminate"]);

function filled(node, attrs, children) {
  for (const [key, value] of Object.entries(attrs)) {
    if (value === undefined || value === null) continue;
    if (key === "on") for (const [name, call] of Object.entries(value)) node.addEventListener(name, call);
    else if (key === "text") node.textContent = value;
    else if (PROPERTIES.has(key)) node[key] = value;
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

export function el(tag, attrs = {}, ...children) {
  return filled(document.createElement(tag), attrs, children);
}

export function svgEl(tag, attrs = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attrs, children);
}

// Set an attribute where it is another one: what is set anew is drawn anew.
export function put(node, name, value) {
  const text = String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

// The same for the text of a node.
export function write(node, text) {
  const next = String(text);
  if (node.textContent !== next) node.textContent = next;
}

// `call`, at once and then at most every `ms` milliseconds; the last call is never lost.
export function spaced(call, ms) {
  let last = -Infinity;
  let waiting = null;
  const now = () => {
    waiting = null;
    last = performance.now();
    call();
  };
  return () => {
    const rest = last + ms - performance.now();
    if (rest <= 0 && waiting === null) now();
    else waiting ??= setTimeout(now, Math.max(0, rest));
  };
}

const ICONS = {
  add: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  run: "M8 5l11 7-11 7z",
  stop: "M7 7h10v10H7z",
  save: "M12 4v11M7 11l5 5 5-5M5 20h14",
  copy: "M9 9h10v11H9zM5 15V4h10",
  folder: "M3 7h6l2 2h10v10H3z",
  file: "M7 3h7l4 4v14H7zM14 3v4h4",
  up: "M12 19V6M6 11l6-6 6 6",
  down: "M12 5v13M6 13l6 6 6-6",
  detector: "M4 5h16v10H4zM9 19h6M12 15v4",
  history: "M12 8v5l3 2M4 12a8 8 0 1 0 3-6M4 4v4h4",
  setup: "M4 7h10M18 7h2M4 17h2M10 17h10M16 4v6M8 14v6",
  people: "M9 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM3 20c0-4 3-6 6-6s6 2 6 6M16 5a3 3 0 0 1 0 6M18 14c2 1 3 3 3 6",
  theme: "M12 4a8 8 0 1 0 8 8 6 6 0 0 1-8-8z",
  menu: "M4 7h16M4 12h16M4 17h16",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  full: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  eye: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 15a3 3 0 1 0 0-6 3 3 0 0 0 0 6z",
  pin: "M9 4h6l-1 6 4 3v2H6v-2l4-3zM12 15v6",
  warn: "M12 4l9 16H3zM12 10v4M12 17h.01",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  undo: "M9 7L4 12l5 5M4 12h10a6 6 0 0 1 6 6",
  centre: "M12 3v6M12 15v6M3 12h6M15 12h6M12 12h.01",
  code: "M8 7l-5 5 5 5M16 7l5 5-5 5",
  rectangle: "M4 6h16v12H4z",
  ellipse: "M12 6c5 0 8 3 8 6s-3 6-8 6-8-3-8-6 3-6 8-6z",
  polygon: "M5 9l8-5 7 7-5 9-8-3z",
  dotted: "M5 5h.01M5 12h.01M5 19h.01M12 5h.01M19 5h.01M19 12h.01M19 19h.01M12 19h.01M12 12h.01",
  line: "M5 19L19 5",
};

export function icon(name) {
  return svgEl("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, svgEl("path", { d: ICONS[name] }));
}

// A button; with `symbol` alone its label is for screen readers and the tooltip.
export function button(label, call, { symbol = null, kind = "", title = null, bare = false } = {}) {
  return el(
    "button",
    { type: "button", class: `button ${kind} ${bare ? "bare" : ""}`.trim(), title: title ?? (bare ? label : null), "aria-label": bare ? label : null, on: { click: call } },
    symbol && icon(symbol),
    bare ? null : el("span", { text: label }),
  );
}

export function select(label, options, value, call, attrs = {}) {
  const node = el(
    "select",
    { "aria-label": label, title: label, ...attrs, on: { change: () => call(node.value) } },
    options.map(([key, title]) => el("option", { value: key, text: title })),
  );
  node.value = value;
  return node;
}

// A message that goes away by itself; errors stay longer and can be read by screen readers at once.
export function toast(text, level = "info") {
  const box = document.getElementById("toasts");
  if (!box) return;
  const node = el("div", { class: `toast ${level}` }, el("span", { text }), button("Close this message", () => node.remove(), { symbol: "close", bare: true }));
  for (const old of [...box.children]) if (old.querySelector("span")?.textContent === text) old.remove(); // said again, not twice
  box.append(node);
  while (box.children.length > 4) box.firstChild.remove();
  setTimeout(() => node.remove(), level === "error" ? 12000 : 6000);
}

// What has the focus, inside of shadow trees too (views in notebooks live in one each).
function focused() {
  let node = document.activeElement;
  while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
  return node;
}

// Where menus and dialogs go that belong to an element: styles reach only what is in the same tree.
function ground(node) {
  const root = node?.getRootNode();
  return root instanceof ShadowRoot ? root.lastElementChild : document.body;
}

// A menu below a button: items are [title, call, symbol] or null for a line.
export function menu(anchor, items) {
  const home = anchor.closest("dialog") ?? ground(anchor);
  home.querySelector(".menu")?.remove();
  const close = (focus) => {
    node.remove();
    removeEventListener("pointerdown", outside, true);
    if (focus) anchor.focus();
  };
  const outside = (event) => node.contains(event.composedPath()[0]) || close(false);
  const entries = items.filter(Boolean);
  const node = el(
    "div",
    { class: "menu", role: "menu", on: { keydown: (e) => menuKey(e, node, close) } },
    items.map((item) =>
      item === null
        ? el("hr")
        : el("button", { type: "button", role: "menuitem", on: { click: () => (close(true), item[1]()) } }, item[2] ? icon(item[2]) : el("span", { class: "icon" }), el("span", { text: item[0] })),
    ),
  );
  home.append(node);
  if (home.getRootNode() instanceof ShadowRoot && node.showPopover) {
    node.popover = "manual"; // above all: cells of notebooks cut off what reaches out, and move what is fixed
    node.showPopover();
  }
  const box = anchor.getBoundingClientRect();
  node.style.top = `${Math.max(4, Math.min(box.bottom + 4, innerHeight - node.offsetHeight - 4))}px`;
  node.style.left = `${Math.max(4, Math.min(box.left, innerWidth - node.offsetWidth - 4))}px`;
  addEventListener("pointerdown", outside, true);
  if (entries.length) node.querySelector("button").focus();
}

function menuKey(event, node, close) {
  const entries = [...node.querySelectorAll("button")];
  const at = entries.indexOf(focused());
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) entries[(at + step + entries.length) % entries.length].focus();
  else if (event.key === "Escape" || event.key === "Tab") close(true);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

// A modal dialog with a title; removed when it is closed.
export function dialog(title, attrs, ...children) {
  const before = focused();
  const node = el("dialog", { class: "dialog", "aria-label": title, ...attrs }, el("header", {}, el("h2", { text: title }), button("Close", () => node.close(), { symbol: "close", bare: true })), ...children);
  node.addEventListener("close", () => {
    node.remove();
    before?.focus?.();
  });
  node.addEventListener("pointerdown", (event) => {
    const box = node.getBoundingClientRect();
    const outside = event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom;
    if (event.target === node && outside) node.close();
  });
  ground(before).append(node);
  node.showModal();
  return node;
}

// Ask for a short text; null where it was not given.
export function ask(title, value, { label = title, accept = "OK" } = {}) {
  return new Promise((resolve) => {
    const field = el("input", { type: "text", value, "aria-label": label, maxlength: 200 });
    let answer = null;
    const form = el(
      "form",
      { method: "dialog", on: { submit: () => (answer = field.value.trim() || null) } },
      el("label", { class: "field" }, el("span", { text: label }), field),
      el("div", { class: "actions" }, button("Cancel", () => node.close()), el("button", { class: "button primary", text: accept })),
    );
    const node = dialog(title, { class: "dialog small" }, form);
    node.addEventListener("close", () => resolve(answer));
    field.select();
  });
}

export function bytesText(n) {
  if (n === null || n === undefined) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) (n /= 1000), (i += 1);
  return `${i === 0 ? n : n.toPrecision(3)} ${units[i]}`;
}

export function timeText(t) {
  const d = new Date(t);
  return `${d.getFullYear()}-${twoDigits(d.getMonth() + 1)}-${twoDigits(d.getDate())} ${clockText(t).slice(0, 5)}`;
}

export function clockText(t) {
  const d = new Date(t);
  return [d.getHours(), d.getMinutes(), d.getSeconds()].map(twoDigits).join(":");
}

function twoDigits(n) {
  return String(n).padStart(2, "0");
}
