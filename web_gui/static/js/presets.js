// Analyses that people look for by their names, with radii that suit the pattern.

// [title, what it shows, UDF, parameters made from {radius of the bright disk, half of the frame}]
const PRESETS = [
  ["Annular dark field", "ring outside of the bright disk", "VirtualDetector", ({ centre, radius, half }) => ({ shape: "annulus", centre, inner: Math.round(radius * 1.3), outer: Math.round(Math.max(half * 0.95, radius * 1.6)) })],
  ["Bright field", "the bright disk", "VirtualDetector", ({ centre, radius }) => ({ shape: "disk", centre, outer: Math.round(radius * 1.1) })],
  ["Centre of mass", "deflection: electric and magnetic fields", "CenterOfMass", ({ centre, radius }) => ({ centre, radius: Math.round(radius * 1.6) })],
  ["Sum of all frames", "the mean pattern", "Sum", () => ({})],
];

// The presets that this server has UDFs for: [{title, help, add()}].
export function presetsFor(app) {
  const source = app.store.source;
  if (source?.sig?.length !== 2 || !source.nav.length) return [];
  return PRESETS.filter(([, , udf]) => app.udf(udf)).map(([title, help, udf, params]) => ({ title, help, udf, add: () => addPreset(app, title, udf, params) }));
}

async function addPreset(app, title, udf, params) {
  const source = app.store.source;
  const half = Math.min(...source.sig) / 2;
  const known = new Set(app.udf(udf).fields.map((f) => f.name));
  let seen = { centre: source.centre_known ? null : undefined, radius: half / 4, half };
  // a detector that has sent nothing yet would be waited for
  if (known.has("centre") && (source.kind !== "live" || app.link.array("frame/mean")?.values)) {
    const found = await app.do("auto_centre", {}, () => {});
    if (found?.good) seen = { half, centre: source.centre_known ? null : found.centre, radius: found.radius };
  }
  const given = Object.fromEntries(Object.entries(params(seen)).filter(([name, value]) => known.has(name) && value !== undefined && value !== null));
  const made = await app.do("add", { udf, params: given, title });
  if (made) app.select(made.id);
}
