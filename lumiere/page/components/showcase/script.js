// The rotation of a showcase: a clip is made, shown for a while, then the next prompt follows. Keys: space or right for
// the next, left for the one before, p to hold, f for the whole screen.
const root = element.querySelector(".caption");
const text = root.querySelector(".prompt");
const bar = root.querySelector("i");
const keys = root.querySelector(".keys");
const RETRY = 5; // seconds after a refusal
let index = -1;
let held = false;
let busy = false;
let wanted = 0; // steps in the rotation that were asked for while a clip was being made
let timer = null;

const { send } = lumiere;

function next(by) {
  clearTimeout(timer);
  if (busy) {
    wanted = by;
    return send("stop");
  }
  busy = true;
  wanted = 0;
  index = (index + by + props.prompts.length) % props.prompts.length;
  send("next", props.prompts[index]);
}

function show(value) {
  if (!value) return;
  root.dataset.state = value.state;
  text.textContent = value.text;
  bar.style.transform = `scaleX(${value.steps ? value.step / value.steps : 0})`;
  if (value.state === "busy") return;
  busy = false;
  if (wanted) return next(wanted);
  clearTimeout(timer);
  timer = setTimeout(() => !held && next(1), 1000 * (value.state === "done" ? props.hold : RETRY));
}

function hold() {
  held = !held;
  root.toggleAttribute("data-held", held);
  if (!held && !busy) next(1);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const does = {
    " ": () => next(1),
    ArrowRight: () => next(1),
    ArrowLeft: () => next(-1),
    p: hold,
    f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});

keys.textContent = props.keys;
setTimeout(() => (keys.style.opacity = 0), 8000);
watch("value", () => show(props.value));
setTimeout(() => next(1), 500); // once the part that asks is there
