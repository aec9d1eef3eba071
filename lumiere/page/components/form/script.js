// Everything that fills in settings goes through here: examples, presets, known words, the link, a dropped clip, an
// earlier clip. The settings are handed to gradio as this component's value; its event merges them into the form.
const STORE = props.store; // settings that this browser remembers: not the prompt, and nothing that was given
const REMEMBERED = ["frames", "fps", "steps", "guidance", "scheduler", "first_frame", "randomise", "height", "width"];
const state = (window.lumiere = { once: {}, now: {} }); // once: settings that apply to the next clip alone
let turns = 0;
let start = false;

function fill({ settings = {}, once = {}, run = false }) {
  state.once = once;
  start = run;
  props.value = { settings, turn: ++turns };
  trigger("submit");
}

state.merge = (fields, names, ...values) => {
  const merged = values.map((value, index) => (names[index] in fields.settings ? fields.settings[names[index]] : value));
  state.changed(names, ...merged);
  return merged;
};

state.begin = () => {
  if (start) document.getElementById("generate").click();
  start = false;
};

// At the press of Generate: what applies once takes the place of what the form says.
state.ask = (names, ...values) => {
  const asked = values.map((value, index) => (names[index] in state.once ? state.once[names[index]] : value));
  state.once = {};
  return asked;
};

state.changed = (names, ...values) => {
  state.now = Object.fromEntries(names.map((name, index) => [name, values[index]]));
  document.dispatchEvent(new CustomEvent("lumiere:now", { detail: state.now }));
  const kept = Object.fromEntries(REMEMBERED.map((name) => [name, state.now[name]]));
  try {
    localStorage.setItem(STORE, JSON.stringify(kept));
  } catch {
    // a browser that keeps nothing: the settings are the usual ones next time
  }
};

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE)) || {};
    return Object.fromEntries(REMEMBERED.filter((name) => kept[name] != null).map((name) => [name, kept[name]]));
  } catch {
    return {};
  }
}

document.addEventListener("lumiere:fill", ({ detail }) => fill(detail));

// The link comes first, and what it says is read by deep_link.
const linked = [...new URLSearchParams(location.search).keys()].some((name) => props.names.includes(name));
fill({ settings: linked ? {} : remembered() });
