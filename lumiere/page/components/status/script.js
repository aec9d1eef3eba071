// Step, pace and time left, written with textContent only. The spoken copy follows every few seconds: a screen reader
// should hear how the work goes on, not every step of it. A tab that is hidden tells in its title.
const SPOKEN_EVERY = 4000; // ms
const root = element.querySelector(".status");
const workbench = element.closest("#workbench"); // shows Stop in place of Generate while busy
const bar = element.querySelector(".bar");
const line = element.querySelector(".line");
const facts = element.querySelector(".facts");
const spoken = element.querySelector(".spoken");
const title = document.title;
let spokenAt = 0;

bar.setAttribute("aria-label", props.label);

// A line breaks between facts, never inside one.
function unbroken(fact, index) {
  const span = document.createElement("span");
  span.textContent = fact;
  return index ? [" · ", span] : [span];
}

function show(value) {
  if (!value) return;
  const part = value.steps ? value.step / value.steps : 0;
  const changed = root.dataset.state !== value.state;
  root.dataset.state = value.state;
  workbench.dataset.state = value.state;
  bar.firstElementChild.style.transform = `scaleX(${part})`;
  bar.setAttribute("aria-valuenow", Math.round(part * 100));
  line.textContent = value.text;
  facts.replaceChildren(...(value.facts || "").split(" · ").flatMap(unbroken));
  if (changed || Date.now() - spokenAt > SPOKEN_EVERY) {
    spoken.textContent = value.text;
    spokenAt = Date.now();
  }
  entitle(value);
  lumiere.send("status", value);
}

function entitle({ state, text, step, steps }) {
  if (!document.hidden || state === "idle") document.title = title;
  else if (state === "busy") document.title = step ? `${step}/${steps} · ${title}` : title;
  else document.title = `${state === "done" ? "✓" : "!"} ${text} · ${title}`;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) document.title = title;
});
lumiere.listen("restored", ({ facts }) => {
  if (root.dataset.state !== "busy") show({ state: "idle", text: "", facts });
});
lumiere.listen("say", (text) => show({ state: "refused", text }));
watch("value", () => show(props.value));
show(props.value);
