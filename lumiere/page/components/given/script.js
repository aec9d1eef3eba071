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
const awaited = new Set(); // of image and clip, those on their way to the easel

const { make } = lumiere;
const say = (text) => lumiere.send("say", text);

function tell() {
  value.region = drawn ? canvas.toDataURL("image/png") : null;
  props.value = { ...value };
}

function slot(name) {
  const input = make("input", { type: "file", accept: name === "clip" ? "video/*,image/gif,image/webp" : "image/*" });
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
  box.dataset.busy = "";
  expect(name, true);
  try {
    if (name !== "clip") file = await smaller(file);
    if (file.size > props.most_bytes) return refuse(name, props.too_large);
    const { path, url } = await upload(file);
    put(name, lumiere.file(path, url, file.name));
  } catch {
    refuse(name, props.lost);
  } finally {
    views[name].input.value = "";
  }
}

function refuse(name, sentence) {
  put(name, null);
  say(sentence);
}

// The server answers with a picture of the file, which is shown at once and drawn on.
function put(name, file) {
  const { box, view } = views[name];
  value[name] = file;
  view?.remove();
  views[name].view = null;
  box.toggleAttribute("data-full", Boolean(file));
  box.toggleAttribute("data-busy", Boolean(file));
  if (name !== "last_image") lay(0, 0);
  expect(name, Boolean(file));
  if (file) lumiere.send("thumbnail", { name, file });
  tell();
}

async function show({ name, file, picture, sentence }) {
  if (value[name] !== file) return; // replaced meanwhile
  if (!picture) return refuse(name, sentence);
  const image = make("img", { alt: props.labels[name], src: picture });
  see(name, name === "clip" ? film(file.url, picture, image) : image);
  if (name !== "last_image") {
    under.src = picture;
    await under.decode();
    if (value[name] !== file) return;
    lay(under.naturalWidth, under.naturalHeight);
  }
  expect(name, false);
  delete views[name].box.dataset.busy;
}

function see(name, view) {
  views[name].view?.remove();
  views[name].view = view;
  views[name].box.prepend(view);
}

// The clip plays where the browser can play it; else its first frame stands for it.
function film(src, poster, instead) {
  const video = make("video", { muted: true, loop: true, playsInline: true, autoplay: true, poster, src });
  video.setAttribute("aria-label", props.labels.clip);
  video.addEventListener("error", () => video.isConnected && see("clip", instead));
  return video;
}

// Nothing is drawn while another picture is on its way: it would be wiped with the picture under it.
function expect(name, coming) {
  if (coming && name !== "last_image") awaited.add(name);
  else awaited.delete(name);
  easel.toggleAttribute("data-busy", awaited.size > 0);
}

const ready = () => easel.hasAttribute("data-ready") && !awaited.size;

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
lumiere.listen("thumbnail-made", show);
lumiere.listen("picture", (file) => take("image", file));
