"""What the page is told and shown: status lines, previews, the finished clip and its other formats."""

import json
import os
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.media.images import write_moving
from lumiere.media.video import probe, read_clip
from lumiere.modes import NEEDS
from lumiere.page import words
from lumiere.page.files import address, uploaded
from lumiere.page.restore import form, link
from lumiere.request import Limits, Request

PREVIEW_FRAMES = 24  # of a finished clip, to play under the video until that is loaded
REEL_PIXELS = 2**22  # of the sheet with all frames; longer clips come in smaller pictures


def status(state: str, text: str, facts: str = "", step: int = 0, steps: int = 0, pace: float = 0) -> dict:
    """state: idle, busy, done or refused. pace: seconds per step and frame, where it is known."""
    return {"state": state, "text": text, "facts": facts, "step": step, "steps": steps, "pace": pace}


def told(request: Request, update) -> dict:
    """The status line for an update of a job."""
    pace = 0
    if update.ahead or update.text:
        text = update.text or words.waiting(update.ahead)
    elif update.step == update.steps:
        text = words.DEVELOPING
    elif update.seconds_left is None:
        text = words.begun(update.step, update.steps)
    else:
        text = words.working(update.step, update.steps, update.seconds_per_step, update.seconds_left)
        pace = update.seconds_left / (1 - update.share) / (request.steps_run * request.frames)
    return status("busy", text, words.facts(request), update.step, update.steps, pace)


def ending(result) -> str:
    if result.stopped:
        return words.stopped(result.steps_done, result.steps)
    return words.done(result.seconds)


def sheet(frames: np.ndarray, request: Request, of: int | None = None) -> dict:
    """Frames uint8 (t h w c), evenly spaced in a clip of `of` frames, as a value of the canvas.

    They are played in the time of the whole clip.
    """
    from lumiere.sampling.latent_preview import (
        sprite_sheet,  # torch, which is there by now, and not when the page opens
    )

    made = sprite_sheet(frames)
    return {
        "sheet": made.data_uri,
        "columns": made.columns,
        "count": made.count,
        "width": made.width,
        "height": made.height,
        "fps": request.fps * made.count / (of or request.frames),
        "aspect": f"{request.width} / {request.height}",
    }


def some(frames: np.ndarray) -> np.ndarray:
    """At most `PREVIEW_FRAMES` of them, evenly spaced, as large as one sheet takes them."""
    return reel(frames[:: -(-len(frames) // PREVIEW_FRAMES)])


def reel(frames: np.ndarray) -> np.ndarray:
    """All frames, as large as one sheet takes them."""
    count, height, width, _ = frames.shape
    scale = min(1.0, (REEL_PIXELS / (count * height * width)) ** 0.5)
    if scale == 1:
        return frames
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.BOX)) for frame in frames])


def finished(request: Request, frames: np.ndarray, path: str, limits: Limits) -> dict:
    """All that the page shows of a finished clip and offers to do with it.

    longest: to which its settings can make it; one that is made of a clip is as long as that lets it be.
    """
    of_a_clip = "clip" in NEEDS[request.mode]
    return sheet(reel(frames), request, len(frames)) | {
        "fps": request.fps,
        "frames": len(frames),
        "clip": address(path),
        "path": path,
        "name": Path(path).name,
        "settings": form(request),
        "facts": words.facts(request),
        "query": link(request),
        "longest": request.frames if of_a_clip else limits.longest(request.height, request.width),
    }


def export(asked, limits: Limits, service) -> dict:
    """The clip {"path"} as a file of another {"kind"}: {"url", "name"} or {"sentence"}.

    Comes from the browser. What was made once is kept beside the clip, until both are deleted. service: the
    `Service` of the page, which knows what may be written.
    """
    try:
        kind, path = asked.get("kind"), uploaded(asked)
        if kind not in WRITERS:
            raise ValueError(f"a format must be one of {', '.join(WRITERS)}: received another.")
        made = path.with_suffix(f".{kind}")
        if not made.exists():
            shown = probe(path)
            size = shown.height, shown.width
            longest = limits.longest_given(*size) + limits.longest(*size)  # a clip that went on
            seconds = service.bounds.video_seconds
            frames, fps = read_clip(path, max(1, longest), limits.max_side, seconds)
            if not service.room(frames.nbytes, str(path)):
                return {"sentence": words.DISK_FULL}
            write(made, kind, frames, fps)
        return {"url": address(made), "name": made.name}
    except (ValueError, AttributeError, TypeError) as refusal:
        return {"sentence": words.sentence(refusal) if isinstance(refusal, ValueError) else words.FAILED}
    except OSError:
        return {"sentence": words.FAILED}


def write(made: Path, kind: str, frames: np.ndarray, fps: float) -> None:
    """The file appears whole or not at all. Raises OSError."""
    part = made.with_name(f".{made.name}.part")  # as `Disk.remove_parts` knows them
    try:
        WRITERS[kind](part, frames, fps)
        os.replace(part, made)
    finally:
        part.unlink(missing_ok=True)


def _write_pictures(path: Path, frames: np.ndarray, fps: float) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # PNG is compressed already
        for index, frame in enumerate(frames):
            with archive.open(f"frame-{index:04d}.png", "w") as file:
                Image.fromarray(frame).save(file, "PNG")
        archive.writestr("clip.json", json.dumps({"fps": fps, "frames": len(frames)}))


WRITERS = {
    "webp": partial(write_moving, format="WEBP", quality=88, method=4),
    "gif": partial(write_moving, format="GIF", optimize=False),
    "zip": _write_pictures,
}
