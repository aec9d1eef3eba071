// The table of models. It is asked of the server when it is opened; a download reports its progress in the last line.
const root = element.querySelector(".models");
const [list, said] = [root.querySelector("ul"), root.querySelector(".said")];
const { make } = lumiere;
let turns = 0;

function ask(what) {
  props.value = { ...what, turn: ++turns };
  trigger("submit");
}

function row({ name, facts, state, fetch, address, command }) {
  const title = make("h3", {}, name, " ", make("small", { textContent: state }));
  const made = make("li", {}, title, ...facts.map((textContent) => make("p", { textContent })));
  if (address) made.append(make("a", { href: address, textContent: props.strings.open }));
  else made.append(make("code", { textContent: command }));
  if (fetch) lumiere.button(made, props.strings.fetch, () => ask({ fetch: name }), { className: "pill" });
  return made;
}

root.querySelector("summary").textContent = props.strings.title;
root.addEventListener("toggle", () => {
  if (root.open && !list.children.length) ask({});
});
watch("value", () => {
  const { rows, sentence, busy } = props.value || {};
  if (rows) list.replaceChildren(...rows.map(row));
  if (rows || sentence) said.textContent = sentence || "";
  for (const button of list.querySelectorAll("button")) button.disabled = Boolean(busy);
});
