// The page: one connection, one state, and the parts that show it.

import { AnalysisList } from "./analyses.js";
import { ClusterView } from "./cluster.js";
import { CorrectionsPanel } from "./corrections.js";
import { el, toast } from "./dom.js";
import { download } from "./export.js";
import { openFileDialog, pickFileDialog } from "./filedialog.js";
import { ParameterForm } from "./form.js";
import { FrameShapes } from "./frameshapes.js";
import { Grid } from "./grid.js";
import { Layout } from "./layout.js";
import { Link } from "./link.js";
import { openLiveDialog } from "./livedialog.js";
import { LogView } from "./log.js";
import { Regions } from "./regions.js";
import { StatusBar } from "./statusbar.js";
import { Store } from "./store.js";
import { TopBar } from "./topbar.js";

const WAITS = new Set(["open", "connect", "save", "history_open"]);

export class App extends EventTarget {
  constructor() {
    super();
    const part = (id) => document.getElementById(id);
    this.body = document.body;
    this.alarm = part("alarm");
    this.link = new Link();
    this.store = new Store(this.link);
    this.layout = new Layout(this);
    this.selected = null;
    this.cursor = null;
    this.plane = null;
    this.channel = null;
    this.past = new Map(); // topic -> {title, output}: results of past runs shown beside
    this.udfList = new Map();
    this.udfVersion = -1;
    this.do = this.do.bind(this);
    this.shapes = new FrameShapes(this);
    const extras = part("extras");
    const [region, corrections] = [el("div"), el("div")];
    extras.append(region, corrections);
    this.regions = new Regions(this, region);
    this.corrections = new CorrectionsPanel(this, corrections);
    this.parts = [
      new TopBar(this, part("top")), new AnalysisList(this, part("analyses")), new ParameterForm(this, part("form")), this.regions, this.corrections,
      new ClusterView(this, part("cluster")), new LogView(this, part("log")), new Grid(this, part("grid")), this.shapes,
    ];
    this.status = new StatusBar(this, part("status"));
    this.store.addEventListener("change", () => this.refresh());
    this.layout.addEventListener("replaced", () => this.refresh());
    this.link.addEventListener("outdated", () => this.say("The server is another version than this page. Reload the page.", "error"));
    document.addEventListener("visibilitychange", () => this.link.sleep(document.hidden));
    addEventListener("keydown", (e) => this.key(e));
    this.link.connect();
  }

  // Show the state as it is now.
  refresh() {
    const { state, source } = this.store;
    if (!state) return;
    if (source?.id !== this.sourceId || String(source?.nav) !== this.sourceNav) {
      const keeps = String(source?.nav) === this.sourceNav && String(source?.sig) === this.sourceSig;
      [this.sourceId, this.sourceNav, this.sourceSig] = [source?.id, String(source?.nav), String(source?.sig)];
      if (!keeps) [this.cursor, this.plane, this.channel] = [null, null, null];
      this.past.clear();
    }
    this.layout.update();
    if (!state.analyses[this.selected]) this.selected = state.order[0] ?? null;
    if (state.udfs.version !== this.udfVersion) this.loadUdfs();
    for (const shown of this.parts) shown.update();
    this.status.update();
  }

  select(id) {
    this.selected = id;
    this.refresh();
  }

  // The plane of a series that scan images show, all of them: indices along the axes before the last two.
  setPlane(at) {
    if (String(at) === String(this.plane)) return;
    this.plane = at;
    this.dispatchEvent(new CustomEvent("plane"));
    if (this.cursor) this.setCursor([...at, ...this.cursor.slice(-2)]);
  }

  setCursor(at) {
    if (String(at) === String(this.cursor)) return;
    this.cursor = at;
    if (at?.length > 2) this.setPlane(at.slice(0, -2));
    this.dispatchEvent(new CustomEvent("cursor"));
  }

  // -- analyses and their handles ------------------------------------------------

  async loadUdfs() {
    const version = this.store.state.udfs.version;
    if (version === this.udfVersion && this.udfList.size) return [...this.udfList.values()];
    this.udfVersion = version;
    try {
      const found = await this.link.command("udfs");
      this.udfList = new Map(found.udfs.map((u) => [u.name, u]));
    } catch (error) {
      this.udfVersion = -1;
      if (this.link.open) this.say(error.message, "error");
      return [];
    }
    this.refresh();
    return [...this.udfList.values()];
  }

  udf(name) {
    return this.udfList.get(name) ?? null;
  }

  // The handle that counts with the parameters as they are.
  handleOf(a) {
    const udf = this.udf(a.udf);
    const fallback = (name) => udf.fields.find((f) => f.name === name)?.default ?? null;
    return udf?.handles.find((h) => Object.entries(h.when).every(([name, value]) => this.store.param(a.id, name, fallback(name)) === value)) ?? null;
  }

  // Parameters of shapes other than the present one: of no meaning now.
  knownHandleParams(a) {
    const names = (h) => ["centre", "inner", "outer", "height", "width", "angles"].map((k) => h[k]).filter(Boolean);
    const all = (this.udf(a.udf)?.handles ?? []).filter((h) => Object.keys(h.when).length);
    const now = this.handleOf(a);
    const used = new Set(now ? names(now) : []);
    return { any: all.length > 0, others: new Set(all.flatMap(names).filter((n) => !used.has(n))) };
  }

  frameChannel() {
    const channels = this.store.source?.channels ?? [];
    const wanted = this.channel ?? this.store.analysis(this.selected)?.channel;
    return channels.length > 1 ? channels.find((c) => c.name === wanted) ?? channels[0] : null;
  }

  setFrameChannel(name) {
    this.channel = name;
    this.refresh();
  }

  async autoCentre() {
    const a = this.store.analysis(this.selected);
    const handle = a && this.handleOf(a);
    if (!handle || !this.mayChangeOrSay()) return;
    const channel = a.channel ? { channel: a.channel } : {};
    const found = await this.do("auto_centre", channel);
    if (!found) return;
    if (!found.good) return this.say("No bright disk stands out in the mean frame. Drag the centre by hand.", "warning");
    this.store.set(a.id, { [handle.centre]: found.centre });
    this.say(`Centre of the bright disk: y ${found.centre[0]}, x ${found.centre[1]} px, used for ${a.title}.`);
  }

  // -- what people do --------------------------------------------------------------

  // A command; its result, or undefined where it failed and the user was told.
  async do(name, args = {}, failed = null) {
    if (WAITS.has(name)) document.body.classList.add("waits");
    try {
      return (await this.link.command(name, args)) ?? null;
    } catch (error) {
      if (failed) failed(error);
      else this.say(error.kind === "control" ? `${this.store.state.control?.name ?? "Somebody else"} is in control. Take control to change things.` : error.message, "error");
      return undefined;
    } finally {
      document.body.classList.remove("waits");
    }
  }

  // Of what a tile can do, what is possible here: all.
  offered(actions) {
    return actions;
  }

  say(text, level = "info") {
    toast(text, level);
  }

  mayChangeOrSay() {
    if (!this.store.mayChange) this.say(`${this.store.state.control?.name} is in control. Take control to change things.`, "warning");
    return this.store.mayChange;
  }

  openDialog() {
    openFileDialog(this);
  }

  liveDialog() {
    openLiveDialog(this);
  }

  pickFile(title, ending = "") {
    return pickFileDialog(this, title, ending);
  }

  showPast(entry) {
    for (const r of entry.results) if (r.output) this.past.set(r.topic, { title: `${entry.name} · ${r.title}`, output: r.output });
    this.refresh();
  }

  async fetchFile(address, name) {
    const answer = await fetch(address);
    if (!answer.ok) return this.say((await answer.json().catch(() => null))?.error?.message ?? `${name} could not be fetched (${answer.status})`, "error");
    const given = /filename="?([^";]+)/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1];
    const end = /\.\w+$/.exec(given ?? "")?.[0] ?? "";
    download(end ? name.replace(/\.\w+$/, "") + end : name, await answer.blob());
  }

  key(event) {
    if (event.target.closest("input, select, textarea, dialog")) return;
    if (event.key === "o" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), this.openDialog());
    else if (event.key === "s" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), this.parts[0].saved());
  }
}

window.libstream = new App();
