// Presets, the length of the clip with the time it will take, and the button that unfolds the settings. They are built
// all along and only hidden: what is typed into settings that are still being built would be lost.
const workbench = document.getElementById("workbench");
const more = element.querySelector(".more");
const presets = element.querySelector(".presets");
const estimate = element.querySelector(".estimate");
const PACE = `${props.store}-pace`; // seconds per step and frame, as last measured here
let pace = Number(read(PACE)) || 0;
let now = {};

function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

presets.setAttribute("aria-label", props.presets_label);
more.querySelector("span").textContent = props.more;
more.addEventListener("click", () => {
  const open = workbench.toggleAttribute("data-settings");
  more.setAttribute("aria-expanded", open);
});

const buttons = props.presets.map(({ name, help, settings }) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.title = help;
  button.addEventListener("click", () => document.dispatchEvent(new CustomEvent("lumiere:fill", { detail: { settings } })));
  presets.append(button);
  return { button, settings };
});

function show() {
  for (const { button, settings } of buttons) {
    const on = Object.entries(settings).every(([name, value]) => now[name] === value);
    button.setAttribute("aria-pressed", on);
  }
  if (!now.frames || !now.fps) return;
  const run = now.mode === "video" ? Math.max(1, Math.round(now.steps * now.strength)) : now.steps;
  const words = [props.length.replace("@", (now.frames / now.fps).toFixed(1))];
  if (pace) words.push(props.takes.replace("@", Math.max(1, Math.round(pace * run * now.frames))));
  estimate.textContent = words.join(" · ");
}

document.addEventListener("lumiere:now", ({ detail }) => {
  now = detail;
  show();
});
document.addEventListener("lumiere:status", ({ detail }) => {
  if (!detail.pace) return;
  pace = detail.pace;
  try {
    localStorage.setItem(PACE, pace);
  } catch {
    // the estimate is forgotten with the page
  }
  show();
});
