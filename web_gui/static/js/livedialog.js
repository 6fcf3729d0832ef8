// Connecting a detector by its address.

import { button, dialog, el } from "./dom.js";
import { makeField } from "./fields.js";
import { ProbePanel } from "./filedialog.js";

const ADDRESSES_KEY = "libstream-detectors";

// Options that every connection takes; what the detector says of itself comes first.
const CONNECTION_FIELDS = [
  { name: "scan", title: "Scan (rows, columns)", kind: "numbers", optional: true, default: null, help: "positions of the scan, such as 256, 256; empty: as the detector says" },
  { name: "scan_step", title: "Step of the scan", kind: "text", optional: true, default: null, help: 'such as "0.4 nm"' },
];

function knownAddresses() {
  try {
    return JSON.parse(localStorage.getItem(ADDRESSES_KEY) ?? "[]").filter((p) => typeof p === "string");
  } catch {
    return [];
  }
}

export async function openLiveDialog(app) {
  const known = knownAddresses();
  const address = el("input", { type: "text", value: app.store.state.live?.url ?? known[0] ?? "", placeholder: "dectris://192.168.1.10:9999", "aria-label": "Address of the detector", list: "addresses", spellcheck: "false", autocomplete: "off" });
  const probe = new ProbePanel(app);
  probe.root.replaceChildren(el("p", { class: "dim", text: "An address begins with the kind of detector. With its control port in the address (dectris://host:9999?api=80, merlin://host:6342?control=6341) it can be armed from here." }));
  const failure = el("p", { class: "failure", role: "alert" });
  const options = {};
  const fields = CONNECTION_FIELDS.map((f) => {
    const made = makeField(f, (value) => (value === null || value === "" ? delete options[f.name] : (options[f.name] = value)));
    made.show(null, null);
    return made.root;
  });
  const kinds = el("div", { class: "chips" });
  const look = () => address.value.includes("://") && probe.look(address.value.trim());
  const connect = async () => {
    const uri = address.value.trim();
    if (!uri) return;
    accept.disabled = true;
    failure.textContent = "";
    const made = await app.do("open", { uri, options: { ...probe.options, ...options } }, (error) => (failure.textContent = error.message));
    accept.disabled = false;
    if (made === undefined) return;
    localStorage.setItem(ADDRESSES_KEY, JSON.stringify([uri, ...known.filter((a) => a !== uri)].slice(0, 10)));
    node.close();
  };
  const accept = button("Connect", connect, { kind: "primary" });
  address.addEventListener("change", look);
  address.addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), connect()));
  const node = dialog(
    "Connect a detector",
    { class: "dialog live-dialog" },
    el("label", { class: "field" }, el("span", { text: "Address" }), address),
    el("datalist", { id: "addresses" }, known.map((a) => el("option", { value: a }))),
    kinds,
    el("div", { class: "fields" }, fields),
    probe.root,
    failure,
    el("div", { class: "actions" }, button("Cancel", () => node.close()), accept),
  );
  address.focus();
  if (address.value) look();
  try {
    const { detectors } = await app.link.command("formats");
    kinds.append(...detectors.map((d) => button(`${d.name}://`, () => {
      address.value = `${d.name}://${address.value.replace(/^[^:]*:\/\//, "")}`;
      address.focus();
      look();
    }, { kind: "chip" })));
  } catch {
    // the list is a help, no more
  }
}
