"""Component values of the page: status lines, previews and the finished clip; exports to other formats."""

import base64
import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.events import Result
from lumiere.limits import ServerLimits
from lumiere.media.images import write_moving
from lumiere.media.video import probe, read_clip
from lumiere.media.whole import replacing
from lumiere.modes import NEEDS
from lumiere.page import strings
from lumiere.page.restore import form, link
from lumiere.page.server import files
from lumiere.page.server.files import address, uploaded
from lumiere.page.server.service import Service
from lumiere.request import Limits, Request, required
from lumiere.runtime import jobs

THUMBNAIL_SIDE = 768  # pixels of a given picture as the page shows it
PREVIEW_FRAMES = 24  # frames of a finished clip that play until its video is loaded
REEL_PIXELS = 2**22  # maximum pixels of the sprite sheet of all frames; longer clips are scaled down


def status(state: str, text: str, facts: str = "", step: int = 0, steps: int = 0, pace: float = 0) -> dict:
    """Returns a value of the status component.

    Args:
        state: "idle", "busy", "done" or "refused".
        text: status line.
        facts: settings of the clip.
        step: denoising steps done.
        steps: all denoising steps.
        pace: seconds per step and frame; 0 if unknown.
    """
    return {"state": state, "text": text, "facts": facts, "step": step, "steps": steps, "pace": pace}


def progress(request: Request, update: jobs.Update) -> dict:
    """Returns the status of a running job.

    Args:
        request: the request being processed.
        update: update of its job.
    """
    pace = 0.0
    if update.ahead or update.text:
        text = update.text or strings.waiting(update.ahead)
    elif update.step == update.steps:
        text = strings.DEVELOPING
    elif update.seconds_left is None:
        text = strings.begun(update.step, update.steps)
    else:
        pace = required(update.seconds_per_step)
        text = strings.working(update.step, update.steps, pace, update.seconds_left)
        passes = 1 if request.strength < 1 else request.free_init or 1
        work = passes * request.steps_run * required(request.frames)
        pace = update.seconds_left / (1 - update.share) / work
    return status("busy", text, strings.facts(request), update.step, update.steps, pace)


def ending(result: Result) -> str:
    """Returns the status line of a finished or stopped clip."""
    if result.stopped:
        return strings.stopped(result.steps_done, result.steps)
    return strings.done(result.seconds)


def sheet(frames: np.ndarray, request: Request, of: int | None = None) -> dict:
    """Returns a sprite sheet as a value of the player; it plays for the duration of the whole clip.

    Args:
        frames: uint8 `t h w c`, evenly spaced in the clip.
        request: provides fps, height and width.
        of: frame count of the whole clip. Defaults to `request.frames`.
    """
    from lumiere.sampling.latent_preview import sprite_sheet  # imports torch, so not at page start

    made = sprite_sheet(frames)
    return {
        "sheet": made.data_uri,
        "columns": made.columns,
        "count": made.count,
        "width": made.width,
        "height": made.height,
        "fps": required(request.fps) * made.count / (of or required(request.frames)),
        "aspect": f"{request.width} / {request.height}",
    }


def some(frames: np.ndarray) -> np.ndarray:
    """Returns at most `PREVIEW_FRAMES` evenly spaced frames, scaled down to fit one sprite sheet.

    Args:
        frames: uint8 `t h w c`.
    """
    return reel(frames[:: -(-len(frames) // PREVIEW_FRAMES)])


def reel(frames: np.ndarray) -> np.ndarray:
    """Returns all frames, scaled down to fit one sprite sheet of `REEL_PIXELS` pixels.

    Args:
        frames: uint8 `t h w c`.
    """
    count, height, width, _ = frames.shape
    scale = min(1.0, (REEL_PIXELS / (count * height * width)) ** 0.5)
    if scale == 1:
        return frames
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in frames]
    )


def finished(request: Request, frames: np.ndarray, path: str, limits: Limits) -> dict:
    """Returns the value of the result component for a finished clip.

    Its "longest" is the maximum frame count for these settings, or the request's own frame count if the clip
    was made from another clip.

    Args:
        request: the request that made the clip.
        frames: uint8 `t h w c`.
        path: MP4 file of the clip.
        limits: limits of the model.
    """
    of_a_clip = "clip" in NEEDS[request.mode]
    size = required(request.height), required(request.width)
    return sheet(reel(frames), request, len(frames)) | {
        "fps": request.fps,
        "frames": len(frames),
        "clip": address(path),
        "path": path,
        "name": Path(path).name,
        "settings": form(request),
        "facts": strings.facts(request),
        "query": link(request),
        "longest": request.frames if of_a_clip else limits.longest(*size),
    }


def thumbnail(asked: object, server_limits: ServerLimits) -> dict:
    """Returns a given picture, or the first frame of a given clip, as the page shows it.

    Args:
        asked: {"name": `Sources` field, "file": uploaded file, "turn": number} from the browser, untrusted.
        server_limits: limits of the server.

    Returns:
        The turn, with a "picture" (data URI), or with a "sentence" why the file cannot be read.
    """
    asked = asked if isinstance(asked, dict) else {}
    turn = asked.get("turn")
    answer = {"turn": turn if type(turn) is int else 0}
    try:
        image = Image.fromarray(files.first_frame(asked.get("name"), asked.get("file"), server_limits))
    except ValueError as refusal:
        return answer | {"sentence": strings.sentence(refusal)}
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=90)
    data = base64.b64encode(encoded.getvalue()).decode()
    return answer | {"picture": f"data:image/jpeg;base64,{data}"}


def export(asked: object, limits: Limits, service: Service) -> dict:
    """Converts a clip to another format. The file is kept next to the clip and deleted with it.

    Args:
        asked: {"path": clip, "kind": format} from the browser, untrusted.
        limits: limits of the model.
        service: checks the disk space.

    Returns:
        {"url", "name"} of the file, or {"sentence"} with the reason for a failure.
    """
    if not isinstance(asked, dict):
        return {"sentence": strings.FAILED}
    try:
        kind, path = asked.get("kind"), uploaded(asked)
        if kind not in WRITERS:
            raise ValueError(f"a format must be one of {', '.join(WRITERS)}: received another.")
        made = path.with_suffix(f".{kind}")
        if not made.exists():
            shown = probe(path)
            size = shown.height, shown.width
            if max(size) > limits.max_side:
                raise ValueError(
                    f"the video must be at most {limits.max_side} pixels a side: "
                    f"received {shown.width} x {shown.height}."
                )
            longest = limits.longest_given(*size) + limits.longest(*size)  # a continued clip
            seconds = service.limits.video_seconds
            frames, fps = read_clip(path, max(1, longest), limits.max_side, seconds)
            if not service.room(frames.nbytes, str(path)):
                return {"sentence": strings.DISK_FULL}
            with replacing(made) as part:
                WRITERS[kind](part, frames, fps)
        return {"url": address(made), "name": made.name}
    except (ValueError, TypeError) as refusal:
        return {"sentence": strings.sentence(refusal) if isinstance(refusal, ValueError) else strings.FAILED}
    except OSError:
        return {"sentence": strings.FAILED}


def _write_pictures(path: Path, frames: np.ndarray, fps: float) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # PNG is compressed already
        for index, frame in enumerate(frames):
            with archive.open(f"frame-{index:04d}.png", "w") as file:
                Image.fromarray(frame).save(file, "PNG")
        archive.writestr("clip.json", json.dumps({"fps": fps, "frames": len(frames)}))


WRITERS: dict[str, Callable[[Path, np.ndarray, float], None]] = {
    "webp": partial(write_moving, format="WEBP", quality=88, method=4),
    "gif": partial(write_moving, format="GIF", optimize=False),
    "zip": _write_pictures,
}
