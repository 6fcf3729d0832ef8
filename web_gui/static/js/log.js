// The server's last lines, newest last; errors are announced once.

import { button, clockText, el, toast } from "./dom.js";

export class LogView {
  constructor(app, root) {
    this.app = app;
    this.list = el("ol", { class: "log", tabindex: "0", "aria-label": "Log" });
    root.append(el("div", { class: "row" }, el("h2", { class: "grow", text: "Log" }), button("Empty the log", () => app.do("clear_log"), { symbol: "trash", bare: true })), this.list);
    this.last = null;
    this.follows = true; // the newest line is shown, until somebody scrolls up
    this.list.addEventListener("scroll", () => (this.follows = this.list.scrollTop + this.list.clientHeight >= this.list.scrollHeight - 8));
    new ResizeObserver(() => this.down()).observe(this.list);
  }

  down() {
    if (this.follows) this.list.scrollTop = this.list.scrollHeight;
  }

  update() {
    const { log } = this.app.store.state;
    const newest = log.at(-1);
    const key = `${log.length}|${newest?.t}|${newest?.text}`;
    if (key === this.key) return;
    this.key = key;
    const follows = this.follows;
    this.list.replaceChildren(...log.map((line) => el("li", { class: line.level }, el("time", { text: clockText(line.t) }), el("span", { text: line.text }))));
    this.follows = follows;
    this.down();
    if (this.last !== null) for (const line of log) if (line.t > this.last && line.level === "error") toast(line.text, "error");
    this.last = newest?.t ?? this.last ?? 0;
  }
}
