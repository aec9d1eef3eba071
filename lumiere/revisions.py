"""A clip denoised again from much noise, several times, before its details are made.

What a small model gets wrong while motion is decided stays wrong, however well the later steps denoise.
Noise put on the clip that is predicted by then hides what is wrong in it sooner than what is right, and is
taken off again with that to go by: SDEdit (Meng et al. 2022) of the model's own clip, much like Restart
sampling (Xu et al. 2023, arXiv 2306.14878).
"""

from collections.abc import Sequence

HIGH = 0.85  # share of the timesteps from which a clip is denoised again


def passes(timesteps: Sequence[float], high: float, low: float, revisions: int) -> list[slice]:
    """Which of the timesteps (descending) are run one after another, as parts of the list.

    The first pass is down to the first timestep below `low`. Each revision is from the first that is not
    above `high` down to the same, and the last one goes on to the end. Without revisions, or where none of
    the timesteps is between `high` and `low`, all is one pass.
    """
    begin = sum(timestep > high for timestep in timesteps)
    end = sum(timestep >= low for timestep in timesteps) + 1
    if not revisions or begin >= end - 1 or end > len(timesteps):
        return [slice(0, len(timesteps))]
    return [slice(0, end), *[slice(begin, end)] * (revisions - 1), slice(begin, len(timesteps))]
