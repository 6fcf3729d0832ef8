// Source, run, save, and who is in control.

import { ask, button, bytesText, el, menu, write } from "./dom.js";
import { download, fileStem } from "./export.js";
import { historyDialog } from "./history.js";
import { followTheme, nextTheme } from "./theme.js";

const KIND_WORDS = { file: "file", live: "live", record: "recorded scan" };

export class TopBar {
  constructor(app, root) {
    this.app = app;
    const { do: act } = app;
    this.drawer = button("Analyses and parameters", () => document.body.classList.toggle("drawer"), { symbol: "menu", bare: true });
    this.drawer.classList.add("narrow-only");
    this.file = button("File…", () => app.openDialog(), { symbol: "folder", title: "Open a file" });
    this.live = button("Detector…", () => app.liveDialog(), { symbol: "detector", title: "Connect a detector" });
    this.name = el("strong", { class: "source-name" });
    this.facts = el("span", { class: "dim source-facts" });
    this.run = button("Run", () => act("run"), { symbol: "run", kind: "primary" });
    this.cancel = button("Cancel", () => act("cancel"), { symbol: "stop" });
    this.auto = el("input", { type: "checkbox", on: { change: () => act("auto", { on: this.auto.checked }) } });
    this.autoLabel = el("label", { class: "check", title: "Changes are computed at once; off: by the Run button" }, this.auto, "run at once");
    this.arm = button("Arm", () => this.armed(), { symbol: "run", kind: "primary" });
    this.trigger = button("Trigger", () => act("trigger"));
    this.disarm = button("Stop", () => act("disarm"), { symbol: "stop" });
    this.follow = el("input", { type: "checkbox", on: { change: () => act("follow", { on: this.follow.checked }) } });
    this.followLabel = el("label", { class: "check", title: "Go on to the next acquisition when it begins" }, this.follow, "follow");
    this.save = button("Save results", () => this.saved(), { symbol: "save", title: "All results with provenance as one HDF5 file; name and time are added by themselves" });
    this.more = button("Code, setups, history", () => menu(this.more, this.actions()), { symbol: "more", bare: true });
    this.past = button("Past runs", () => historyDialog(app), { symbol: "history", bare: true });
    this.people = button("", () => menu(this.people, this.peopleActions()), { symbol: "people", kind: "people" });
    this.take = button("Take control", () => act("take_control"), { kind: "primary" });
    this.theme = button("Dark or light", () => nextTheme(), { symbol: "theme", bare: true });
    root.append(
      this.drawer, el("span", { class: "brand", text: "libstream" }), el("div", { class: "pair-buttons", role: "group", "aria-label": "Source" }, this.file, this.live),
      el("div", { class: "source" }, this.name, this.facts), el("span", { class: "grow" }),
      this.autoLabel, this.run, this.cancel, this.followLabel, this.arm, this.trigger, this.disarm, this.save, this.more, this.past, this.take, this.people, this.theme,
    );
    followTheme();
  }

  update() {
    const { state, source, mayChange, you } = this.app.store;
    const { live, run, control } = state;
    const attached = Boolean(live);
    const busy = this.app.store.busy;
    write(this.name, source ? source.name ?? source.uri : live ? live.url : "nothing is open");
    this.name.title = source?.uri ?? "";
    write(this.facts, this.factsText(source, live));
    this.file.setAttribute("aria-pressed", Boolean(source) && !attached);
    this.live.setAttribute("aria-pressed", attached);
    const ready = Boolean(source?.sig) && state.order.length > 0;
    this.run.hidden = attached || busy;
    this.run.classList.toggle("primary", !run.auto);
    this.run.disabled = !ready || !mayChange;
    this.cancel.hidden = !busy || attached;
    this.cancel.disabled = !mayChange;
    this.autoLabel.hidden = !source?.sig || attached;
    this.auto.checked = run.auto;
    this.auto.disabled = !mayChange;
    for (const node of [this.arm, this.trigger, this.disarm]) node.hidden = !attached || !live.can_arm;
    this.arm.disabled = !mayChange || live?.armed;
    this.disarm.disabled = this.trigger.disabled = !mayChange;
    this.followLabel.hidden = !attached;
    this.follow.checked = Boolean(live?.follow);
    this.follow.disabled = !mayChange;
    this.save.disabled = !mayChange || !Object.values(state.analyses).some((a) => a.shown_gen > 0);
    const n = Object.keys(state.viewers).length;
    const who = !control ? "nobody controls" : control.viewer === you ? "you control" : `${control.name} controls`;
    write(this.people.querySelector("span"), `${n} · ${who}`);
    this.people.title = `${n} ${n === 1 ? "viewer" : "viewers"}: ${Object.values(state.viewers).map((v) => v.name + (v.id === you ? " (you)" : "")).join(", ")}`;
    this.take.hidden = mayChange;
    document.body.classList.toggle("viewing", !mayChange);
    document.title = source ? `${source.name} · libstream` : "libstream";
  }

  factsText(source, live) {
    if (!source?.sig) return live ? `live · ${live.state}` : "";
    const size = (n) => n.join(" × ");
    const parts = [KIND_WORDS[source.kind], live ? null : source.format, source.nav.length ? `${size(source.nav)} scan` : "single frame", `${size(source.sig)} ${source.dtype}`];
    if (!live && source.bytes) parts.push(bytesText(source.bytes));
    if (live) parts.push(live.run ? `run ${live.run} ${live.run_state ?? ""}` : live.state);
    return parts.filter(Boolean).join(" · ");
  }

  async armed() {
    const made = await this.app.do("arm");
    if (made) this.app.say(made.run === null || made.run === undefined ? "The detector is armed." : `Run ${made.run} is armed.`);
  }

  async saved() {
    const made = await this.app.do("save");
    if (made) this.app.say(`Saved to ${made.path} (${bytesText(made.bytes)})`);
  }

  async code(kind) {
    const made = await this.app.do("code", { kind });
    if (!made) return;
    if (kind === "notebook") return download(made.name, new Blob([made.text], { type: "application/x-ipynb+json" }));
    try {
      await navigator.clipboard.writeText(made.text);
      this.app.say("A script that computes what is shown is on the clipboard.");
    } catch {
      download(made.name, new Blob([made.text], { type: "text/x-python" }));
      this.app.say(`The clipboard is not allowed here; the script is saved as ${made.name}.`);
    }
  }

  async setup() {
    const name = await ask("Save a setup", this.app.store.source?.name ?? "", { label: "Name of the setup", accept: "Save" });
    if (name && (await this.app.do("setup_save", { name })) !== undefined) this.app.say(`Setup "${name}" is kept: analyses, region, corrections and arrangement.`);
  }

  actions() {
    const { state, source, mayChange } = this.app.store;
    const open = Boolean(source?.sig);
    const setups = state.setups ?? [];
    return [
      open && ["Copy as Python", () => this.code("python"), "code"],
      open && ["Download notebook", () => this.code("notebook"), "file"],
      open && ["Download results (HDF5)", () => this.app.fetchFile("api/results.h5", `${fileStem(this.app)}_results.h5`), "save"],
      null,
      open && ["Save this setup…", () => this.setup(), "setup"],
      ...(mayChange && open ? setups.map((s) => [`Setup: ${s.name}`, () => this.app.do("setup_load", { name: s.name }), "setup"]) : []),
      setups.length > 0 && mayChange && ["Remove a setup…", () => menu(this.more, setups.map((s) => [`Remove ${s.name}`, () => this.app.do("setup_remove", { name: s.name }), "trash"])), "trash"],
      (open || state.live) && null,
      (open || state.live) && mayChange && [state.live ? "Disconnect" : "Close the file", () => this.app.do("close"), "close"],
    ].filter((x) => x !== false && x !== undefined);
  }

  peopleActions() {
    const { state, you } = this.app.store;
    const mine = state.control?.viewer === you;
    return [
      ...Object.values(state.viewers).map((v) => [`${v.name}${v.id === you ? " (you)" : ""}${state.control?.viewer === v.id ? " · in control" : ""}`, () => {}, "people"]),
      null,
      mine ? ["Release control", () => this.app.do("release_control")] : ["Take control", () => this.app.do("take_control")],
    ];
  }
}

