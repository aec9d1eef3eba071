// Everything that fills in settings goes through here: examples, presets, the vocabulary, the link, a dropped clip, an
// earlier clip. The settings are handed to gradio as this component's value; its event merges them into the form.
const STORE = props.store; // settings that this browser remembers: not the prompt, and nothing that was given
const REMEMBERED = ["frames", "fps", "steps", "guidance", "scheduler", "first_frame", "loop", "randomise", "height", "width", "free_init", "free_noise", "motion_scale"];
Object.assign(lumiere, { once: {}, now: {}, merge, begin, ask, changed }); // once: settings for the next clip alone
let turns = 0;
let start = false;

function fill({ settings = {}, once = {}, run = false }) {
  lumiere.once = once;
  start = run;
  props.value = { settings, turn: ++turns };
  trigger("submit");
}

function merge({ settings }, names, ...values) {
  const merged = values.map((value, index) => (names[index] in settings ? settings[names[index]] : value));
  changed(names, ...merged);
  return merged;
}

function begin() {
  if (start) document.getElementById("generate").click();
  start = false;
}

// At the press of Generate: what applies once takes the place of what the form says.
function ask(names, ...values) {
  const asked = values.map((value, index) => (names[index] in lumiere.once ? lumiere.once[names[index]] : value));
  lumiere.once = {};
  return asked;
}

function changed(names, ...values) {
  lumiere.now = Object.fromEntries(names.map((name, index) => [name, values[index]]));
  lumiere.send("now", lumiere.now);
  lumiere.remember(STORE, Object.fromEntries(REMEMBERED.map((name) => [name, lumiere.now[name]])));
}

function remembered() {
  const kept = lumiere.recall(STORE) || {};
  return Object.fromEntries(REMEMBERED.filter((name) => kept[name] != null).map((name) => [name, kept[name]]));
}

lumiere.listen("fill", fill);

// The link comes first; the deep link component has the server read it.
fill({ settings: lumiere.linked(props.names) ? {} : remembered() });
