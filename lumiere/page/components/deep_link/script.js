// Settings from outside: the link that opened the page, and a clip that is dropped on it. Both come from strangers, so
// the server reads and checks them; the answer takes the place of this component's value.
function ask(what) {
  props.value = what;
  trigger("submit");
}

async function drop(file) {
  if (file.size > props.most_bytes) return lumiere.send("say", props.too_large);
  try {
    const { path } = await upload(file);
    ask({ clip: lumiere.file(path) });
  } catch {
    lumiere.send("say", props.lost);
  }
}

watch("value", () => {
  const { settings, sentence, address } = props.value || {};
  if (address) return setTimeout(() => location.assign(address), 100); // another model's page, once this answer is through
  if (settings) lumiere.send("fill", { settings });
  if (sentence) lumiere.send("say", sentence);
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file && !event.target.closest(".slot")) drop(file);
});

if (lumiere.linked(props.names)) ask({ query: new URLSearchParams(location.search).toString() });
