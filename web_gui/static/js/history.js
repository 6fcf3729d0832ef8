// Past runs with thumbnails: look again, run again.

import { button, dialog, el, timeText } from "./dom.js";

export function historyList(app, most = 1000) {
  return el("ul", { class: "history" }, app.store.state.history.slice(0, most).map((h) => historyItem(app, h)));
}

function historyItem(app, h) {
  const share = h.positions ? ` · ${h.processed} of ${h.positions} positions` : "";
  const again = () => (document.querySelector("dialog.history")?.close(), app.do("history_open", { id: h.id }));
  const look = (h.results ?? []).filter((r) => r.output?.display !== "none");
  return el(
    "li",
    {},
    h.thumb ? el("img", { src: h.thumb, alt: "", width: 64, height: 64, loading: "lazy" }) : el("span", { class: "no-thumb" }),
    el(
      "div",
      { class: "grow" },
      el("strong", { text: h.name, title: h.source }),
      el("span", { class: "dim", text: `${timeText(h.t)}${share} · ${h.seconds < 10 ? h.seconds.toFixed(1) : Math.round(h.seconds)} s` }),
      h.dropped || h.state !== "done" ? el("span", { class: "warn", text: [h.state !== "done" && h.state, h.dropped && `${h.dropped} frames lost`].filter(Boolean).join(" · ") }) : null,
      el("span", { class: "dim", text: h.analyses.map((a) => a.title).join(", ") }),
      h.saved ? el("span", { class: "dim path", text: h.saved, title: h.saved }) : null,
    ),
    look.length && app.store.source?.sig ? button("Show beside", () => (document.querySelector("dialog.history")?.close(), app.showPast(h)), { title: "Show the results of this run beside the present ones" }) : null,
    h.rerun ? button("Open again", again, { title: "Open this source with these analyses and run them" }) : null,
    button("Take out of the list", async (e) => ((await app.do("history_remove", { id: h.id })) !== undefined ? e.target.closest("li")?.remove() : null), { symbol: "trash", bare: true }),
  );
}

export function historyDialog(app) {
  const filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter past runs" });
  const list = historyList(app);
  filter.addEventListener("input", () => {
    for (const item of list.children) item.hidden = !item.textContent.toLowerCase().includes(filter.value.toLowerCase());
  });
  dialog("Past runs", { class: "dialog history wide" }, list.children.length ? filter : el("p", { class: "dim", text: "Runs appear here when they are over." }), list);
  filter.focus();
}
