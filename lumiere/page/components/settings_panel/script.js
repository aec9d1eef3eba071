// Presets, the length of the clip with the time it will take, and the button that unfolds the settings. They are built
// all along and only hidden: what is typed into settings that are still being built would be lost.
const workbench = document.getElementById("workbench");
const more = element.querySelector(".more");
const presets = element.querySelector(".presets");
const estimate = element.querySelector(".estimate");
const PACE = `${props.store}-pace`; // seconds per step and frame, as last measured here
let pace = Number(lumiere.recall(PACE)) || 0;
let now = {};

presets.setAttribute("aria-label", props.presets_label);
more.querySelector("span").textContent = props.more;
more.addEventListener("click", () => {
  const open = workbench.toggleAttribute("data-settings");
  more.setAttribute("aria-expanded", open);
});

const buttons = props.presets.map(({ name, help, settings }) => {
  const button = lumiere.button(presets, name, () => lumiere.send("fill", { settings }), { title: help });
  return { button, settings };
});

function show() {
  for (const { button, settings } of buttons) {
    const on = Object.entries(settings).every(([name, value]) => now[name] === value);
    button.setAttribute("aria-pressed", on);
  }
  if (!now.frames || !now.fps) return;
  const run = now.mode === "video" && now.strength < 1 ? Math.max(1, Math.round(now.steps * now.strength)) : now.steps * (now.free_init || 1);
  const facts = [props.length.replace("@", (now.frames / now.fps).toFixed(1))];
  if (pace) facts.push(props.takes.replace("@", Math.max(1, Math.round(pace * run * now.frames))));
  estimate.textContent = facts.join(" · ");
}

lumiere.listen("now", (form) => {
  now = form;
  show();
});
lumiere.listen("status", (status) => {
  if (!status.pace) return;
  pace = status.pace;
  lumiere.remember(PACE, pace);
  show();
});
