// A clip in another format: asked for by the result, made by the server, downloaded as soon as it is there.
let turns = 0;

document.addEventListener("lumiere:export", ({ detail }) => {
  props.value = { ...detail, turn: ++turns };
  trigger("submit");
});

watch("value", () => {
  const { url, name, sentence } = props.value || {};
  if (!url && !sentence) return;
  if (url) {
    const link = Object.assign(document.createElement("a"), { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
  }
  document.dispatchEvent(new CustomEvent("lumiere:exported", { detail: sentence || "" }));
});
