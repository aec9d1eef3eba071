// Settings from outside: the link that opened the page, and a clip that is dropped on it. Both come from strangers, so
// the server reads and checks them; the answer takes the place of this component's value.
const say = (text) => document.dispatchEvent(new CustomEvent("lumiere:say", { detail: text }));

function ask(what) {
  props.value = what;
  trigger("submit");
}

async function drop(file) {
  if (file.size > props.most_bytes) return say(props.too_large);
  try {
    const { path } = await upload(file);
    ask({ clip: { path, meta: { _type: "gradio.FileData" } } });
  } catch {
    say(props.lost);
  }
}

watch("value", () => {
  const { settings, sentence, address } = props.value || {};
  if (address) return setTimeout(() => location.assign(address), 100); // another model's page, once this answer is through
  if (settings) document.dispatchEvent(new CustomEvent("lumiere:fill", { detail: { settings } }));
  if (sentence) say(sentence);
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file && !event.target.closest(".slot")) drop(file);
});
document.addEventListener("lumiere:drop", ({ detail }) => drop(detail));

const query = new URLSearchParams(location.search);
if ([...query.keys()].some((name) => props.names.includes(name))) ask({ query: query.toString() });
