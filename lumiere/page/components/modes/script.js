// The mode decides which inputs are shown; gradio keeps all of them, the style sheet hides those of no use.
const workbench = document.getElementById("workbench");
const line = element.querySelector("p");

function show(mode) {
  workbench.dataset.mode = mode;
  workbench.dataset.needs = (props.needs[mode] || []).join(" ");
  line.textContent = props.help[mode] || "";
}

lumiere.listen("now", ({ mode }) => show(mode));
show("text");
