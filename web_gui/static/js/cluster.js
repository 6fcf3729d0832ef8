// The computers and processes that a run uses: shown only while it uses some.

import { button, bytesText, dialog, el, write } from "./dom.js";

const MANY = 4; // more are in the dialog
const WORDS = {
  running: "running", waiting: "waits", armed: "armed", draining: "ends", silent: "does not answer", busy: "busy", idle: "idle", lost: "lost",
};

export function rateText(n) {
  if (!(n > 0)) return "–";
  return n >= 1e6 ? `${(n / 1e6).toPrecision(3)}M` : n >= 10000 ? `${Math.round(n / 1000)}k` : n >= 1000 ? `${(n / 1000).toPrecision(2)}k` : n < 10 ? n.toFixed(1) : String(Math.round(n));
}

export function fillText(fill) {
  return typeof fill === "number" ? `${Math.round(100 * fill)} %` : "–";
}

// What stands above the table: how many there are and what they do together.
export function summary(cluster) {
  const workers = cluster.nodes.filter((n) => n.role !== "router");
  const there = workers.filter((n) => n.state !== "lost");
  const sum = (key) => there.reduce((s, n) => s + (n[key] || 0), 0);
  const noun = cluster.kind === "dask" ? "worker" : "consumer";
  return {
    count: `${there.length} ${noun}${there.length === 1 ? "" : "s"}`,
    rates: `${rateText(sum("frames_per_s"))} frames/s · ${(sum("bytes_per_s") / 1e9).toFixed(2)} GB/s`,
    lost: cluster.consumers_lost > 0 ? `${cluster.consumers_lost} lost` : "",
    silent: cluster.state === "silent",
  };
}

// The nodes to be shown where there is room for `most`: the router, what is wrong, then the busiest.
export function chosen(nodes, most) {
  const rank = (n) => (n.role === "router" ? 3 : n.state === "lost" || n.last_error ? 2 : 1);
  const order = nodes.map((n, i) => [n, i]).sort(([a, i], [b, j]) => rank(b) - rank(a) || (nodes.length > most ? b.frames_per_s - a.frames_per_s : 0) || i - j);
  return order.slice(0, most).map(([n]) => n);
}

export class ClusterView {
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.state = el("span", { class: "dim" });
    this.count = el("strong");
    this.rates = el("div", { class: "dim" });
    this.lost = el("span", { class: "warn" });
    this.body = el("tbody");
    this.more = button("", () => this.openDialog(), { kind: "plain", title: "Everything that is known of each node" });
    this.problem = el("p", { class: "failure" });
    root.append(
      el("div", { class: "row" }, el("h2", { text: "Cluster" }), this.state, el("span", { class: "grow" }), this.more),
      el("div", {}, this.count, " ", this.lost), this.rates, nodeTable(this.body), this.problem,
    );
    app.store.addEventListener("stat", () => this.update());
    this.update();
  }

  update() {
    const cluster = this.app.store.stat?.cluster;
    this.root.hidden = !cluster?.nodes;
    if (this.root.hidden) return;
    const { count, rates, lost, silent } = summary(cluster);
    write(this.state, WORDS[cluster.state] ?? cluster.state);
    this.state.className = silent ? "warn" : "dim";
    this.state.title = cluster.address;
    write(this.count, count);
    write(this.rates, rates);
    write(this.lost, lost);
    fillNodes(this.body, chosen(cluster.nodes, MANY));
    this.more.hidden = this.body.parentNode.hidden = cluster.nodes.length === 0;
    write(this.more.querySelector("span"), cluster.nodes.length > MANY ? `all ${cluster.nodes.length}…` : "details…");
    const problem = cluster.problems?.at(-1) ?? "";
    write(this.problem, problem);
    if (this.large) fillNodes(this.large, cluster.nodes, true);
  }

  // Every node with everything that is known of it.
  openDialog() {
    this.large = el("tbody");
    const { cluster } = this.app.store.stat;
    const node = dialog("Cluster", { class: "dialog wide" }, el("p", { class: "dim", text: cluster.address }), el("div", { class: "nodes-all" }, nodeTable(this.large, true)));
    node.addEventListener("close", () => (this.large = null));
    fillNodes(this.large, cluster.nodes, true);
  }
}

const COLUMNS = [["node", "computer and process"], ["frames/s", ""], ["GB/s", ""], ["fill", "how much of its memory for frames is in use"]];
const MORE = [["state", ""], ["blocks", "blocks or tasks that it has"], ["frames", "since it began"], ["memory", ""], ["heard", "seconds since it was last heard"], ["last error", ""]];

function nodeTable(body, all = false) {
  const heads = [...COLUMNS, ...(all ? MORE : [])].map(([text, title], i) => el("th", { scope: "col", text, title: title || null, class: i && text !== "last error" && text !== "state" ? "figure" : "" }));
  return el("table", { class: "nodes" }, el("thead", {}, el("tr", {}, heads)), body);
}

// Rows are kept, so that nothing jumps and tooltips stay.
function fillNodes(body, nodes, all = false) {
  const rows = new Map([...body.children].map((row) => [row.dataset.name, row]));
  const wanted = nodes.map((n) => {
    const row = rows.get(n.name) ?? el("tr", { "data-name": n.name }, el("th", { scope: "row" }), [...COLUMNS.slice(1), ...(all ? MORE : [])].map(() => el("td")));
    const error = n.last_error ? firstLine(n.last_error) : "";
    row.className = n.state === "lost" ? "gone" : error ? "warn" : "";
    const short = n.role === "router" ? "router" : n.name;
    const texts = [short, rateText(n.frames_per_s), n.bytes_per_s > 0 ? (n.bytes_per_s / 1e9).toFixed(2) : "–", n.state === "lost" ? "lost" : fillText(n.fill)];
    if (all) texts.push(WORDS[n.state] ?? n.state, String(n.blocks), n.frames.toLocaleString("en-US"), n.memory_bytes || n.ring_bytes ? bytesText(n.memory_bytes || n.ring_bytes) : "–", `${Math.round(n.seen_s)} s`, error);
    [...row.children].forEach((cell, i) => {
      write(cell, texts[i]);
      cell.className = i && i !== 4 && i !== 9 ? "figure" : "";
    });
    row.firstChild.title = [`${n.host}, process ${n.pid}, ${WORDS[n.state] ?? n.state}`, error].filter(Boolean).join("\n");
    return row;
  });
  if (wanted.length !== body.children.length || wanted.some((row, i) => row !== body.children[i])) body.replaceChildren(...wanted);
}

function firstLine(text) {
  return text.trim().split("\n")[0].slice(0, 300);
}
