// Shared by the scripts of all components, as `lumiere`. Components speak to each other by events of the document
// alone, `lumiere:NAME`; every name has a sender and a listener.
window.lumiere = {
  send(name, detail) {
    document.dispatchEvent(new CustomEvent(`lumiere:${name}`, { detail }));
  },

  listen(name, handle) {
    document.addEventListener(`lumiere:${name}`, ({ detail }) => handle(detail));
  },

  // An element. Text goes in as `textContent`, so that what people type is never HTML.
  make(tag, attributes = {}, ...children) {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  },

  button(parent, text, press, attributes = {}) {
    const made = lumiere.make("button", { type: "button", textContent: text, ...attributes });
    made.addEventListener("click", () => press(made));
    parent.append(made);
    return made;
  },

  // What this browser remembers; one that keeps nothing has the usual settings next time.
  recall(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  },

  remember(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      // nothing is remembered
    }
  },

  // A file that gradio stored, as the value of a component.
  file: (path, url, name) => ({ path, url, orig_name: name, meta: { _type: "gradio.FileData" } }),

  // Whether the address of the page holds settings.
  linked: (names) => [...new URLSearchParams(location.search).keys()].some((name) => names.includes(name)),
};
