// Pictures, a clip and a drawn region. Pictures are made smaller here before they are sent; the region travels as a
// small black and white PNG with the proportions of the picture below it. The server trusts none of it.
const LARGEST = 1024; // pixels along the longer side of a picture that is sent
const MASK = 256; // and of a drawn region
const slots = element.querySelector(".slots");
const easel = element.querySelector(".easel");
const under = easel.querySelector("img");
const canvas = easel.querySelector("canvas");
const paint = canvas.getContext("2d");
const value = { image: null, last_image: null, clip: null, region: null };
const views = {};
let brush = 0.16; // of the longer side
let drawn = false;
let last = null;
let awaited = 0; // pictures on their way to the easel

const { make } = lumiere;
const say = (text) => lumiere.send("say", text);

function tell() {
  value.region = drawn ? canvas.toDataURL("image/png") : null;
  props.value = { ...value };
}

function slot(name) {
  const input = make("input", { type: "file", accept: name === "clip" ? "video/*,image/gif" : "image/*" });
  input.setAttribute("aria-label", props.labels[name]);
  const label = make("label", {}, make("b", { textContent: props.labels[name] }), make("span", { textContent: props.drop }), input);
  const clear = make("button", { type: "button", textContent: "×", className: "clear" });
  clear.setAttribute("aria-label", `${props.remove}: ${props.labels[name]}`);
  const box = make("div", { className: `slot ${name}` }, label, clear);
  const state = (views[name] = { box, input, label, view: null });
  input.addEventListener("change", () => input.files[0] && take(name, input.files[0]));
  clear.addEventListener("click", () => put(name, null));
  box.addEventListener("dragover", () => (box.dataset.over = ""));
  box.addEventListener("dragleave", () => delete box.dataset.over);
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    delete box.dataset.over;
    if (event.dataTransfer.files[0]) take(name, event.dataTransfer.files[0]);
  });
  slots.append(box);
  return state;
}

async function smaller(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
    const sheet = make("canvas", { width: Math.max(1, bitmap.width * scale), height: Math.max(1, bitmap.height * scale) });
    sheet.getContext("2d").drawImage(bitmap, 0, 0, sheet.width, sheet.height);
    const blob = await new Promise((done) => sheet.toBlob(done, "image/png"));
    return new File([blob], "picture.png", { type: "image/png" });
  } catch {
    return file; // what this browser cannot read the server may, or refuses in words
  }
}

async function take(name, file) {
  const { box } = views[name];
  const drawnOn = Number(name !== "last_image");
  box.dataset.busy = "";
  expect(drawnOn);
  try {
    if (name !== "clip") file = await smaller(file);
    if (file.size > props.most_bytes) return say(props.too_large);
    const { path, url } = await upload(file);
    await put(name, lumiere.file(path, url, file.name));
  } catch {
    say(props.lost);
  } finally {
    expect(-drawnOn);
    delete box.dataset.busy;
    views[name].input.value = "";
  }
}

async function put(name, file) {
  const state = views[name];
  value[name] = file;
  state.view?.remove();
  state.view = null;
  state.box.toggleAttribute("data-full", Boolean(file));
  if (file) {
    const moving = name === "clip";
    state.view = make(moving ? "video" : "img", moving ? { muted: true, loop: true, playsInline: true, autoplay: true } : { alt: props.labels[name] });
    state.view.src = file.url;
    if (moving) state.view.setAttribute("aria-label", props.labels.clip);
    state.box.prepend(state.view);
  }
  if (name !== "last_image") easelFrom(name, file);
  tell();
}

// The region is drawn on the picture, or on the first frame of the clip.
async function easelFrom(name, file) {
  expect(1);
  const size = file ? await (name === "image" ? picture(file.url) : firstFrame(file.url)).catch(() => [0, 0]) : [0, 0];
  if (value[name] === file) lay(...size);
  expect(-1);
}

async function picture(url) {
  under.src = url;
  await under.decode();
  return [under.naturalWidth, under.naturalHeight];
}

async function firstFrame(url) {
  const film = make("video", { muted: true, playsInline: true, preload: "auto", src: url });
  await new Promise((done, failed) => {
    film.addEventListener("loadeddata", done);
    film.addEventListener("error", failed);
    film.load();
  });
  const sheet = make("canvas", { width: film.videoWidth, height: film.videoHeight });
  sheet.getContext("2d").drawImage(film, 0, 0);
  return picture(sheet.toDataURL("image/png"));
}

// Nothing is drawn while another picture is on its way: it would be wiped with the picture under it.
function expect(more) {
  awaited += more;
  easel.toggleAttribute("data-busy", awaited > 0);
}

const ready = () => easel.hasAttribute("data-ready") && !awaited;

function lay(width, height) {
  const scale = MASK / Math.max(width, height, 1);
  easel.toggleAttribute("data-ready", width > 0);
  easel.style.setProperty("--ratio", width / Math.max(height, 1) || 1);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  clean();
}

function clean() {
  paint.fillStyle = "black";
  paint.fillRect(0, 0, canvas.width, canvas.height);
  drawn = false;
  easel.removeAttribute("data-drawn");
  tell();
}

function block(x, y, width, height) {
  if (!ready()) return;
  paint.fillStyle = "white";
  paint.fillRect(x * canvas.width, y * canvas.height, width * canvas.width, height * canvas.height);
  finish();
}

function finish() {
  drawn = true;
  easel.setAttribute("data-drawn", "");
  tell();
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
}

function stroke(to) {
  paint.strokeStyle = "white";
  paint.lineCap = paint.lineJoin = "round";
  paint.lineWidth = brush * Math.max(canvas.width, canvas.height);
  paint.beginPath();
  paint.moveTo(...(last || to));
  paint.lineTo(...to);
  paint.stroke();
  last = to;
}

canvas.addEventListener("pointerdown", (event) => {
  if (!ready()) return;
  canvas.setPointerCapture(event.pointerId);
  last = null;
  stroke(place(event));
});
canvas.addEventListener("pointermove", (event) => last && stroke(place(event)));
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => {
  if (!last) return;
  last = null;
  finish();
});

// For hands that do not draw: parts of the picture at a press.
const tools = element.querySelector(".tools");
const size = make("input", { type: "range", min: 0.04, max: 0.4, step: 0.02, value: brush });
size.addEventListener("input", () => (brush = Number(size.value)));
tools.append(make("label", {}, make("span", { textContent: props.brush }), size));
const areas = { middle: [0.25, 0.25, 0.5, 0.5], upper: [0, 0, 1, 0.5], lower: [0, 0.5, 1, 0.5] };
for (const [name, area] of Object.entries(areas)) {
  const button = make("button", { type: "button", textContent: props.areas[name] });
  button.addEventListener("click", () => block(...area));
  tools.append(button);
}
const clear = make("button", { type: "button", textContent: props.clear });
clear.addEventListener("click", clean);
tools.append(clear);
easel.querySelector(".hint").textContent = props.hint;
canvas.setAttribute("role", "img");
canvas.setAttribute("aria-label", props.labels.region);

["image", "last_image", "clip"].forEach(slot);
lay(0, 0);

lumiere.listen("give", (files) => Object.entries(files).forEach(([name, file]) => put(name, file)));
lumiere.listen("picture", (file) => take("image", file));
