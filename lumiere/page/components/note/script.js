// The line below the prompt, and a mark under each word that the model will leave out. Both hold words of the prompt,
// hence textContent. The marks lie on a transparent copy of the text behind the field.
const line = element.querySelector("p");
const copy = document.createElement("div");
copy.className = "marks";
copy.setAttribute("aria-hidden", "true");
let unknown = [];

function mark() {
  const field = document.querySelector("#prompt textarea");
  if (!field) return;
  if (!copy.isConnected) {
    field.parentElement.append(copy);
    field.addEventListener("input", mark);
    field.addEventListener("scroll", () => (copy.scrollTop = field.scrollTop));
    new ResizeObserver(mark).observe(field);
  }
  const words = unknown.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = words.length ? field.value.split(new RegExp(`(?<![\\p{L}\\p{N}'’])(${words.join("|")})(?![\\p{L}\\p{N}'’])`, "u")) : [];
  copy.replaceChildren(...parts.map((text, index) => {
    const piece = document.createElement(index % 2 ? "mark" : "span");
    piece.textContent = text;
    return piece;
  }));
  copy.style.height = `${field.offsetHeight}px`;
  copy.style.top = `${field.offsetTop}px`;
}

function show() {
  line.textContent = props.value?.text || "";
  unknown = props.value?.words || [];
  mark();
}

watch("value", show);
show();
