// Clips made before, as moving thumbnails. A press fills in what made one and makes it again.
const list = element.querySelector(".examples");
list.setAttribute("aria-label", props.title);
element.querySelector("p").textContent = props.title;

function again(prompt, { seed, ...form }) {
  const once = seed === undefined ? {} : { seed, randomise: false };
  lumiere.send("fill", { settings: { prompt, mode: "text", ...form }, once, run: true });
}

for (const { prompt, picture, still, settings } of props.examples) {
  const button = lumiere.button(list, "", () => again(prompt, settings));
  if (picture) {
    const calm = lumiere.make("source", { media: "(prefers-reduced-motion: reduce)", srcset: still });
    const image = lumiere.make("img", { src: picture, alt: "", width: 128, height: 128 });
    button.append(lumiere.make("picture", {}, calm, image));
  }
  button.append(lumiere.make("span", { textContent: prompt }));
}
