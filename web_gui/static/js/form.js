// The parameters of the selected analysis as a form. What is entered counts at once; handles and form always agree.

import { button, el, icon, select, spaced } from "./dom.js";
import { makeField } from "./fields.js";
import { SPACE_MS } from "./store.js";

const HANDLE_PARTS = ["inner", "outer", "height", "width", "angles"];

export class ParameterForm {
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.key = null;
    this.kept = {}; // analysis -> lengths of shapes that it had before
    const fill = spaced(() => this.fill(), SPACE_MS);
    app.store.addEventListener("draft", ({ detail }) => detail.id === app.selected && fill());
    app.store.addEventListener("refused", ({ detail }) => this.refused(detail));
  }

  update() {
    const { app } = this;
    const a = app.store.analysis(app.selected);
    const udf = a ? app.udf(a.udf) : null;
    const channels = app.store.source?.channels ?? [];
    const key = a && udf ? `${a.id}|${a.udf}|${app.udfVersion}|${channels.length}` : a ? `${a.id}|?` : null;
    if (key !== this.key) {
      this.key = key;
      this.build(a, udf, channels);
    }
    if (a && udf) this.fill();
  }

  build(a, udf, channels) {
    this.fields = [];
    this.root.replaceChildren();
    if (!a) return;
    this.root.append(el("h2", { text: "Parameters" }));
    if (!udf) return this.root.append(el("p", { class: "dim", text: "…" }));
    this.fields = udf.fields.map((f) => makeField(f, (value, done) => this.entered(f, value, done), { pickFile: (title, filter) => this.app.pickFile(title, filter) }));
    this.failure = el("div", { class: "failure", role: "alert" });
    this.channel = channels.length > 1 ? select("Detector channel", [["", "first channel"], ...channels.map((c) => [c.name, c.name])], a.channel ?? "", (v) => this.app.do("channel", { id: a.id, channel: v || null })) : null;
    this.set = el("fieldset", { class: "fields" }, this.fields.map((f) => f.root), this.channel && el("label", { class: "field" }, el("span", { text: "Detector channel" }), this.channel));
    this.root.append(
      el("div", { class: "form-head" }, el("span", { class: "dim", text: udf.title + (udf.own ? ` · ${udf.file}` : "") }), (this.reset = button("Default values", () => this.app.do("reset", { id: this.app.selected }), { symbol: "undo", bare: true }))),
      this.failure,
      this.set,
      ...(this.fields.length ? [] : [el("p", { class: "dim", text: "This analysis has no parameters." })]),
      el("details", { class: "about" }, el("summary", { text: "About this analysis" }), el("div", { class: "doc", text: udf.doc })),
    );
  }

  fill() {
    const { store } = this.app;
    const a = store.analysis(this.app.selected);
    if (!a || !this.fields?.length) return this.state(a);
    const known = this.app.knownHandleParams(a);
    for (const made of this.fields) {
      const name = made.field.name;
      made.root.hidden = known.others.has(name) || (made.field.kind === "array" && known.any && store.param(a.id, "shape", "mask") !== "mask" && !store.param(a.id, name));
      made.show(store.param(a.id, name, made.field.default), store.resolvedParam(a.id, name));
    }
    this.state(a);
  }

  state(a) {
    if (!this.failure || !a) return;
    this.set.disabled = this.reset.disabled = !this.app.store.mayChange;
    this.failure.replaceChildren();
    if (!a.error) return;
    this.failure.append(el("strong", {}, icon("warn"), a.error.message));
    if (a.error.where) this.failure.append(el("span", { class: "dim", text: a.error.where }));
    if (a.error.traceback) this.failure.append(el("details", {}, el("summary", { text: "Traceback" }), el("pre", { text: a.error.traceback })));
  }

  entered(field, value) {
    this.app.store.set(this.app.selected, { ...this.otherShape(field, value), [field.name]: value });
  }

  // What goes with another shape: lengths that it does not have go back to their defaults, and come back with a shape that has them.
  otherShape(field, value) {
    const { store } = this.app;
    const a = store.analysis(this.app.selected);
    const handles = this.app.udf(a.udf)?.handles ?? [];
    if (!handles.some((h) => field.name in h.when)) return {};
    const next = handles.find((h) => h.when[field.name] === value);
    const own = new Set(HANDLE_PARTS.map((k) => next?.[k]));
    const params = {};
    const kept = (this.kept[a.id] ??= {});
    for (const name of new Set(handles.flatMap((h) => HANDLE_PARTS.map((k) => h[k])).filter(Boolean))) {
      const now = store.param(a.id, name);
      const plain = this.fields.find((f) => f.field.name === name)?.field.default ?? null;
      if (own.has(name) && name in kept) (params[name] = kept[name]), delete kept[name];
      else if (next && !own.has(name) && String(now) !== String(plain)) (kept[name] = now), (params[name] = plain);
    }
    return params;
  }

  refused({ analysis, error }) {
    if (analysis !== this.app.selected) return this.app.say(error.message, "error");
    const named = this.fields?.find((f) => new RegExp(`\\b${f.field.name}\\b`).test(error.message));
    for (const f of this.fields ?? []) f.error("");
    if (named) named.error(error.message);
    else this.app.say(error.message, "error");
    this.fill();
    if (named) named.error(error.message);
  }
}
