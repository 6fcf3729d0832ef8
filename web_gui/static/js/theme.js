// Dark (rooms with microscopes are) until somebody chooses light.

const THEME_KEY = "libstream-theme";

export function followTheme() {
  document.documentElement.dataset.theme = localStorage.getItem(THEME_KEY) ?? "dark";
}

export function nextTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem(THEME_KEY, next);
  document.documentElement.dataset.theme = next;
  dispatchEvent(new Event("libstream-theme"));
}
