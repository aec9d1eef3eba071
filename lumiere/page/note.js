// A line of text below the prompt. It may name words of the prompt, hence textContent.
const line = element.querySelector("p");
const show = () => {
  line.textContent = props.value || "";
};
watch("value", show);
show();
