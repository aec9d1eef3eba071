"""Pictures, clips and drawn regions become given pixels."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from lumiere.media.images import fit, fit_mask
from lumiere.modes import check, check_length
from lumiere.request import Limits, Request

if TYPE_CHECKING:  # the page checks before torch is there
    from lumiere.model.conditioning import Given


@dataclass(frozen=True)
class Sources:
    """uint8 RGB of any size: pictures and region (h w c), region bright where it is meant; clip (t h w c)."""

    image: np.ndarray | None = None
    last_image: np.ndarray | None = None
    clip: np.ndarray | None = None
    region: np.ndarray | None = None


@dataclass(frozen=True)
class Prepared:
    """A request for the pipeline, the pixels that its clip should have, and frames to put before its clip."""

    request: Request
    given: "Given | None" = None
    before: np.ndarray | None = None


def prepare(request: Request, sources: Sources, limits: Limits) -> Prepared:
    """Pictures are cut and scaled to the size of the clip. Raises ValueError for what does not fit together.

    A clip that is made anew is never longer than the one it is made from: frames that are too many are cut.
    """
    check(request, {field.name for field in fields(sources) if getattr(sources, field.name) is not None})
    if sources.clip is not None:
        check_length(request, len(sources.clip), limits)
    from lumiere.model import conditioning

    size = request.height, request.width
    image, last_image, clip = (
        None if frames is None else fit(frames, *size)
        for frames in (_one(sources.image), _one(sources.last_image), sources.clip)
    )
    region = None if sources.region is None else fit_mask(sources.region, *size)
    if region is not None and not region.any():
        raise ValueError("a drawn region is empty: draw where the clip should be made anew.")
    if request.mode in ("image", "images"):
        last = None if last_image is None else last_image[0]
        return Prepared(request, conditioning.images(image[0], last, request.frames))
    if request.mode == "cinemagraph":
        return Prepared(request, conditioning.moving_picture(image[0], region, request.frames))
    if request.mode == "continue":
        given = conditioning.continuation(clip, request.frames)
        return Prepared(request, given, clip[: -given.mask.any((1, 2)).sum()])
    if request.mode in ("inpaint", "video"):
        request = _no_longer(request, len(clip), limits)
        clip = clip[: request.frames]
        everywhere = np.ones(size, bool)
        return Prepared(request, conditioning.inpainting(clip, everywhere if region is None else region))
    return Prepared(request)


def _one(picture: np.ndarray | None) -> np.ndarray | None:
    return None if picture is None else picture[None]  # h w c -> 1 h w c


def _no_longer(request: Request, frames: int, limits: Limits) -> Request:
    factor = limits.downsample_factor
    if frames < limits.min_frames:
        raise ValueError(f"a clip must have at least {limits.min_frames} frames: received {frames}.")
    return replace(request, frames=min(request.frames, frames // factor * factor)).check(limits)
