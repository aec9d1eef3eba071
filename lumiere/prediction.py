"""What a space-time model sees in noisy clips: guided, in windows over time, with given pixels put in."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .conditioning import blend, channels
from .inflate import Lumiere
from .sampling import Sampler
from .stills import guided
from .text import Text
from .windows import in_windows, windows

BATCH_LATENTS = 2**16  # clips up to here are denoised twofold in one call: 16 frames of 64 x 64
WINDOW, OVERLAP = 128, 0.25  # frames denoised at once, and the share of them that two windows have in common


@dataclass(frozen=True)
class Predictor:
    """A space-time model as it is shown clips.

    device, dtype: where and in what it is called. window: frames that it is shown at once of a clip that has
    more than it can tell apart, or, if it can tell any number apart, more than this; as many as it can tell
    apart, or `WINDOW`, unless given.
    """

    lumiere: Lumiere
    device: torch.device
    dtype: torch.dtype
    window: int | None = None

    @torch.inference_mode()
    def __call__(
        self,
        sampler: Sampler,
        model_input: Tensor,
        timestep: Tensor,
        text: Text,
        guidance: float,
        known: tuple[Tensor, Tensor] | None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The model's output and the clean latents it stands for, with what is known of them put in.

        All float32 (1 c t h w). before: the clean latents that the step before predicted.
        """
        shown, before = model_input, before if self.lumiere.self_conditioned else None
        if self.lumiere.given_channels and (known or before is not None):
            nothing = torch.zeros_like(shown), torch.zeros_like(shown[0, 0], dtype=torch.bool)
            shown = torch.cat([shown, channels(*(known or nothing), before)], dim=1)
        output = in_windows(
            lambda x: self.output(x, timestep, text, guidance), shown, self.parts(shown.shape[2])
        )
        clean = sampler.clean(output, model_input, timestep)
        if known:
            clean = blend(clean, *known)
            output = sampler.output(clean, model_input, timestep)
        return output, clean

    def output(self, model_input: Tensor, timestep: Tensor, text: Text, guidance: float) -> Tensor:
        """The model's output, float32 (1 c t h w); classifier-free guidance when given two texts.

        A long clip is shown to the model twice rather than twofold: a batch saves less than a tenth of the
        time and takes twice the memory.
        """
        clip, timestep = model_input.to(self.dtype), timestep.to(self.device)
        outputs = []
        for rows in text.split(rows_at_once(len(text), clip[0, 0].numel())):
            clips = clip.expand(len(rows), -1, -1, -1, -1)  # 1 c t h w -> 1|2 c t h w
            output = self.lumiere(clips, timestep, return_dict=False, **rows.arguments)[0]
            outputs.append(output.float())
        return guided(torch.cat(outputs), guidance)

    def base(self) -> nn.Module:
        """The text-to-image model alone, which comes to the device where parts take turns on it."""
        hook = getattr(self.lumiere, "_hf_hook", None)  # of accelerate, at work in calls of the whole only
        if hook is not None:
            hook.pre_forward(self.lumiere)
        return self.lumiere.model

    def parts(self, frames: int) -> list[slice]:
        """The frames denoised at once; adapters are shown all of a clip, if they have as many positions."""
        positions = self.lumiere.kwargs["attns"].get("positions")
        length = self.window or positions or WINDOW
        if positions:
            length = positions if frames <= positions else min(length, positions)
        return windows(frames, length, int(OVERLAP * length), self.lumiere.downsample_factor)


def rows_at_once(texts: int, latents: int) -> int:
    """Of so many texts those that a clip of so many latents, t x h x w, is shown with in one call."""
    return texts if latents <= BATCH_LATENTS else 1
