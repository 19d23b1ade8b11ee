// Runs before the first paint, so that a reader who chose the dark theme never sees a white flash.
(() => {
  "use strict";
  try {
    const theme = localStorage.getItem("trtbuild.theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is blocked: the system's theme it is.
  }
})();
