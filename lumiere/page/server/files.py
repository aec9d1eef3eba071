"""Reads untrusted files from the page and the API, and returns the URLs of files that gradio serves."""

import base64
import binascii
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from lumiere.limits import ServerLimits
from lumiere.media.animations import is_picture
from lumiere.media.header import pace_note, probe
from lumiere.media.images import fit, read_image
from lumiere.media.video import read_clip
from lumiere.modes import NEEDS, check_length
from lumiere.page import strings
from lumiere.page.server import gradio_private
from lumiere.request import Limits, Request, required
from lumiere.runtime.sources import Sources

MOST_REGION = 2**20  # characters of a drawn region; the page draws at most 256 x 256
REGION_SIDE = 1024
READERS = threading.BoundedSemaphore(4)  # concurrent decodes; each may use 1.5 GB of memory
DATA = "data:image/png;base64,"


def sources(request: Request, given: dict, limits: Limits, server_limits: ServerLimits) -> Sources:
    """Reads the files that the request's mode needs, resized to the height and width of the request.

    Args:
        request: its `mode` selects the files.
        given: {`Sources` field: uploaded file}, untrusted.
        limits: limits of the model.
        server_limits: limits of the server.

    Raises:
        ValueError: a file cannot be read, or a clip is too long to be continued.
    """
    return Sources(
        **{
            name: read_given(name, given[name], request, limits, server_limits)
            for name in NEEDS[request.mode]
        }
    )


def read_given(
    name: str, sent: object, request: Request, limits: Limits, server_limits: ServerLimits
) -> np.ndarray:
    """Reads one file, cropped and scaled to the request's size. At most four are decoded at once.

    Args:
        name: `Sources` field.
        sent: uploaded file, or a drawn region as a data URI; untrusted.
        request: provides height, width and fps.
        limits: limits of the model.
        server_limits: limits of the server.

    Returns:
        A picture uint8 `h w c`, or the frames of a clip uint8 `t h w c`.

    Raises:
        ValueError: the file cannot be read or is too large, or too many files are being read.
    """
    size = required(request.height), required(request.width)
    with reader(server_limits):
        if name == "clip":
            frames = limits.longest_given(*size) + 1  # + 1 reveals a longer clip
            clip, _ = read_clip(
                uploaded(sent), frames, server_limits.video_side, server_limits.video_seconds, request.fps
            )
            check_length(request, len(clip), limits)
            return fit(clip, *size)
        side = server_limits.image_side
        image = read_region(sent, side) if name == "region" else read_image(uploaded(sent), side)
        return fit(image[None], *size)[0]


def first_frame(name: object, sent: object, server_limits: ServerLimits) -> np.ndarray:
    """Reads a picture, or the first frame of a clip, at its own size: browsers cannot show every format.

    Args:
        name: `Sources` field.
        sent: uploaded file, untrusted.
        server_limits: limits of the server.

    Returns:
        uint8 `h w c`.

    Raises:
        ValueError: the file cannot be read or is too large, or too many files are being read.
    """
    with reader(server_limits):
        if name != "clip":
            return read_image(uploaded(sent), server_limits.image_side)
        clip, _ = read_clip(uploaded(sent), 1, server_limits.video_side, server_limits.video_seconds)
        return clip[0]


def notes(request: Request, given: object) -> list[str]:
    """Returns sentences about what was changed in or dropped from a given clip.

    Args:
        request: its mode selects the files.
        given: {`Sources` field: uploaded file}, untrusted.
    """
    if "clip" not in NEEDS[request.mode] or not isinstance(given, dict):
        return []
    try:
        path = uploaded(given.get("clip"))
        if is_picture(path):
            return []
        header = probe(path)
    except ValueError:  # deleted meanwhile
        return []
    pace = pace_note(header.fps, required(request.fps))
    return [pace[:1].upper() + pace[1:]] * bool(pace) + [strings.NO_SOUND] * header.sound


@contextmanager
def reader(server_limits: ServerLimits) -> Iterator[None]:
    """Holds one of four readers.

    Args:
        server_limits: limits of the server.

    Raises:
        ValueError: too many files are being read.
    """
    if not READERS.acquire(timeout=server_limits.video_seconds):
        raise ValueError("too many files are being read: try again in a moment.")
    try:
        yield
    finally:
        READERS.release()


def uploaded(sent: object) -> Path:
    """Returns the path of an uploaded file. No path or URL outside gradio's upload folder is opened.

    Args:
        sent: a path, or a dict or object with a `path`; untrusted.

    Raises:
        ValueError: gradio did not store the file.
    """
    path = sent.get("path") if isinstance(sent, dict) else getattr(sent, "path", sent)
    if type(path) is str and "\0" not in path:
        try:
            file = Path(path).resolve()
            if file.is_file() and file.is_relative_to(Path(gradio_private.upload_folder()).resolve()):
                return file
        except (OSError, RuntimeError):  # file name too long, symlink loop
            pass
    raise ValueError("a file must be uploaded first: received something else.")


def read_region(sent: object, max_side: int) -> np.ndarray:
    """Reads a region: a PNG data URI drawn on the page, or an uploaded picture.

    Args:
        sent: data URI or uploaded file, untrusted.
        max_side: maximum height and width of an uploaded picture, in pixels.

    Returns:
        uint8 `h w c`.

    Raises:
        ValueError: the region is no PNG, is too large or was not uploaded.
    """
    if type(sent) is not str or not sent.startswith("data:"):
        return read_image(uploaded(sent), max_side, "black")  # what is transparent was not drawn
    if len(sent) > MOST_REGION or not sent.startswith(DATA):
        raise ValueError(
            f"a drawn region must be a PNG of at most {MOST_REGION} characters: received {len(sent)}."
        )
    try:
        data = base64.b64decode(sent[len(DATA) :], validate=True)
    except (ValueError, binascii.Error):
        data = b""
    return read_image(io.BytesIO(data), REGION_SIDE, "black")


def address(path: Path | str) -> str:
    """Returns the URL of a stored file, relative to the page."""
    return f"gradio_api/file={quote(str(path))}"
