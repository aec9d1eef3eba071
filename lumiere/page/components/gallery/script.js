// The clips of this session, kept by this page alone. Two of them side by side run by one clock, so that frames compare.
const MOST = 24;
const root = element.querySelector(".gallery");
const list = root.querySelector("ol");
const compare = root.querySelector(".compare");
const dialog = root.querySelector("dialog");
const pair = dialog.querySelector(".pair");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const strings = props.strings;
const clips = new Map(); // card: value
const chosen = new Set();
let films = []; // {canvas, value, image}

const { make, send } = lumiere;

root.querySelector("h2").textContent = strings.title;
compare.textContent = strings.compare;
compare.title = strings.compare_help;
dialog.querySelector(".close").textContent = strings.close;
dialog.setAttribute("aria-label", strings.compare);

function film(value) {
  const canvas = make("canvas", { width: value.width, height: value.height });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", value.settings.prompt);
  const image = new Image();
  image.src = value.sheet;
  films.push({ canvas, value, image });
  return canvas;
}

function roll(now) {
  if (!element.isConnected) return;
  films = films.filter(({ canvas }) => canvas.isConnected);
  for (const { canvas, value, image } of films) {
    if (!image.complete) continue;
    const index = still.matches ? value.count >> 1 : Math.floor(((now / 1000) * value.fps * value.count) / value.frames) % value.count;
    const x = (index % value.columns) * value.width;
    const y = Math.floor(index / value.columns) * value.height;
    canvas.getContext("2d").drawImage(image, x, y, value.width, value.height, 0, 0, value.width, value.height);
  }
  requestAnimationFrame(roll);
}

function restore(value) {
  send("fill", { settings: { ...value.settings, randomise: false } });
  send("restored", value);
  document.getElementById("workbench").scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
}

function add(value) {
  const pick = make("input", { type: "checkbox" });
  pick.setAttribute("aria-label", `${strings.pick}: ${value.settings.prompt}`);
  const again = make("button", { type: "button", textContent: strings.restore, title: strings.restore_help });
  const facts = make("small", { textContent: value.facts });
  const text = make("p", { textContent: value.settings.prompt });
  const card = make("li", {}, make("label", {}, film(value), pick), text, facts, again);
  again.addEventListener("click", () => restore(value));
  pick.addEventListener("change", () => {
    if (pick.checked) chosen.add(card);
    else chosen.delete(card);
    for (const other of chosen) {
      if (chosen.size <= 2) break;
      chosen.delete(other);
      other.querySelector("input").checked = false;
    }
    compare.disabled = chosen.size !== 2;
  });
  clips.set(card, value);
  list.prepend(card);
  while (list.children.length > MOST) {
    chosen.delete(list.lastElementChild);
    clips.delete(list.lastElementChild);
    list.lastElementChild.remove();
  }
  root.hidden = false;
  compare.hidden = list.children.length < 2;
}

// A setting in words: camera moves are an object.
function worded(value) {
  const pairs = value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : null;
  return pairs ? pairs.map((pair) => pair.join(" ")).join(", ") : String(value);
}

function differences(one, other) {
  return Object.keys(one.settings).filter((name) => worded(one.settings[name]) !== worded(other.settings[name]));
}

function side(value, names) {
  const table = make("dl");
  for (const name of names) table.append(make("dt", { textContent: strings.names[name] || name }), make("dd", { textContent: worded(value.settings[name]) }));
  return make("div", {}, film(value), table);
}

compare.disabled = true;
compare.addEventListener("click", () => {
  const [one, other] = [...list.children].filter((card) => chosen.has(card)).reverse().map((card) => clips.get(card));
  const names = differences(one, other);
  pair.replaceChildren(side(one, names), side(other, names));
  dialog.showModal();
});

lumiere.listen("made", add);
requestAnimationFrame(roll);
