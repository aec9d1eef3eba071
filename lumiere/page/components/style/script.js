// The weights of the styles that the operator gave: a slider for each. The value is the list of them.
const STEP = 0.05;
const root = element.querySelector(".styles");
root.setAttribute("aria-label", props.title);
root.title = props.help;
root.querySelector(".heading").textContent = props.title;

const sliders = props.names.map((name, index) => {
  const [low, high] = props.ranges[index];
  const label = document.createElement("label");
  const text = document.createElement("span");
  const slider = document.createElement("input");
  const shown = document.createElement("output");
  text.textContent = name;
  Object.assign(slider, { type: "range", min: low, max: high, step: STEP });
  slider.addEventListener("input", () => {
    props.value = sliders.map(({ slider }) => Number(slider.value));
    show();
  });
  label.append(text, slider, shown);
  root.querySelector(".rows").append(label);
  return { slider, shown };
});

function show() {
  sliders.forEach(({ slider, shown }, index) => {
    slider.value = props.value[index];
    shown.textContent = Number(props.value[index]).toFixed(2);
  });
}

lumiere.listen("fill", ({ settings }) => {
  const weights = settings?.style_weights;
  if (weights?.length !== sliders.length) return;
  props.value = weights;
  show();
});
show();
