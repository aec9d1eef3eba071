// The frames on each level follow the length that is asked for.
document.addEventListener("lumiere:now", ({ detail }) => {
  if (!detail.frames) return;
  for (const place of element.querySelectorAll("[data-stride]")) place.textContent = Math.floor(detail.frames / place.dataset.stride);
});
