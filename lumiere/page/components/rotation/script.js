// Asks the server for the next clip of a showcase, or to stop the one in the making.
let turns = 0;

lumiere.listen("next", (prompt) => {
  props.value = { prompt, turn: ++turns };
  trigger("submit");
});
lumiere.listen("stop", () => trigger("clear"));
