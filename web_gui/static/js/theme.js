// Dark and light; the system's choice until somebody chooses.

const THEME_KEY = "libstream-theme";

export function followTheme() {
  const dark = matchMedia("(prefers-color-scheme: light)");
  const show = () => (document.documentElement.dataset.theme = localStorage.getItem(THEME_KEY) ?? (dark.matches ? "light" : "dark"));
  dark.addEventListener("change", show);
  show();
}

export function nextTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem(THEME_KEY, next);
  document.documentElement.dataset.theme = next;
  dispatchEvent(new Event("libstream-theme"));
}
