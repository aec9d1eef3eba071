// The moving preview. Each value brings one sprite sheet: all frames of the predicted clip in one JPEG. The frame to
// show follows from the clock, so a new sheet neither restarts nor pauses the film, and a sheet is used only once it is
// decoded, so nothing blanks. Values without a sheet change nothing: the last film keeps playing under the video.
const FADE = 220; // ms from one sheet to the next: sharpening, not flicker
const root = element.querySelector(".theatre");
const stage = element.closest("#stage");
const canvas = element.querySelector("canvas");
const paint = canvas.getContext("2d");
const still = matchMedia("(prefers-reduced-motion: reduce)");
let asked = 0; // the newest sheet that arrived
let shown = 0; // the newest sheet that was decoded
let sheet = null;
let before = null;
let since = 0;

canvas.setAttribute("aria-label", props.label);

async function take(value) {
  if (!value) return;
  if (value.aspect) root.style.aspectRatio = value.aspect;
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

function play(now) {
  if (!element.isConnected) return;
  if (sheet) draw(now);
  requestAnimationFrame(play);
}

// The finished clip lies over the canvas and is uncovered once it has a picture, so that its player's empty box never
// shows. Phones start a film by themselves only if it is muted and inline.
new MutationObserver(() => {
  const film = stage.querySelector("#clip video");
  if (film) film.muted = film.playsInline = true;
  if (!film || film.readyState < 2) delete stage.dataset.film;
}).observe(stage, { childList: true, subtree: true });
stage.addEventListener("loadeddata", () => (stage.dataset.film = "drawn"), true);

// Whoever asked for less motion gets the finished clip paused, to be played by hand.
stage.addEventListener(
  "play",
  ({ target: film }) => {
    if (!still.matches || film.dataset.calmed === film.currentSrc) return;
    film.dataset.calmed = film.currentSrc;
    film.pause();
  },
  true
);

watch("value", () => take(props.value));
take(props.value);
requestAnimationFrame(play);
