// Camera moves: a pad of buttons, several of which may be on, and a slider for the strength of each that is on. The
// value is {move: strength}. Arrow keys go from button to button, so that the pad is one stop of the Tab key.
const [WIDTH, STEP, USUAL, MOST] = [3, 0.05, 1, 2];
const STILL = ""; // the button in the middle, which takes all moves back
const PAD = ["rolling-anticlockwise", "tilt-up", "rolling-clockwise", "pan-left", STILL, "pan-right", "zoom-out", "tilt-down", "zoom-in"];
const SIGNS = ["↺", "↑", "↻", "←", "•", "→", "−", "↓", "+"];
const STEPS = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -WIDTH, ArrowDown: WIDTH };
const { make } = lumiere;
const [root, pad, rows] = [".camera", ".pad", ".rows"].map((name) => element.querySelector(name));
const order = [...PAD, ...props.moves.filter((move) => !PAD.includes(move))];
let mix = { ...props.value };

root.setAttribute("aria-label", props.title);
root.title = props.help;
root.querySelector(".heading").textContent = props.title;

const name = (move) => props.labels[move] || move;
const buttons = order.map((move, index) => {
  if (move !== STILL && !props.moves.includes(move)) return null;
  const button = make("button", { type: "button", className: "pill", tabIndex: move === STILL ? 0 : -1 });
  const sign = make("i", { textContent: SIGNS[index] || "" });
  sign.setAttribute("aria-hidden", "true");
  button.append(sign, make("span", { textContent: name(move) }));
  button.style.gridArea = `${1 + Math.floor(index / WIDTH)} / ${1 + (index % WIDTH)}`;
  button.addEventListener("click", () => press(move));
  button.addEventListener("focus", () => buttons.forEach((each) => each && (each.tabIndex = each === button ? 0 : -1)));
  button.addEventListener("keydown", (event) => go(event, index));
  pad.append(button);
  return button;
});

function go(event, from) {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  for (let to = from + step; to >= 0 && to < buttons.length; to += step) {
    if (Math.abs(step) === 1 && Math.floor(to / WIDTH) !== Math.floor(from / WIDTH)) return;
    if (buttons[to]) return buttons[to].focus();
  }
}

function press(move) {
  if (move === STILL) mix = {};
  else if (move in mix) delete mix[move];
  else mix[move] = USUAL;
  props.value = { ...mix };
  show();
}

function slider(move) {
  const [text, shown] = [make("span", { textContent: name(move) }), make("output")];
  const range = make("input", { type: "range", min: Math.min(0, mix[move]), max: Math.max(MOST, mix[move]), step: STEP });
  const tell = () => (shown.textContent = mix[move].toFixed(2));
  range.value = mix[move];
  range.addEventListener("input", () => {
    mix[move] = Number(range.value);
    props.value = { ...mix };
    tell();
  });
  tell();
  return make("label", {}, text, range, shown);
}

function show() {
  buttons.forEach((button, index) => {
    const on = order[index] === STILL ? !Object.keys(mix).length : order[index] in mix;
    if (button) button.setAttribute("aria-pressed", on);
  });
  rows.replaceChildren(...order.filter((move) => move in mix).map(slider));
}

lumiere.listen("fill", ({ settings }) => {
  if (!settings?.cameras) return;
  mix = Object.fromEntries(Object.entries(settings.cameras).filter(([move]) => props.moves.includes(move)));
  props.value = { ...mix };
  show();
});
show();
