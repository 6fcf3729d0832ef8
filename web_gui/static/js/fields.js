// One field of a form, from its description: shows a value, checks what is entered, tells the new value.

import { button, el } from "./dom.js";
import { short } from "./levels.js";

// {root, show(value, resolved), error(text)}. changed(value, done): done is false while somebody still types.
export function makeField(field, changed, services = {}) {
  const id = `f${fieldCount++}`;
  const problem = el("span", { class: "problem", id: `${id}e`, role: "alert" });
  const made = (WIDGETS[field.kind] ?? WIDGETS.json)(field, id, (value, done = true) => {
    const wrong = checkField(field, value);
    problem.textContent = wrong ?? "";
    root.classList.toggle("bad", Boolean(wrong));
    if (!wrong) changed(value, done);
  }, services, (text) => {
    problem.textContent = text;
    root.classList.toggle("bad", Boolean(text));
  });
  const unit = field.unit && field.kind !== "bool" ? ` (${field.unit})` : "";
  const caption = field.kind === "bool" ? null : el("label", { for: id, text: field.title + unit });
  const help = field.help ? el("span", { class: "help", text: field.help, id: `${id}h` }) : null;
  const root = el("div", { class: `field kind-${field.kind}`, "data-name": field.name }, caption, made.node, help, problem);
  for (const input of root.querySelectorAll("input, select, textarea")) {
    input.setAttribute("aria-describedby", `${help ? `${id}h ` : ""}${id}e`);
    input.addEventListener("focus", () => root.classList.add("busy"));
    input.addEventListener("blur", () => root.classList.remove("busy"));
  }
  return {
    root,
    field,
    show: (value, resolved) => {
      made.show(value, resolved);
      if (!root.classList.contains("busy")) problem.textContent = "";
    },
    error: (text) => {
      problem.textContent = text;
      root.classList.toggle("bad", Boolean(text));
    },
  };
}

let fieldCount = 0;

// What is wrong with a value, in words; null where nothing is.
export function checkField(field, value) {
  if (value === null) return field.optional || !field.required ? null : "a value is needed";
  if (typeof value === "number") {
    if (!Number.isFinite(value)) return "a number is needed";
    if (field.kind === "integer" && !Number.isInteger(value)) return "a whole number is needed";
    if (field.min !== undefined && value < field.min) return `at least ${short(field.min)}`;
    if (field.max !== undefined && value > field.max) return `at most ${short(field.max)}`;
    if (field.above !== undefined && value <= field.above) return `more than ${short(field.above)}`;
    if (field.below !== undefined && value >= field.below) return `less than ${short(field.below)}`;
  }
  if (Array.isArray(value) && field.length && value.length !== field.length) return `${field.length} numbers are needed`;
  return null;
}

function numberOf(text) {
  const plain = text.trim().replace(",", ".");
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain) ? Number(plain) : NaN;
}

function tidyNumber(value) {
  return typeof value === "number" ? String(Number(value.toPrecision(7))) : String(value);
}

// A text field that steps by arrow keys and tells numbers while they are typed.
function typing(id, label, parse, give, fail) {
  let timer = 0;
  const tell = (done) => {
    clearTimeout(timer);
    if (done) input.unfinished = false;
    const value = parse(input.value);
    if (value !== undefined) give(value, done);
    else if (done) fail(input.value.trim() ? `"${input.value}" is not understood here` : "a value is needed");
  };
  const input = el("input", {
    type: "text", id, "aria-label": label, autocomplete: "off", spellcheck: "false",
    on: {
      input: () => {
        clearTimeout(timer);
        input.unfinished = true;
        if (Number.isFinite(numberOf(input.value))) timer = setTimeout(() => tell(false), 250);
      },
      change: () => tell(true),
      blur: () => (input.unfinished = false),
      keydown: (event) => {
        const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
        const now = numberOf(input.value || input.placeholder);
        if (!step || !Number.isFinite(now)) return;
        event.preventDefault();
        input.value = tidyNumber(Math.round((now + step * (event.shiftKey ? 10 : 1)) * 1e6) / 1e6);
        tell(true);
      },
    },
  });
  return input;
}

function fillIn(input, value, placeholder) {
  if (input.unfinished || (input.matches(":focus") && numberOf(input.value) === value)) return; // what somebody types is theirs
  const text = value === null || value === undefined ? "" : tidyNumber(value);
  if (input.value !== text) input.value = text;
  if (input.placeholder !== (placeholder ?? "")) input.placeholder = placeholder ?? "";
}

const shownResolved = (resolved, field) => {
  if (typeof resolved === "number") return tidyNumber(Math.round(resolved * 100) / 100);
  return field.default === null || field.default === undefined ? "default" : String(field.default);
};

function numberWidget(field, id, give, services, fail) {
  const parse = (text) => (text.trim() === "" ? null : Number.isFinite(numberOf(text)) ? numberOf(text) : undefined);
  const input = typing(id, null, parse, give, fail);
  input.inputMode = "decimal";
  return { node: input, show: (value, resolved) => fillIn(input, value, shownResolved(resolved, field)) };
}

function quantityWidget(field, id, give, services, fail) {
  const parse = (text) => (text.trim() === "" ? null : Number.isFinite(numberOf(text)) ? numberOf(text) : text.trim());
  const input = typing(id, null, parse, give, fail);
  const px = el("span", { class: "px" });
  return {
    node: el("span", { class: "row" }, input, px),
    show: (value, resolved) => {
      fillIn(input, value, shownResolved(resolved, field));
      px.textContent = typeof value === "string" && typeof resolved === "number" ? `= ${tidyNumber(Math.round(resolved * 100) / 100)} px` : "";
    },
  };
}

function pairWidget(field, id, give, services, fail) {
  const names = field.kind === "point" ? ["y", "x"] : ["first", "second"];
  let shown = null;
  let fallback = null;
  const inputs = names.map((name, i) =>
    typing(i ? `${id}b` : id, `${field.title}, ${name}`, (text) => (text.trim() === "" ? null : Number.isFinite(numberOf(text)) ? numberOf(text) : undefined), (value, done) => {
      if (value === null) return (field.optional || fallback) && done ? give(field.optional ? null : fallback, true) : undefined;
      const next = [...(shown ?? fallback ?? [0, 0])];
      next[i] = value;
      give(next, done);
    }, fail),
  );
  return {
    node: el("span", { class: "row pair" }, names.map((name, i) => el("span", { class: "part" }, field.kind === "point" ? el("span", { class: "px", text: name }) : null, inputs[i]))),
    show: (value, resolved) => {
      shown = value;
      fallback = Array.isArray(resolved) ? resolved : Array.isArray(field.default) ? field.default : null;
      inputs.forEach((input, i) => fillIn(input, value?.[i] ?? null, fallback ? tidyNumber(Math.round(fallback[i] * 100) / 100) : "default"));
    },
  };
}

function boolWidget(field, id, give) {
  const input = el("input", { type: "checkbox", id, on: { change: () => give(input.checked) } });
  return { node: el("label", { class: "check" }, input, field.title), show: (value) => (input.checked = Boolean(value ?? field.default)) };
}

function choiceWidget(field, id, give) {
  const choices = [...(field.optional ? [{ value: null, title: "default" }] : []), ...field.choices];
  const input = el("select", { id, on: { change: () => give(choices[input.selectedIndex].value) } }, choices.map((c) => el("option", { text: c.title })));
  return { node: input, show: (value) => (input.selectedIndex = choices.findIndex((c) => c.value === (value ?? null))) };
}

function textWidget(field, id, give, services, fail) {
  const input = typing(id, null, (text) => (text === "" && field.optional ? null : text), give, fail);
  return { node: input, show: (value) => fillIn(input, value, field.default ?? "") };
}

function numbersWidget(field, id, give, services, fail) {
  const parse = (text) => {
    if (text.trim() === "") return null;
    const parts = text.replace(/[[\]()]/g, "").split(/[\s,;]+/).filter(Boolean).map(Number);
    return parts.every(Number.isFinite) ? parts : undefined;
  };
  const input = typing(id, null, parse, (value, done) => done && give(value, true), fail);
  return { node: input, show: (value) => fillIn(input, value === null || value === undefined ? null : value.join(", "), field.length ? Array(field.length).fill("…").join(", ") : "") };
}

function jsonWidget(field, id, give, services, fail) {
  const parse = (text) => {
    if (text.trim() === "") return null;
    try {
      return JSON.parse(text);
    } catch {
      return undefined;
    }
  };
  const input = typing(id, null, parse, (value, done) => done && give(value, true), fail);
  return { node: input, show: (value) => fillIn(input, value === null || value === undefined ? null : JSON.stringify(value), "default") };
}

// "<c16" as complex128.
function dtypeName(text) {
  const [, kind, bytes] = /^[<>|=]?([a-z])(\d+)$/.exec(text) ?? [];
  const words = { f: "float", c: "complex", u: "uint", i: "int" };
  return kind === "b" ? "bool" : words[kind] ? `${words[kind]}${8 * bytes}` : text;
}

// An array or a file: chosen from the server's folders.
function fileWidget(field, id, give, services) {
  const shown = el("input", { type: "text", id, readOnly: true });
  const wrap = (path) => (field.kind === "array" ? { file: path } : path);
  const pick = services.pickFile && button("Choose…", async () => {
    const path = await services.pickFile(field.title, field.kind === "array" ? ".npy" : "");
    if (path) give(wrap(path));
  });
  return {
    node: el("span", { class: "row" }, shown, pick, button(`No ${field.title.toLowerCase()}`, () => give(null), { symbol: "close", bare: true })),
    show: (value) => {
      shown.value = value === null || value === undefined ? "" : value.array ? `${value.shape.join(" × ")} ${dtypeName(value.dtype)}` : value.file ?? String(value);
      shown.placeholder = "none";
    },
  };
}

const WIDGETS = {
  number: numberWidget, integer: numberWidget, quantity: quantityWidget, point: pairWidget, pair: pairWidget, bool: boolWidget,
  choice: choiceWidget, text: textWidget, numbers: numbersWidget, json: jsonWidget, array: fileWidget, file: fileWidget,
};
