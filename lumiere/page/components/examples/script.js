// Clips made before, as moving thumbnails. A press fills in what made one and makes it again.
const list = element.querySelector(".examples");
list.setAttribute("aria-label", props.title);
element.querySelector("p").textContent = props.title;

for (const { prompt, picture, still, settings } of props.examples) {
  const button = document.createElement("button");
  button.type = "button";
  if (picture) {
    const frame = document.createElement("picture");
    const calm = document.createElement("source");
    calm.media = "(prefers-reduced-motion: reduce)";
    calm.srcset = still;
    const image = document.createElement("img");
    image.src = picture;
    image.alt = "";
    image.width = image.height = 128;
    frame.append(calm, image);
    button.append(frame);
  }
  const text = document.createElement("span");
  text.textContent = prompt;
  button.append(text);
  button.addEventListener("click", () => {
    const { seed, ...form } = settings;
    const once = seed === undefined ? {} : { seed, randomise: false };
    const detail = { settings: { prompt, mode: "text", ...form }, once, run: true };
    document.dispatchEvent(new CustomEvent("lumiere:fill", { detail }));
  });
  list.append(button);
}
