// The moving preview and the finished clip. Each preview is one sprite sheet: all frames of the predicted clip in one
// JPEG. The frame to show follows from the clock, so a new sheet neither restarts nor pauses the film, and a sheet is
// used only once it is decoded, so nothing blanks. Values without a sheet change nothing: the last film keeps playing
// under the video, which covers it once it has a picture.
const FADE = 220; // ms from one sheet to the next: sharpening, not flicker
const root = element.querySelector(".player");
const stage = element.closest("#stage");
const canvas = element.querySelector("canvas");
const video = element.querySelector("video");
const ruler = element.querySelector(".ruler");
const paint = canvas.getContext("2d");
const still = matchMedia("(prefers-reduced-motion: reduce)");
let asked = 0; // the newest sheet that arrived
let shown = 0; // the newest sheet that was decoded
let covered = 0; // the newest sheet that arrived before the clip
let sheet = null;
let before = null;
let since = 0;
let fps = 16;

canvas.setAttribute("aria-label", props.label);
video.setAttribute("aria-label", props.clip_label);

async function take(value) {
  if (!value) return;
  if (value.aspect) root.style.aspectRatio = value.aspect;
  if (value.clip) play(value);
  if (!value.sheet) return;
  const turn = ++asked;
  const image = new Image();
  image.src = value.sheet;
  try {
    await image.decode();
  } catch {
    return; // a broken sheet is skipped; the next one follows
  }
  if (turn < shown) return;
  shown = turn;
  before = sheet;
  sheet = { ...value, image };
  since = performance.now();
  if (canvas.width !== sheet.width || canvas.height !== sheet.height) {
    canvas.width = sheet.width; // clears the canvas, so it is painted in the same task
    canvas.height = sheet.height;
  }
  draw(since);
  root.dataset.state = "playing";
  root.dataset.sheets = shown;
  // The previous clip stays until there is something in its place. A sheet may be decoded after the clip that follows
  // it has arrived: that clip must neither be hidden nor paused.
  if (value.working && turn > covered) uncover();
}

// The controls come with the pointer or the focus, and stay for whoever has to play the clip by hand.
function offer(wanted) {
  video.controls = wanted || still.matches;
}

function uncover() {
  delete stage.dataset.film;
  video.pause();
}

function play(value) {
  fps = value.fps;
  covered = asked;
  video.src = value.clip;
  // Whoever asked for less motion gets the clip paused, to be played by hand.
  if (still.matches) video.load();
  else video.play().catch(() => {}); // some browsers play nothing by themselves; the controls are there
}

function frame(from, now) {
  const index = still.matches ? from.count >> 1 : Math.floor((now / 1000) * from.fps) % from.count;
  const x = (index % from.columns) * from.width;
  const y = Math.floor(index / from.columns) * from.height;
  paint.drawImage(from.image, x, y, from.width, from.height, 0, 0, canvas.width, canvas.height);
}

function draw(now) {
  const part = still.matches ? 1 : Math.min(1, (now - since) / FADE);
  if (before && part < 1) frame(before, now);
  paint.globalAlpha = before ? Math.max(0, part) : 1;
  frame(sheet, now);
  paint.globalAlpha = 1;
  if (part >= 1) before = null;
}

function roll(now) {
  if (!element.isConnected) return;
  if (sheet) draw(now);
  requestAnimationFrame(roll);
}

offer(false);
for (const name of ["pointerenter", "focus", "touchstart"]) video.addEventListener(name, () => offer(true));
for (const name of ["pointerleave", "blur"]) video.addEventListener(name, () => offer(false));
video.addEventListener("loadeddata", () => (stage.dataset.film = "drawn"));
lumiere.listen("restored", take);
lumiere.listen("loop", (on) => {
  video.loop = on;
  if (on && video.ended) video.play();
});
lumiere.listen("seek", (frame) => {
  video.pause();
  video.currentTime = (frame + 0.5) / fps; // the middle of a frame: its beginning may show the one before
});
lumiere.listen("row", (at) => {
  ruler.hidden = at === null;
  ruler.style.top = `${100 * at}%`;
});

watch("value", () => take(props.value));
take(props.value);
requestAnimationFrame(roll);
