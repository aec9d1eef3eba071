"""Denoiser: a model's forward pass with guidance, temporal windows and conditioning."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lumiere.model.conditioning import Cond, blend, channels
from lumiere.model.text import Text
from lumiere.sampling.schedulers import Schedule
from lumiere.sampling.temporal_windows import in_windows

GOLDEN = 0.618034  # share of the clip between the shifts of two steps: near each other only after many steps
BATCH_LATENTS = 2**16  # largest clip for a batch of two: 16 frames of 64 x 64 latents


@dataclass(frozen=True)
class Denoiser:
    """Maps noisy latents `1 c t h w` and a timestep to a prediction and clean latents of the same shape.

    Attributes:
        model: maps clips, a timestep and the arguments of a `Text` to a prediction.
        schedule: converts between predictions and clean latents.
        text: the prompt, or the negative prompt and the prompt with guidance.
        guidance: scale of classifier-free guidance (Ho and Salimans 2022), ignored for one row of text.
        interval: lowest and highest guided timestep (Kynkäänniemi et al. 2024, arXiv 2404.07724). Other
            timesteps use the prompt alone.
        windows: frames of each forward pass. Predictions are averaged where windows overlap.
        cond: conditioning latents, which replace predicted latents.
        cond_channels: whether the model takes conditioning latents and their mask as further channels.
        device: device of the model.
        dtype: dtype of the model.
        autocast: whether the model multiplies in bfloat16, for processors with bfloat16 support.
    """

    model: Callable[..., tuple[Tensor, ...]]
    schedule: Schedule
    text: Text
    guidance: float
    interval: tuple[float, float]
    windows: list[slice]
    cond: Cond | None
    cond_channels: bool
    device: torch.device
    dtype: torch.dtype
    autocast: bool = False

    def __call__(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts clean latents at a timestep.

        Args:
            x: scaled noisy latents `1 c t h w`.
            timestep: the timestep, a scalar tensor.

        Returns:
            The prediction and the clean latents, float32 `1 c t h w`, both consistent with the conditioning.
        """
        shown = x
        if self.cond and self.cond_channels:
            shown = torch.cat([x, channels(*self.cond)], dim=1)
        low, high = self.interval
        guided = len(self.text) > 1 and low <= timestep <= high
        text = self.text if guided else self.text.last()

        def denoise(clip: Tensor, window: slice) -> Tensor:
            return self._guided(clip, timestep, text.at(window))

        prediction = in_windows(denoise, shown, self.windows)
        pred_x0 = self.schedule.pred_x0(prediction, x, timestep)
        if self.cond:
            pred_x0 = blend(pred_x0, *self.cond)
            prediction = self.schedule.prediction(pred_x0, x, timestep)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)  # timing and stopping refer to this step
        return prediction, pred_x0

    def _guided(self, clip: Tensor, timestep: Tensor, text: Text) -> Tensor:
        """Returns the prediction for one window, guided if there are two texts.

        Long clips run once per text: a batch of two saves less than a tenth of the time and doubles the
        memory.
        """
        clip, timestep = clip.to(self.dtype), timestep.to(self.device)
        predictions = []
        for rows in text.split(rows_at_once(len(text), clip[0, 0].numel())):
            clips = clip.expand(len(rows), -1, -1, -1, -1)  # 1 c t h w -> 1|2 c t h w
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                prediction = self.model(clips, timestep, return_dict=False, **rows.arguments)[0]
            predictions.append(prediction.float())
        negative, *positive = torch.cat(predictions).split(1)
        return negative + self.guidance * (positive[0] - negative) if positive else negative


class Looped:
    """Denoises a clip as a loop: each step starts the clip at another frame (latent shift of Mobius).

    Bi et al. 2025, arXiv 2502.20307. At almost all steps the model sees the last frame before the first one.

    Args:
        denoiser: the denoiser of the clip.
        frames: length of the clip.
        factor: temporal downsample factor. Shifts are a multiple of it.
    """

    def __init__(self, denoiser: Denoiser, frames: int, factor: int):
        self.denoiser, self.frames, self.factor = denoiser, frames, factor
        self._step = count()

    def __call__(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts clean latents at a timestep, see `Denoiser`."""
        places = self.frames // self.factor
        shift = self.factor * (round(next(self._step) * places * GOLDEN) % places)
        text, cond = self.denoiser.text.rolled(-shift), self.denoiser.cond
        denoiser = replace(self.denoiser, text=text, cond=cond and cond.rolled(-shift))
        prediction, pred_x0 = (clip.roll(shift, 2) for clip in denoiser(x.roll(-shift, 2), timestep))
        return prediction, pred_x0


def rows_at_once(texts: int, latents: int) -> int:
    """Returns the number of texts per forward pass.

    Args:
        texts: number of texts.
        latents: size of the clip, t x h x w.
    """
    return texts if latents <= BATCH_LATENTS else 1


def on_one_frame(unet: nn.Module) -> Callable[..., tuple[Tensor]]:
    """Wraps a diffusers image UNet as a model of clips with one frame, `b c 1 h w`."""

    def forward(clip: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        return (unet(clip[:, :, 0].contiguous(), *args, **kwargs)[0].unsqueeze(2),)

    return forward
