"""Settings of sampling and speed of a model, and their version (standard library only). Clips: request.py."""

from dataclasses import dataclass

from lumiere.request import FREE_INIT, MOTION_SCALE

# Raise it whenever the embedded model produces another clip for the same request: after a change of its
# weights, of its default settings, or of the code between a request and its frames. Evaluation records
# (`python -m lumiere.paperworld evaluate`) belong to one version. Three clips of fixed seeds check it.
SAMPLING_VERSION = 3


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
        free_noise: applies temporal attention in windows of `window` frames instead, and repeats the noise of
            the first window (FreeNoise, Qiu et al. 2023, arXiv 2310.15169). For AnimateDiff adapters.
        free_init: passes over the whole clip. Each further pass starts from noise with the low frequencies of
            the clip so far (FreeInit, Wu et al. 2023, arXiv 2312.07537).
        free_u: amplifies the backbone features of the base and attenuates its skip features (FreeU, Si et al.
            2023, arXiv 2309.11497).
        motion_scale: multiplies what the layers of AnimateDiff adapters add; 1 as trained.
        loop: makes each clip a loop, also if its request does not ask for one.
        flicker: variance of latents over time that is removed in static regions (`noise.steady`).

    Raises:
        ValueError: a value that an option sets is out of range.
    """

    guidance_interval: tuple[float, float] = (0.0, 1.0)
    segment: int | None = None
    context: int = 0
    window: int | None = None
    free_noise: bool = False
    free_init: int = 1
    free_u: bool = False
    motion_scale: float = 1.0
    loop: bool = False
    flicker: float = 0.0

    def __post_init__(self) -> None:
        (least, most), (fewest, highest) = MOTION_SCALE, FREE_INIT
        if not least <= self.motion_scale <= most:
            raise ValueError(
                f"the motion scale must be from {least:g} to {most:g}: received {self.motion_scale:g}."
            )
        if not fewest <= self.free_init <= highest:
            raise ValueError(f"FreeInit takes {fewest} to {highest} passes: received {self.free_init}.")


STORAGE = {"fp8": "float8_e4m3fn", "bf16": "bfloat16"}  # name of an option -> dtype of torch


@dataclass(frozen=True)
class Speed:
    """What a model gives for speed and memory. The frames stay the same, except with `storage`.

    Attributes:
        compile: compiles the transformer blocks at their first call (regional compilation).
        channels_last: stores the weights of convolutions with the channels last.
        storage: dtype of the weights at rest, one of `STORAGE`; each layer is converted while it runs.
        group_offload: keeps weights on the CPU and moves each layer to the device while it runs.

    Raises:
        ValueError: the storage does not exist.
    """

    compile: bool = False
    channels_last: bool = False
    storage: str | None = None
    group_offload: bool = False

    def __post_init__(self) -> None:
        if self.storage is not None and self.storage not in STORAGE:
            raise ValueError(f"storage must be one of {', '.join(STORAGE)}: received {self.storage}.")
