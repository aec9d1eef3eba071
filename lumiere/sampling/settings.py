"""How a model's clips are denoised (standard library only)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How a model's clips are denoised, apart from what a request says.

    Attributes:
        guidance_interval: lowest and highest share of the timesteps at which guidance counts (Kynkäänniemi et
            al. 2024, arXiv 2404.07724).
        segment: frames that are denoised at once, where longer clips are continued segment by segment; None
            denoises all frames at once.
        context: frames of a segment, at least, that are given: the last ones of the segment before it.
        window: frames that the model sees at once, where the motion weights have positions for fewer frames
            than the clip has; their own by default. Overlapping windows are averaged at every step.
        flicker: variance of latents over time that is taken out where nothing moves (deflicker.py).
    """

    guidance_interval: tuple[float, float] = (0.0, 1.0)
    segment: int | None = None
    context: int = 0
    window: int | None = None
    flicker: float = 0.0
