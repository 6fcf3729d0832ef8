// The frame around a view: title, what is under the pointer, menu, full size.

import { button, el, menu, put, write } from "./dom.js";

export class Tile {
  constructor(app, key) {
    this.app = app;
    this.key = key;
    this.dot = el("span", { class: "dot" });
    this.heading = el("h3", { text: "" });
    this.sub = el("span", { class: "dim sub" });
    this.readout = el("output", { class: "readout", "aria-live": "off" });
    this.more = button("More for this view", () => menu(this.more, app.offered(this.actions())), { symbol: "more", bare: true });
    this.grow = button("Full size (double click)", () => this.toggleFull(), { symbol: "full", bare: true });
    this.head = el("header", { class: "tile-head" }, this.dot, el("div", { class: "names" }, this.heading, this.sub), this.grow, this.more);
    this.body = el("div", { class: "tile-body" }, this.readout);
    this.foot = el("footer", { class: "tile-foot" });
    this.root = el("section", { class: "tile" }, this.head, this.body, this.foot);
    this.root.addEventListener("keydown", (e) => e.key === "Escape" && this.root.classList.contains("full") && (this.toggleFull(), e.stopPropagation()));
    this.ends = [];
  }

  title(text, sub = "", colour = null) {
    write(this.heading, text);
    write(this.sub, sub);
    put(this.heading, "title", sub ? `${text} · ${sub}` : text);
    put(this.root, "aria-label", sub ? `${text}, ${sub}` : text);
    this.dot.hidden = colour === null;
    if (colour !== null) this.dot.className = `dot colour${colour % 8}`;
  }

  toggleFull() {
    const on = !this.root.classList.contains("full");
    this.root.getRootNode().querySelector(".tile.full")?.classList.remove("full");
    this.root.classList.toggle("full", on);
    this.root.parentNode?.classList.toggle("one", on);
  }

  // Small notes over the image: [text, title, kind].
  notes(badge, list) {
    const key = JSON.stringify(list);
    if (key === this.noted) return;
    this.noted = key;
    badge.replaceChildren(...list.map(([text, title, kind = ""]) => el("span", { class: `badge ${kind}`, text, title })));
  }

  actions() {
    return [];
  }

  pictureName() {
    return [this.heading.textContent, this.sub.textContent].filter(Boolean).join(" ").replace(/[^\w-]+/g, "_").slice(0, 60) || "image";
  }

  end(call) {
    this.ends.push(call);
  }

  close() {
    for (const call of this.ends) call();
    if (this.root.classList.contains("full")) this.root.parentNode?.classList.remove("one");
    this.root.remove();
  }
}
