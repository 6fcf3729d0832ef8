// Choosing a file on the server: places, folders, filter, keyboard; what a file is, and the options for opening it.

import { button, bytesText, dialog, el, icon, timeText } from "./dom.js";
import { makeField } from "./fields.js";

const RECENT_KEY = "libstream-recent";
const PLACE_KEY = "libstream-place";
const RECENT_MOST = 8;

export function rememberFile(path) {
  const list = [path, ...recentFiles().filter((p) => p !== path)].slice(0, RECENT_MOST);
  localStorage.setItem(RECENT_KEY, JSON.stringify(list));
}

export function recentFiles() {
  try {
    return JSON.parse(localStorage.getItem(RECENT_KEY) ?? "[]").filter((p) => typeof p === "string");
  } catch {
    return [];
  }
}

// Browse folders; chosen(entry) for a file that is selected, opened(entry) for one that is double clicked.
class Browser {
  constructor(app, { chosen, opened, ending = "" }) {
    Object.assign(this, { app, chosen, opened, ending });
    this.crumbs = el("nav", { class: "crumbs", "aria-label": "Folder" });
    this.filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter files", on: { input: () => this.show(), keydown: (e) => this.filterKey(e) } });
    this.list = el("ul", { class: "files", role: "listbox", tabindex: "0", "aria-label": "Files", on: { keydown: (e) => this.key(e) } });
    this.note = el("p", { class: "dim" });
    this.places = el("ul", { class: "places" });
    this.root = el("div", { class: "browser" }, this.places, el("div", { class: "folder" }, el("div", { class: "row" }, this.crumbs, this.filter), this.list, this.note));
    this.selected = -1;
    this.entries = [];
  }

  async go(path) {
    let found;
    try {
      found = await this.app.link.command("files", path ? { path } : {});
    } catch (error) {
      if (path) {
        this.note.textContent = error.message;
        return this.folder ? undefined : this.go(null);
      }
      this.note.textContent = error.message;
      return;
    }
    this.folder = found;
    sessionStorage.setItem(PLACE_KEY, found.path);
    this.filter.value = "";
    this.note.textContent = found.more ? `${found.more} more entries are not listed: use a folder below, or type the name.` : "";
    this.crumbs.replaceChildren(...found.parts.flatMap((p, i) => [i ? el("span", { class: "dim", text: "/" }) : null, el("button", { type: "button", text: p.name, on: { click: () => this.go(p.path) } })]).filter(Boolean));
    const recent = recentFiles().filter(() => !this.ending);
    this.places.replaceChildren(
      ...found.roots.map((r) => el("li", {}, el("button", { type: "button", title: r.path, "aria-current": found.root === r.path ? "true" : null, on: { click: () => this.go(r.path) } }, icon("folder"), r.name))),
      ...(recent.length ? [el("li", { class: "dim", text: "Recent" })] : []),
      ...recent.map((p) => el("li", {}, el("button", { type: "button", title: p, on: { click: () => this.take({ path: p, name: p.split("/").pop() }) } }, icon("file"), p.split("/").pop()))),
    );
    this.show();
  }

  take(entry) {
    this.mark(-1);
    this.chosen(entry);
  }

  show() {
    const words = this.filter.value.toLowerCase();
    const up = this.folder.parent ? [{ name: "..", path: this.folder.parent, dir: true }] : [];
    const fits = (e) => e.dir || !this.ending || e.name.toLowerCase().endsWith(this.ending);
    this.entries = [...up, ...this.folder.entries.filter((e) => e.name.toLowerCase().includes(words) && fits(e))];
    this.list.replaceChildren(
      ...this.entries.map((e, i) =>
        el(
          "li",
          { role: "option", id: `file${i}`, class: e.dir ? "dir" : e.format ? "" : "other", on: { click: () => this.mark(i, true), dblclick: () => this.act(i) } },
          icon(e.name === ".." ? "up" : e.dir && !e.format ? "folder" : "file"),
          el("span", { class: "file-name", text: e.name }),
          el("span", { class: "dim", text: e.dir && !e.format ? "" : e.format ?? "" }),
          el("span", { class: "dim figure", text: e.dir ? "" : bytesText(e.bytes) }),
          el("span", { class: "dim figure", text: e.mtime ? timeText(e.mtime) : "" }),
        ),
      ),
    );
    this.mark(-1);
    if (!this.entries.length) this.note.textContent = words ? "No name here contains this." : "This folder is empty.";
  }

  mark(i, tell = false) {
    this.list.children[this.selected]?.removeAttribute("aria-selected");
    this.selected = i;
    const node = this.list.children[i];
    this.list.setAttribute("aria-activedescendant", node ? `file${i}` : "");
    if (!node) return;
    node.setAttribute("aria-selected", "true");
    node.scrollIntoView({ block: "nearest" });
    const entry = this.entries[i];
    if (tell && (!entry.dir || entry.format)) this.chosen(entry);
  }

  act(i) {
    const entry = this.entries[i];
    if (!entry) return;
    if (entry.dir && !entry.format) this.go(entry.path);
    else this.opened(entry);
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (step) this.mark(Math.max(0, Math.min(this.entries.length - 1, this.selected + step)), true);
    else if (event.key === "Enter") this.act(this.selected);
    else if (event.key === "Backspace" && this.folder.parent) this.go(this.folder.parent);
    else if (event.key.length === 1 && !event.ctrlKey && !event.metaKey) {
      this.filter.focus();
      return;
    } else return;
    event.preventDefault();
  }

  filterKey(event) {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    const first = this.entries.findIndex((e) => e.name !== "..");
    this.mark(first, true);
    if (event.key === "Enter" && this.entries.filter((e) => e.name !== "..").length === 1) this.act(first);
    else this.list.focus();
  }
}

// What a file is, and the form of its options.
export class ProbePanel {
  constructor(app) {
    this.app = app;
    this.root = el("div", { class: "probe", "aria-live": "polite" }, el("p", { class: "dim", text: "Choose a file to see what it holds." }));
    this.options = {};
    this.asked = 0;
  }

  async look(uri, kept = false) {
    const id = ++this.asked;
    if (!kept) this.options = {};
    this.uri = uri;
    this.good = false;
    if (!kept) this.root.replaceChildren(el("p", { class: "dim", text: "Looking …" }));
    let found;
    try {
      found = await this.app.link.command("probe", { uri, ...(Object.keys(this.options).length ? { options: this.options } : {}) });
    } catch (error) {
      if (id === this.asked) this.show({ error: error.message, fields: this.found?.fields ?? [] }, kept);
      return;
    }
    if (id !== this.asked) return;
    this.show(found, kept);
  }

  show(found, kept) {
    this.found = found;
    this.good = !found.error;
    const size = (n) => (n?.length ? n.join(" × ") : "1");
    const facts = found.error
      ? [el("p", { class: "failure", text: typeof found.error === "string" ? found.error : found.error.message ?? "" })]
      : [
          el("dl", { class: "facts" }, [
            ["Format", found.format], ["Scan", found.nav ? size(found.nav) : null], ["Frame", found.sig ? `${size(found.sig)} ${found.dtype ?? ""}` : null],
            ["Frames", found.frames], ["Size", found.bytes ? bytesText(found.bytes) : null], ["Channels", found.channels?.length > 1 ? found.channels.map((c) => c.name ?? c).join(", ") : null],
          ].filter(([, v]) => v !== null && v !== undefined && v !== "").flatMap(([k, v]) => [el("dt", { text: k }), el("dd", { text: String(v) })])),
          ...(found.notes ?? []).map((n) => el("p", { class: "dim", text: n })),
        ];
    if (kept && this.facts) {
      this.facts.replaceChildren(...facts);
      return this.changed?.();
    }
    this.facts = el("div", {}, facts);
    const fields = (found.fields ?? []).map((f) => {
      const made = makeField(f, (value, done) => this.entered(f, value, done), { pickFile: (title, ending) => this.app.pickFile(title, ending) });
      made.show(f.default ?? null, null);
      return made.root;
    });
    const options = fields.length ? el("details", { class: "options", open: Boolean(found.error) }, el("summary", { text: "Options" }), el("div", { class: "fields" }, fields)) : null;
    this.root.replaceChildren(...[this.facts, options].filter(Boolean));
    this.changed?.();
  }

  entered(field, value, done) {
    if (value === null || value === "") delete this.options[field.name];
    else this.options[field.name] = value;
    if (done) this.look(this.uri, true);
  }
}

export function openFileDialog(app) {
  const probe = new ProbePanel(app);
  let entry = null;
  const open = async () => {
    if (!entry) return;
    const path = entry.path;
    accept.disabled = true;
    const made = await app.do("open", { uri: path, options: probe.options }, (error) => {
      failure.textContent = error.message;
    });
    accept.disabled = false;
    if (made === undefined) return;
    rememberFile(path);
    node.close();
  };
  const failure = el("p", { class: "failure", role: "alert" });
  const accept = button("Open", open, { kind: "primary" });
  accept.disabled = true;
  probe.changed = () => (accept.disabled = false);
  const browser = new Browser(app, {
    chosen: (e) => {
      entry = e;
      failure.textContent = "";
      accept.disabled = false;
      probe.look(e.path);
    },
    opened: (e) => {
      if (entry?.path !== e.path) (entry = e), (probe.options = {});
      open();
    },
  });
  const node = dialog("Open a file", { class: "dialog files-dialog" }, el("div", { class: "columns" }, browser.root, probe.root), failure, el("div", { class: "actions" }, button("Cancel", () => node.close()), accept));
  browser.go(sessionStorage.getItem(PLACE_KEY)).then(() => browser.list.focus());
}

// Ask for one file; null where none was chosen.
export function pickFileDialog(app, title, ending = "") {
  return new Promise((resolve) => {
    let answer = null;
    const accept = button("Choose", () => node.close(), { kind: "primary" });
    accept.disabled = true;
    const chosen = (e) => {
      answer = e.path;
      accept.disabled = false;
    };
    const browser = new Browser(app, { chosen, opened: (e) => (chosen(e), node.close()), ending });
    const node = dialog(title, { class: "dialog files-dialog narrow" }, browser.root, el("div", { class: "actions" }, button("Cancel", () => ((answer = null), node.close())), accept));
    node.addEventListener("cancel", () => (answer = null));
    node.querySelector("header button").addEventListener("click", () => (answer = null), true);
    node.addEventListener("close", () => resolve(answer));
    browser.go(sessionStorage.getItem(PLACE_KEY)).then(() => browser.list.focus());
  });
}
