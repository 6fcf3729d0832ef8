// What this user arranged: maps and scales of views, which outputs are shown. Kept with the source by the server.

const WAIT = 1500; // ms after the last change
const FIRST_LOOK = { CenterOfMass: "field", RadialProfile: "mean_profile", FEM: "normalised_variance", StdDev: "std", Variance: "variance" };

export class Layout extends EventTarget {
  constructor(app) {
    super();
    this.app = app;
    this.value = {};
    this.source = undefined;
  }

  // Take what the server has, when another source or setup came.
  update() {
    const { state } = this.app.store;
    const text = JSON.stringify(state.layout ?? {});
    if (text === this.known) return;
    const own = text === this.sent;
    this.known = text;
    if (own || this.timer) return;
    this.value = structuredClone(state.layout ?? {});
    this.dispatchEvent(new CustomEvent("replaced"));
  }

  get(key, fallback) {
    return this.value[key] ?? fallback;
  }

  put(key, value) {
    this.value[key] = value;
    this.save();
  }

  tile(key) {
    return this.value.tiles?.[key] ?? {};
  }

  keep(key, settings) {
    this.value.tiles ??= {};
    this.value.tiles[key] = { ...this.value.tiles[key], ...settings };
    this.save();
  }

  // An analysis was removed: one that gets its name begins anew.
  forget(id) {
    for (const part of ["tiles", "shown"]) for (const key of Object.keys(this.value[part] ?? {})) if (key.startsWith(`${id}/`)) delete this.value[part][key];
    this.save();
  }

  save() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.sent = JSON.stringify(this.value);
      if (this.app.store.mayChange && this.app.link.open && this.app.store.source) this.app.link.command("layout", { layout: this.value }).catch(() => {});
    }, WAIT);
  }

  // -- which outputs are shown -----------------------------------------------------

  isOutputShown(analysis, name) {
    const chosen = this.value.shown?.[`${analysis.id}/${name}`];
    if (chosen !== undefined) return chosen;
    const shown = analysis.outputs.filter((o) => o.display !== "none");
    const best = shown.find((o) => o.name === FIRST_LOOK[analysis.udf]) ?? shown[0];
    return best?.name === name;
  }

  showOutput(id, name, on) {
    this.value.shown = { ...this.value.shown, [`${id}/${name}`]: on };
    this.save();
    this.app.refresh();
  }
}
