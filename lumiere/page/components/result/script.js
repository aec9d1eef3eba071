// What can be done with a finished clip, and what researchers look at: its frames side by side, and one row of pixels
// through time (x to the right, t downwards), in which steady motion is a straight line and flicker a torn one.
const CELLS = 8;
const root = element.querySelector(".result");
const [acts, uses, saves] = [".acts", ".uses", ".saves"].map((name) => root.querySelector(name));
const cells = root.querySelector(".cells");
const slice = root.querySelector(".slice canvas");
const row = root.querySelector(".slice input");
const said = root.querySelector(".said");
let result = null;
let image = null;

const { make, send } = lumiere;
const strings = props.strings;
const button = (parent, text, help, press) => lumiere.button(parent, text, press, { title: help });
const file = () => lumiere.file(result.path, result.clip, result.name);
const again = (changes, once) => send("fill", { settings: { ...result.settings, ...changes }, once, run: true });
const theSame = () => ({ seed: result.settings.seed, randomise: false });

function toMode(mode, run) {
  send("fill", { settings: { mode }, run });
  document.getElementById("prompt").scrollIntoView({ block: "center", behavior: "smooth" });
}

function frameNow() {
  const video = document.querySelector("#stage video");
  const sheet = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  sheet.getContext("2d").drawImage(video, 0, 0);
  return new Promise((done) => sheet.toBlob((blob) => done(new File([blob], "frame.png", { type: "image/png" })), "image/png"));
}

async function useFrame(mode) {
  send("picture", await frameNow());
  toMode(mode);
}

function useClip(mode, run = false) {
  send("give", { clip: file() });
  toMode(mode, run);
}

button(acts, strings.another, strings.another_help, () => again({}, { randomise: true }));
const longer = button(acts, strings.longer, strings.longer_help, () => again({ frames: Math.min(result.longest, 2 * result.settings.frames) }, theSame()));
button(acts, strings.continue, strings.continue_help, () => useClip("continue", true));
const loop = button(acts, strings.loop, strings.loop_help, () => {
  const on = loop.getAttribute("aria-pressed") !== "true";
  loop.setAttribute("aria-pressed", on);
  send("loop", on);
});
loop.setAttribute("aria-pressed", "true");
uses.setAttribute("aria-label", strings.uses);
uses.querySelector(".name").textContent = strings.uses;
for (const mode of ["image", "cinemagraph"]) button(uses, props.modes[mode], strings.frame_help, () => useFrame(mode));
for (const mode of ["inpaint", "video"]) button(uses, props.modes[mode], strings.clip_help, () => useClip(mode));

saves.setAttribute("aria-label", strings.saves);
saves.querySelector(".name").textContent = strings.saves;
const mp4 = make("a", { textContent: "MP4", id: "download", className: "button" });
saves.append(mp4);
for (const [kind, name] of [["webp", "WebP"], ["gif", "GIF"], ["zip", strings.frames]]) button(saves, name, strings[`${kind}_help`], () => {
  tell(strings.exporting);
  send("export", { path: result.path, kind });
});
button(saves, strings.link, strings.link_help, async () => {
  const address = new URL(result.query, location.href).href;
  try {
    await navigator.clipboard.writeText(address);
    tell(strings.copied);
  } catch {
    tell(address); // where pages may not write to the clipboard it can be copied by hand
  }
});

function tell(text) {
  said.textContent = text;
}

function cut(paint, index, width, height) {
  const { columns } = result;
  const x = (index % columns) * result.width;
  const y = Math.floor(index / columns) * result.height;
  paint.drawImage(image, x, y, result.width, result.height, 0, 0, width, height);
}

function strip() {
  const count = Math.min(CELLS, result.count);
  cells.replaceChildren(...Array.from({ length: count }, (_, cell) => {
    const index = Math.floor((cell * result.count) / count);
    const at = Math.round((index * result.frames) / result.count);
    const picture = make("canvas", { width: result.width, height: result.height });
    const made = make("button", { type: "button" }, picture);
    made.setAttribute("aria-label", strings.frame.replace("@", at + 1));
    cut(picture.getContext("2d"), index, picture.width, picture.height);
    made.addEventListener("click", () => send("seek", at));
    return made;
  }));
}

function through() {
  slice.width = result.width;
  slice.height = result.count;
  const paint = slice.getContext("2d");
  const y = Math.min(result.height - 1, Math.floor(row.value * result.height));
  for (let index = 0; index < result.count; index++) {
    const left = (index % result.columns) * result.width;
    const top = Math.floor(index / result.columns) * result.height;
    paint.drawImage(image, left, top + y, result.width, 1, 0, index, result.width, 1);
  }
}

row.addEventListener("input", () => {
  through();
  send("row", Number(row.value));
});
row.addEventListener("focus", () => send("row", Number(row.value)));
row.addEventListener("blur", () => send("row", null));
root.querySelector(".strip figcaption").textContent = strings.strip;
root.querySelector(".slice figcaption").textContent = strings.slice;
root.querySelector(".slice label span").textContent = strings.row;
slice.setAttribute("aria-label", strings.slice_label);

async function show(value) {
  if (!value) return;
  result = value;
  image = new Image();
  image.src = value.sheet;
  await image.decode().catch(() => {});
  mp4.href = value.clip;
  mp4.download = value.name;
  longer.disabled = value.settings.frames >= value.longest;
  tell("");
  strip();
  through();
  root.hidden = false;
}

lumiere.listen("exported", tell);
lumiere.listen("restored", show);
watch("value", async () => {
  await show(props.value);
  if (props.value) send("made", props.value);
});
