// Progress, rates, what was lost, how late everything is, and the connection.

import { button, dialog, el, icon, write } from "./dom.js";

function perSecond(n) {
  if (!Number.isFinite(n)) return "–";
  return n >= 1e6 ? `${(n / 1e6).toPrecision(3)} Mfps` : n >= 1000 ? `${(n / 1000).toPrecision(3)} kfps` : `${n < 10 ? n.toFixed(1) : Math.round(n)} fps`;
}

function countText(n) {
  return Number(n).toLocaleString("en-US").replace(/,/g, " ");
}

const RUN_WORDS = { running: "running", done: "done", incomplete: "incomplete", failed: "failed" };
const LEDGER_HELP = {
  announced: "frames that the detector said it would send", received: "frames that came", processed: "frames that every analysis has seen",
  dropped: "frames that were thrown away because this computer was too slow", missing: "frames that never came", corrupt: "frames that could not be read",
  duplicate: "frames that came twice", late: "frames that came after their acquisition was over", surplus: "frames beyond what was announced", foreign: "messages of another acquisition",
  unseen: "positions of which nothing is known yet", excluded: "frames that are not asked for: flyback, outside of the region", partial: "frames of which some sectors or channels never came",
  pending: "frames that wait to be processed", gone: "frames that had left the memory when parameters were changed",
};

export class StatusBar {
  constructor(app, root) {
    this.app = app;
    this.bar = el("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.share = el("strong");
    this.count = el("span", { class: "dim" });
    this.left = el("span", { class: "dim wide-only" });
    this.into = this.part("in");
    this.done = this.part("processed");
    this.fill = this.part("buffer");
    this.latency = this.part("latency", "from the newest frame merged to the picture on this screen");
    this.lost = button("", () => this.ledgerDialog(), { kind: "lost" });
    this.lost.prepend(icon("warn"));
    this.books = button("Ledger", () => this.ledgerDialog(), { kind: "plain wide-only", title: "Where every frame of the acquisition went" });
    this.lag = this.part("server", "how late the server's event loop came in the last second, and the connection's round trip");
    this.link = el("span", { class: "connection", role: "status" });
    this.spoken = el("span", { class: "hidden-text", role: "status", "aria-live": "polite" });
    root.append(this.bar, el("span", { class: "part" }, this.share, " ", this.count), this.left, this.into.root, this.done.root, this.fill.root, this.lost, this.books, this.latency.root, el("span", { class: "grow" }), this.lag.root, this.link, this.spoken);
    app.store.addEventListener("stat", () => this.update());
    for (const name of ["open", "lost", "trying", "outdated"]) app.link.addEventListener(name, (e) => this.connection(name, e.detail));
    for (const node of [this.bar, this.lost, this.books, this.into.root, this.done.root, this.fill.root, this.latency.root, this.lag.root]) node.hidden = true;
    this.connection("trying", { tries: 0 });
  }

  part(name, title = null) {
    const value = el("strong");
    return { root: el("span", { class: "part wide-only", title }, name, " ", value), value };
  }

  update() {
    const { stat, state } = this.app.store;
    if (!stat || !state) return;
    const { run, live, ledger, server, link } = stat;
    this.progress(run, state, live, ledger);
    const rate = run?.frames_per_s;
    this.into.root.hidden = !live;
    if (live) write(this.into.value, perSecond(live.in_per_s));
    this.done.root.hidden = !run;
    if (run) write(this.done.value, perSecond(rate));
    this.fill.root.hidden = !live;
    if (live) {
      write(this.fill.value, `${Math.round(100 * live.fill)} %`);
      this.fill.root.classList.toggle("warn", live.fill > 0.8 || live.blocked);
      this.fill.root.title = live.blocked ? "the buffer is full: frames wait or are dropped" : "how full the buffer between detector and analyses is";
    }
    this.books.hidden = !ledger;
    this.losses(ledger);
    const ages = this.app.link.painted.ages.slice(-20).sort((a, b) => a - b);
    this.latency.root.hidden = !ages.length;
    if (ages.length) write(this.latency.value, `${Math.max(0, Math.round(ages[Math.floor(ages.length / 2)]))} ms`);
    this.lag.root.hidden = !server;
    if (server) {
      write(this.lag.value, `${server.lag_ms < 10 ? server.lag_ms.toFixed(1) : Math.round(server.lag_ms)} ms${link ? ` · link ${Math.round(link.rtt_ms)} ms` : ""}`);
      this.lag.root.classList.toggle("warn", server.lag_ms > 100);
    }
  }

  progress(run, state, live, ledger) {
    const busy = Boolean(run) && state.run.state === "running";
    if (busy && !this.app.store.busy && this.word) return; // a drag repeats short runs: what was said stays
    const settled = Object.values(this.app.store.stat.analyses ?? {});
    const least = settled.reduce((m, a) => (m && m.n_done / m.n_total <= a.n_done / a.n_total ? m : a), null);
    const past = live && ledger?.announced ? { n_done: ledger.processed, n_total: ledger.announced } : null;
    const now = busy && run ? run : least ?? past;
    this.bar.hidden = !now?.n_total;
    if (now?.n_total) {
      const part = Math.min(1, now.n_done / now.n_total);
      this.bar.value = part;
      write(this.share, `${part < 1 ? Math.floor(100 * part) : 100} %`);
      write(this.count, `${countText(now.n_done)} / ${countText(now.n_total)}`);
    } else {
      write(this.share, "");
      write(this.count, live && state.run.state !== "running" ? "waiting for the detector" : RUN_WORDS[state.run.state] ?? "");
    }
    const left = busy && !live ? run.seconds_left : null;
    write(this.left, left > 1 ? `${left < 90 ? `${Math.round(left)} s` : `${Math.round(left / 60)} min`} left` : "");
    const word = RUN_WORDS[state.run.state] ?? "";
    if (word !== this.word) write(this.spoken, word ? `Analyses: ${word}` : "");
    this.word = word;
  }

  // Frames that were lost are never hidden.
  losses(ledger) {
    const parts = ["dropped", "missing", "corrupt"].filter((k) => ledger?.[k] > 0).map((k) => `${k} ${countText(ledger[k])}`);
    this.lost.hidden = parts.length === 0;
    const text = parts.join(", ");
    const span = this.lost.querySelector("span");
    if (span.textContent === text) return;
    if (text && !span.textContent) write(this.app.alarm, `Frames were lost: ${text}`);
    if (!text) write(this.app.alarm, "");
    span.textContent = text;
    this.lost.title = "Frames of this acquisition that no analysis has seen";
  }

  ledgerDialog() {
    const ledger = this.app.store.stat?.ledger ?? {};
    const lost = new Set(["dropped", "missing", "corrupt"]);
    const rows = Object.entries(ledger).map(([k, n]) => el("tr", { class: n && lost.has(k) ? "warn" : "" }, el("th", { scope: "row", text: k }), el("td", { class: "figure", text: countText(n) }), el("td", { class: "dim", text: LEDGER_HELP[k] ?? "" })));
    dialog("Ledger: where every frame went", {}, el("table", { class: "ledger" }, el("tbody", {}, rows)));
  }

  connection(name, detail) {
    const words = {
      open: ["ok", "connected"], lost: ["warn", "connection lost"], outdated: ["warn", "reload the page: the server is another version"],
      trying: ["warn", detail?.tries ? `no connection, trying again (${detail.tries})` : "connecting"],
    }[name];
    this.link.className = `connection ${words[0]}`;
    write(this.link, words[1]);
    this.app.body.classList.toggle("offline", name !== "open");
  }
}
