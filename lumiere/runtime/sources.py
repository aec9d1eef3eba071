"""Converts images, clips and masks to the given pixels of a request."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from lumiere.media.images import fit, fit_mask
from lumiere.modes import check, check_length
from lumiere.request import Limits, Request, required

if TYPE_CHECKING:  # the page validates before torch is imported
    from lumiere.model.conditioning import Given


@dataclass(frozen=True)
class Sources:
    """Uint8 RGB inputs of any size.

    Attributes:
        image: first image, `h w c`.
        last_image: last image, `h w c`.
        clip: `t h w c`.
        region: mask, `h w c`, bright inside the region.
    """

    image: np.ndarray | None = None
    last_image: np.ndarray | None = None
    clip: np.ndarray | None = None
    region: np.ndarray | None = None


@dataclass(frozen=True)
class Prepared:
    """A request with its given pixels.

    Attributes:
        request: request for the pipeline.
        given: pixels that the clip should contain, with their mask, or None.
        before: frames `t h w c` to prepend to the clip, or None.
    """

    request: Request
    given: "Given | None" = None
    before: np.ndarray | None = None


def prepare(request: Request, sources: Sources, limits: Limits) -> Prepared:
    """Crops and scales the inputs to the size of the clip and builds its given pixels.

    In the modes "inpaint" and "video" the result is at most as long as the input clip: `request.frames` is
    lowered, and further frames of the input are cut.

    Args:
        request: request, whose mode selects the inputs.
        sources: images, clip and mask.
        limits: limits of the model.

    Raises:
        ValueError: inputs do not fit the mode, the mask is empty, or the clip has too few frames.
    """
    check(request, {field.name for field in fields(sources) if getattr(sources, field.name) is not None})
    if sources.clip is not None:
        check_length(request, len(sources.clip), limits)
    from lumiere.model import conditioning

    size, frames = (required(request.height), required(request.width)), required(request.frames)
    image, last_image = (
        None if picture is None else fit(picture[None], *size)[0]
        for picture in (sources.image, sources.last_image)
    )
    region = np.ones(size, bool) if sources.region is None else fit_mask(sources.region, *size)
    if not region.any():
        raise ValueError("a drawn region is empty: draw where the clip should be made anew.")
    if request.mode in ("image", "images"):
        return Prepared(request, conditioning.images(required(image), last_image, frames))
    if request.mode == "cinemagraph":
        return Prepared(request, conditioning.moving_picture(required(image), region, frames))
    if sources.clip is None:
        return Prepared(request)
    clip = fit(sources.clip, *size)
    if request.mode == "continue":
        given = conditioning.continuation(clip, frames)
        return Prepared(request, given, clip[: -given.mask.any((1, 2)).sum()])
    request = _no_longer(request, len(clip), limits)  # inpaint and video
    return Prepared(request, conditioning.inpainting(clip[: request.frames], region))


def _no_longer(request: Request, frames: int, limits: Limits) -> Request:
    factor = limits.downsample_factor
    if frames < limits.min_frames:
        raise ValueError(f"a clip must have at least {limits.min_frames} frames: received {frames}.")
    return replace(request, frames=min(required(request.frames), frames // factor * factor)).check(limits)
