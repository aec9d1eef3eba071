"""Inputs of each mode besides the prompt (standard library only); runtime/sources.py reads the files.

- `text`: no input
- `image`: the first frame
- `images`: the first and the last frame
- `inpaint`: a clip and a region to inpaint
- `cinemagraph`: an image and a region to animate
- `continue`: a clip to continue
- `video`: a clip to noise and denoise everywhere (see `Request.strength`)
"""

from lumiere.request import Limits, Request

NEEDS = {
    "text": (),
    "image": ("image",),
    "images": ("image", "last_image"),
    "inpaint": ("clip", "region"),
    "cinemagraph": ("image", "region"),
    "continue": ("clip",),
    "video": ("clip",),
}
WORDS = {"image": "a picture", "last_image": "a last picture", "clip": "a clip", "region": "a drawn region"}


def check(request: Request, has: set[str]) -> None:
    """Checks the inputs of a request. The check is cheap and runs before files are read.

    Args:
        request: the requested clip.
        has: names of the available inputs, keys of `WORDS`.

    Raises:
        ValueError: an input is missing or superfluous, or a strength below 1 has no clip to start from.
    """
    for name in NEEDS[request.mode]:
        if name not in has:
            raise ValueError(f"mode {request.mode} needs {WORDS[name]}: received none.")
    if request.frames == 1 and request.mode in ("image", "images", "continue"):
        raise ValueError(f"mode {request.mode} needs 2 frames or more, as one at least is given: received 1.")
    for name, words in WORDS.items():
        if name in has and name not in NEEDS[request.mode]:
            raise ValueError(f"mode {request.mode} takes no {words.split(' ', 1)[1]}.")
    if request.strength < 1 and request.mode not in ("inpaint", "video"):
        raise ValueError(f"strength {request.strength:g} needs a clip to begin with: received none.")


def check_length(request: Request, frames: int, limits: Limits) -> None:
    """Checks the length of a clip to continue.

    Args:
        request: the requested clip.
        frames: length of the clip to continue.
        limits: limits of the model.

    Raises:
        ValueError: the clip is too long.
    """
    height, width = request.height or limits.default_height, request.width or limits.default_width
    most = limits.longest_given(height, width)
    if request.mode == "continue" and frames > most:
        raise ValueError(f"a clip that goes on must have at most {most} frames: received more.")
