// What a small model knows, as words to press: a word takes the place of its kind in the prompt.
const rows = element.querySelector(".rows");
element.querySelector("summary").textContent = props.title;

function apply(kind, text) {
  const field = document.querySelector("#prompt textarea");
  const others = props.kinds.find(({ name }) => name === kind).words;
  const known = [...others].sort((a, b) => b.length - a.length).find((word) => new RegExp(`\\b${word}\\b`, "i").test(field.value));
  let prompt = known ? field.value.replace(new RegExp(`\\b${known}\\b`, "i"), text) : `${field.value.trim()} ${text}`.trim();
  prompt = prompt.replace(/\ban? (\w)/gi, (_, letter) => `${/[aeiou]/i.test(letter) ? "an" : "a"} ${letter}`);
  lumiere.send("fill", { settings: { prompt } });
}

for (const { name, words } of props.kinds) {
  const row = lumiere.make("div", {}, lumiere.make("span", { textContent: name }));
  for (const word of words) lumiere.button(row, word, () => apply(name, word));
  rows.append(row);
}
