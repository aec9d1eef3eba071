// What a small model knows, as words to press: a word takes the place of its kind in the prompt.
const rows = element.querySelector(".rows");
element.querySelector("summary").textContent = props.title;

function apply(kind, text) {
  const field = document.querySelector("#prompt textarea");
  const others = props.kinds.find(({ name }) => name === kind).words;
  const known = [...others].sort((a, b) => b.length - a.length).find((word) => new RegExp(`\\b${word}\\b`, "i").test(field.value));
  let prompt = known ? field.value.replace(new RegExp(`\\b${known}\\b`, "i"), text) : `${field.value.trim()} ${text}`.trim();
  prompt = prompt.replace(/\ban? (\w)/gi, (_, letter) => `${/[aeiou]/i.test(letter) ? "an" : "a"} ${letter}`);
  document.dispatchEvent(new CustomEvent("lumiere:fill", { detail: { settings: { prompt } } }));
}

for (const { name, words } of props.kinds) {
  const row = document.createElement("div");
  const title = document.createElement("span");
  title.textContent = name;
  row.append(title);
  for (const word of words) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word;
    button.addEventListener("click", () => apply(name, word));
    row.append(button);
  }
  rows.append(row);
}
