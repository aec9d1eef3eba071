// A clip in another format: asked for by the result, made by the server, downloaded as soon as it is there.
let turns = 0;

lumiere.listen("export", (what) => {
  props.value = { ...what, turn: ++turns };
  trigger("submit");
});

watch("value", () => {
  const { url, name, sentence } = props.value || {};
  if (!url && !sentence) return;
  if (url) {
    const link = lumiere.make("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
  }
  lumiere.send("exported", sentence || "");
});
