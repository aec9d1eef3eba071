// The frames on each level follow the length that is asked for.
lumiere.listen("now", ({ frames }) => {
  if (!frames) return;
  for (const place of element.querySelectorAll("[data-stride]")) place.textContent = Math.floor(frames / place.dataset.stride);
});
