"""Pregenerated example clips, shown as animated thumbnails; `python -m lumiere.page.examples` makes them."""

from pathlib import Path

import numpy as np

from lumiere.loading.layout import ASSETS

FOLDER = ASSETS / "examples"
EXAMPLES = (  # prompt, seed
    ("a red ball bouncing over green hills", 3),
    ("a yellow star drifting right at night", 2),
    ("a pink heart pulsing in the desert", 5),
    ("a purple fish drifting left over the sea", 1),
    ("an orange ring circling in the forest", 2),
    ("a blue moon rising over the city", 1),
    ("a purple mushroom bouncing over snowy mountains", 1),
    ("a green ball circling over the sea", 3),
)


def files(seed: int, prompt: str) -> tuple[Path, Path]:
    """Returns the paths of the animated thumbnail and of the still one for `prefers-reduced-motion`."""
    stem = "-".join(prompt.split()[1:3]) + f"-{seed}"
    return FOLDER / f"{stem}.webp", FOLDER / f"{stem}-still.webp"


def main() -> None:
    """Renders all example clips with the embedded model and writes their thumbnails."""
    from lumiere.events import Result
    from lumiere.loading.registry import DEFAULT
    from lumiere.request import Request, required
    from lumiere.runtime import model_cache

    pipeline, model = model_cache.get(DEFAULT), model_cache.entry(DEFAULT)
    limits = model_cache.limits(DEFAULT)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for prompt, seed in EXAMPLES:
        request = Request(prompt, seed=seed, **model_cache.own(model, limits))
        *_, result = pipeline.generate(request)
        assert isinstance(result, Result), "the last item"
        print(write(prompt, seed, result.frames, required(request.fps)))


def write(prompt: str, seed: int, frames: np.ndarray, fps: int) -> str:
    """Writes both thumbnails of a clip.

    Args:
        prompt: its words name the files.
        seed: part of the file names.
        frames: uint8 `t h w c`.
        fps: frame rate of the animated thumbnail.

    Returns:
        A line with the file sizes in kB.
    """
    from PIL import Image

    from lumiere.media.images import write_moving

    moving, still = files(seed, prompt)
    write_moving(moving, frames, fps, quality=75, method=6)
    Image.fromarray(frames[(len(frames) + 1) // 2]).save(still, quality=80, method=6)
    return f"{moving.name}: {moving.stat().st_size // 1024} kB, still {still.stat().st_size // 1024} kB"


if __name__ == "__main__":
    main()
