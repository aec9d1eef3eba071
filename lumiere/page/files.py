"""Files that come from strangers, from the page or from programs, and where gradio keeps what it serves."""

import base64
import binascii
import io
import threading
from pathlib import Path
from urllib.parse import quote

import gradio as gr
import numpy as np

from lumiere.limits import Bounds
from lumiere.media.images import fit, read_image
from lumiere.media.video import read_clip
from lumiere.modes import NEEDS, check_length
from lumiere.request import Limits, Request
from lumiere.runtime.sources import Sources

MOST_REGION = 2**20  # characters of a drawn region; the page draws at most 256 x 256
REGION_SIDE = 1024
READERS = threading.BoundedSemaphore(4)  # of files at once, each of which may take a gigabyte and a half
DATA = "data:image/png;base64,"


def sources(request: Request, given: dict, limits: Limits, bounds: Bounds) -> Sources:
    """Reads what the mode needs of {name: what was sent}; all of it comes in the size of the request.

    Raises ValueError for what cannot be read, or is too long to go on.
    """
    return Sources(
        **{name: read_given(name, given[name], request, limits, bounds) for name in NEEDS[request.mode]}
    )


def read_given(name: str, sent, request: Request, limits: Limits, bounds: Bounds) -> np.ndarray:
    """A picture (h w c) or the frames of a clip (t h w c), uint8, cut and scaled to the request's size.

    name: of `Sources`. Files are large until then, so that few are read at once. Raises ValueError.
    """
    if not READERS.acquire(timeout=bounds.video_seconds):
        raise ValueError("too many files are being read: try again in a moment.")
    try:
        if name == "clip":
            frames = limits.longest_given(request.height, request.width) + 1  # one more: it is too long
            clip, _ = read_clip(uploaded(sent), frames, bounds.video_side, bounds.video_seconds, request.fps)
            check_length(request, len(clip), limits)
            return fit(clip, request.height, request.width)
        read = read_region if name == "region" else read_picture
        return fit(read(sent, bounds.image_side)[None], request.height, request.width)[0]
    finally:
        READERS.release()


def uploaded(sent) -> Path:
    """The file behind what a browser or a program sent: a path, or an object with one.

    Raises ValueError unless gradio stored it: no path or address of anything else is opened.
    """
    path = sent.get("path") if isinstance(sent, dict) else getattr(sent, "path", sent)
    if type(path) is str and "\0" not in path:
        try:
            file = Path(path).resolve()
            if file.is_file() and file.is_relative_to(Path(gr.utils.get_upload_folder()).resolve()):
                return file
        except (OSError, RuntimeError):  # a name that is too long, a loop of links
            pass
    raise ValueError("a file must be uploaded first: received something else.")


def read_picture(sent, max_side: int) -> np.ndarray:
    """An uploaded picture, uint8 (h w c)."""
    return read_image(uploaded(sent), max_side)


def read_region(sent, max_side: int) -> np.ndarray:
    """A drawn region, uint8 (h w c): a PNG in a data URI, as the page draws it, or an uploaded picture."""
    if type(sent) is not str or not sent.startswith("data:"):
        return read_picture(sent, max_side)
    if len(sent) > MOST_REGION or not sent.startswith(DATA):
        raise ValueError(
            f"a drawn region must be a PNG of at most {MOST_REGION} characters: received {len(sent)}."
        )
    try:
        data = base64.b64decode(sent[len(DATA) :], validate=True)
    except (ValueError, binascii.Error):
        data = b""
    return read_image(io.BytesIO(data), REGION_SIDE)


def address(path: Path | str) -> str:
    """Of a stored file, relative to the page."""
    return f"gradio_api/file={quote(str(path))}"
