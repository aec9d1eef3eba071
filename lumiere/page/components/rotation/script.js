// Asks the server for the next clip of a showcase, or to stop the one in the making.
let turns = 0;

document.addEventListener("lumiere:next", ({ detail }) => {
  props.value = { prompt: detail, turn: ++turns };
  trigger("submit");
});
document.addEventListener("lumiere:stop", () => trigger("clear"));
