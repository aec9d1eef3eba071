"""Sampling settings of a model (standard library only). Settings of a clip are in request.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of a model.

    Attributes:
        guidance_interval: lowest and highest guided timestep as shares of all timesteps (Kynkäänniemi et al.
            2024, arXiv 2404.07724).
        segment: frames per segment of longer clips. None denoises all frames at once.
        context: minimum number of conditioning frames from the previous segment.
        window: frames per temporal window, if the clip is longer than the positional embeddings. Defaults to
            the number of positions. Overlapping windows are averaged at every step.
        flicker: variance of latents over time that is removed in static regions (deflicker.py).
    """

    guidance_interval: tuple[float, float] = (0.0, 1.0)
    segment: int | None = None
    context: int = 0
    window: int | None = None
    flicker: float = 0.0
