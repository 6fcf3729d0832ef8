// Pictures for elsewhere: the image at its own resolution with scale bar, to the clipboard or as a file.

import { isCalibrated, pixelAspect } from "./axes.js";
import { drawScaleBar } from "./imageview.js";
import { round125, short } from "./levels.js";

const PICTURE_LEAST = 768; // px of the longer side: small scans are drawn larger, so that the bar can be read

export function pictureCanvas(tile) {
  if (tile.plot) return tile.plot.picture();
  const { view } = tile;
  const [h, w] = view.full;
  const aspect = pixelAspect(view.axes) ?? 1;
  const k = Math.max(1, Math.ceil(PICTURE_LEAST / Math.max(h * aspect, w)));
  const canvas = document.createElement("canvas");
  canvas.width = w * k;
  canvas.height = Math.round(h * k * aspect);
  const g = canvas.getContext("2d");
  g.imageSmoothingEnabled = false;
  g.drawImage(view.buffer, 0, 0, canvas.width, canvas.height);
  const axis = view.axes[1];
  const unit = isCalibrated(axis) ? axis.unit : "px";
  const perUnit = k / Math.abs(unit === "px" ? 1 : axis.step);
  const length = round125((0.3 * canvas.width) / perUnit);
  const r = Math.max(1, canvas.width / 500);
  drawScaleBar(g, 14 * r, canvas.height - 18 * r, length * perUnit, `${short(length)} ${unit}`, r);
  return canvas;
}

function pictureBlob(tile) {
  return new Promise((resolve) => pictureCanvas(tile).toBlob(resolve, "image/png"));
}

export async function copyPicture(tile) {
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": pictureBlob(tile) })]);
    tile.app.say("The picture is on the clipboard.");
  } catch {
    tile.app.say("This browser does not let pages write images to the clipboard here; it is saved as a file instead.", "warning");
    savePicture(tile);
  }
}

export async function savePicture(tile) {
  download(`${fileStem(tile.app)}_${tile.pictureName()}.png`, await pictureBlob(tile));
}

// What names of files begin with: the name of the source.
export function fileStem(app) {
  return (app.store?.source?.name ?? "libstream").replace(/\.[^.]*$/, "").replace(/[^\w-]+/g, "_").slice(-60);
}

// Give a file to the browser.
export function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
