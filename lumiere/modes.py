"""What a clip is made from besides the prompt (standard library only); runtime/sources.py reads it.

text            nothing
image           a picture that is the first frame
images          two pictures, the first frame and the last
inpaint         a clip that is made anew in a drawn region
cinemagraph     a picture that moves in a drawn region
continue        a clip that goes on
video           a clip that is made anew everywhere, beginning as it is with noise (see `Request.strength`)
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
    """Raises ValueError unless exactly what the mode needs is there, and a strength only where it is of use.

    has: names of what is there. Costs nothing, so it comes before files are read.
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
    """Raises ValueError for a clip of so many frames that goes on, when it is too long for that."""
    most = limits.longest_given(request.height, request.width)
    if request.mode == "continue" and frames > most:
        raise ValueError(f"a clip that goes on must have at most {most} frames: received more.")
