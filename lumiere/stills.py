"""Stills by the base alone, one step after another."""

from collections.abc import Callable

from torch import Tensor, nn

from .sampling import Sampler
from .text import Text


def draw_still(
    base: nn.Module,
    sampler: Sampler,
    noise: Tensor,
    text: Text,
    guidance: float,
    stopped: Callable[[], bool],
) -> Tensor | None:
    """Scaled latents, float32 `1 c 1 h w`, from unit noise of that shape; None when it was stopped.

    base: a UNet of diffusers, shown both texts at once where there are two. stopped: asked before each step.
    """
    sample = sampler.start(noise)
    for timestep in sampler.timesteps:
        if stopped():
            return None
        shown = sampler.model_input(sample, timestep)[:, :, 0].to(base.dtype).expand(len(text), -1, -1, -1)
        output = base(shown, timestep.to(base.device), return_dict=False, **text.arguments)[0].float()
        sample = sampler.step(guided(output, guidance).unsqueeze(2), timestep, sample)
    return sample


def guided(outputs: Tensor, guidance: float) -> Tensor:
    """Of outputs `1 ...` or, for no prompt and the prompt, `2 ...`: what is gone on with, `1 ...`."""
    if len(outputs) == 1:
        return outputs
    without, output = outputs.chunk(2)
    return without + guidance * (output - without)
