// The list of analyses: choose, add, duplicate, remove, rename; which of their outputs are shown.

import { ask, button, dialog, el, icon, menu, put, spaced, write } from "./dom.js";
import { short } from "./levels.js";
import { presetsFor } from "./presets.js";
import { SPACE_MS } from "./store.js";

// A few words about parameters that matter to the eye.
function analysisSummary(app, a) {
  const handle = app.handleOf(a);
  const n = (name) => app.store.resolvedParam(a.id, name);
  const r = (v) => (typeof v === "number" ? short(Number(v.toFixed(1))) : "…");
  if (!handle) return app.udf(a.udf)?.summary ?? a.udf;
  if (handle.kind === "annulus" && !n(handle.inner) && n(handle.outer) === null) return "all of the frame";
  if (handle.kind === "annulus" || handle.kind === "sector") return `${handle.kind === "sector" ? "sector" : "ring"} ${r(n(handle.inner) ?? 0)}–${n(handle.outer) === null ? "corners" : r(n(handle.outer))} px`;
  if (handle.kind === "disk") return n(handle.outer) === null ? "all of the frame" : `disk ${r(n(handle.outer))} px`;
  if (handle.kind === "rectangle") return `rectangle ${r(n(handle.height))} × ${r(n(handle.width))} px`;
  return "one point";
}

export class AnalysisList {
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.rows = new Map();
    this.list = el("ul", { class: "analyses", "aria-label": "Analyses" });
    this.add = button("Add analysis", () => this.addDialog(), { symbol: "add", kind: "wide" });
    this.errors = el("div", { class: "own-errors", role: "alert" });
    root.append(el("h2", { text: "Analyses" }), this.list, this.add, this.errors);
    app.store.addEventListener("draft", spaced(() => this.update(), SPACE_MS));
  }

  update() {
    const { state, mayChange } = this.app.store;
    for (const [id, row] of this.rows) if (!state.analyses[id]) row.root.remove(), this.rows.delete(id);
    let previous = null;
    for (const id of state.order) {
      const a = state.analyses[id];
      if (!a) continue;
      const row = this.rows.get(id) ?? this.row(id);
      this.fill(row, a);
      const after = previous ? previous.nextSibling : this.list.firstChild;
      if (row.root !== after) this.list.insertBefore(row.root, after);
      previous = row.root;
    }
    this.add.disabled = !mayChange || !this.app.store.source;
    const wrong = JSON.stringify(state.udfs.errors);
    if (wrong === this.wrong) return;
    this.wrong = wrong;
    this.errors.replaceChildren(...state.udfs.errors.map((e) => el("div", {}, icon("warn"), el("span", {}, el("strong", { text: `${e.file}${e.line ? `, line ${e.line}` : ""}: ` }), e.message))));
  }

  row(id) {
    const dot = el("span", { class: "dot" });
    const title = el("span", { class: "title" });
    const sub = el("span", { class: "dim" });
    const mark = el("span", { class: "mark" });
    const outputs = el("div", { class: "outputs" });
    const choose = el("button", { type: "button", class: "choose", on: { click: () => this.app.select(id), dblclick: () => this.rename(id) } }, dot, el("span", { class: "texts" }, title, sub), mark);
    const more = button("More for this analysis", () => menu(more, this.actions(id)), { symbol: "more", bare: true });
    const row = { root: el("li", {}, el("div", { class: "line" }, choose, more), outputs), dot, title, sub, mark, choose, outputs, more };
    this.rows.set(id, row);
    return row;
  }

  fill(row, a) {
    row.dot.className = `dot colour${a.colour % 8}`;
    write(row.title, a.title);
    const summary = analysisSummary(this.app, a);
    write(row.sub, summary);
    put(row.sub, "title", summary);
    const selected = a.id === this.app.selected;
    if (selected && !row.root.classList.contains("selected")) queueMicrotask(() => row.root.scrollIntoView({ block: "nearest" }));
    row.root.classList.toggle("selected", selected);
    row.choose.setAttribute("aria-pressed", selected);
    write(row.mark, { failed: "failed", incomplete: "incomplete" }[a.state] ?? "");
    row.mark.className = `mark ${a.state === "running" && !this.app.store.lasts(a.id) ? "" : a.state}`;
    row.mark.title = a.state === "failed" ? a.error?.message ?? "" : "";
    const shown = a.outputs.filter((o) => o.display !== "none");
    const only = a.outputs.filter((o) => o.display === "none").map((o) => o.title || o.name);
    row.outputs.hidden = !selected;
    const key = JSON.stringify([shown.map((o) => [o.name, this.app.layout.isOutputShown(a, o.name)]), only]);
    if (row.key === key) return;
    row.key = key;
    row.outputs.replaceChildren(
      ...(shown.length > 1 || shown.some((o) => !this.app.layout.isOutputShown(a, o.name))
        ? shown.map((o) => {
            const on = this.app.layout.isOutputShown(a, o.name);
            return el("button", { type: "button", class: "chip", "aria-pressed": String(on), text: o.title || o.name, title: `${on ? "Hide" : "Show"} ${o.title || o.name}`, on: { click: () => this.app.layout.showOutput(a.id, o.name, !on) } });
          })
        : []),
      ...(only.length ? [el("span", { class: "dim", text: `${only.join(", ")}: in files, not shown`, title: "The page has no view for arrays of this shape; they are saved with the results." })] : []),
    );
  }

  actions(id) {
    const { app } = this;
    const order = app.store.state.order;
    const at = order.indexOf(id);
    const moved = (by) => {
      const next = [...order];
      next.splice(at + by, 0, ...next.splice(at, 1));
      return () => app.do("arrange", { order: next });
    };
    return [
      ["Duplicate", () => this.duplicate(id), "copy"],
      ["Rename…", () => this.rename(id), "file"],
      ["Run anew", () => app.do("run", { ids: [id] }), "run"],
      ...(at > 0 ? [["Move up", moved(-1), "up"]] : []),
      ...(at < order.length - 1 ? [["Move down", moved(1), "down"]] : []),
      null,
      ["Remove", () => this.remove(id), "trash"],
    ];
  }

  async remove(id) {
    if ((await this.app.do("remove", { id })) !== undefined) this.app.layout.forget(id);
  }

  async duplicate(id) {
    const made = await this.app.do("duplicate", { id });
    if (made) this.app.select(made.id);
  }

  async rename(id) {
    const now = this.app.store.analysis(id)?.title ?? "";
    const title = await ask("Rename the analysis", now, { label: "Name", accept: "Rename" });
    if (title && title !== now) this.app.do("rename", { id, title });
  }

  async addDialog() {
    const list = await this.app.loadUdfs();
    const filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter analyses" });
    const add = async (udf) => {
      node.close();
      const made = await this.app.do("add", { udf: udf.name });
      if (made) this.app.select(made.id);
    };
    const presets = presetsFor(this.app).map((p) =>
      el("li", { "data-text": `${p.title} ${p.help}`.toLowerCase() }, el("button", { type: "button", on: { click: () => (node.close(), p.add()) } }, el("strong", { text: p.title }), el("span", { class: "dim", text: p.help }))),
    );
    const installed = list.map((udf) =>
      el(
        "li",
        { "data-text": `${udf.title} ${udf.summary}`.toLowerCase() },
        el("button", { type: "button", disabled: Boolean(udf.error), title: udf.error ?? "", on: { click: () => add(udf) } }, el("strong", { text: udf.title }), udf.own ? el("span", { class: "badge", text: udf.file }) : null, el("span", { class: "dim", text: udf.error ?? udf.summary })),
      ),
    );
    const items = [...presets, ...installed];
    filter.addEventListener("input", () => items.forEach((i) => (i.hidden = !i.dataset.text.includes(filter.value.toLowerCase()))));
    filter.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === "ArrowDown") {
        event.preventDefault();
        const first = items.find((i) => !i.hidden)?.querySelector("button");
        if (event.key === "Enter") first?.click();
        else first?.focus();
      }
    });
    const node = dialog("Add an analysis", { class: "dialog udfs" }, filter, el("ul", { class: "udf-list" }, presets, presets.length ? el("li", { class: "parting" }, el("h2", { text: "All analyses" })) : null, installed));
    filter.focus();
  }
}
