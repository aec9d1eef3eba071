// Given files as pictures: browsers show neither every clip nor every picture that the server reads. Asked for one at
// a time, because a component has one value.
const waiting = [];
let asked = null;
let turns = 0;

function next() {
  if (asked || !waiting.length) return;
  asked = { ...waiting.shift(), turn: ++turns };
  props.value = asked;
  trigger("submit");
}

lumiere.listen("thumbnail", (what) => {
  waiting.push(what);
  next();
});

watch("value", () => {
  const { turn = asked?.turn, picture, sentence } = props.value || {};
  if (turn !== asked?.turn || (!picture && !sentence)) return;
  const { name, file } = asked;
  asked = null;
  lumiere.send("thumbnail-made", { name, file, picture, sentence });
  next();
});
