"""One call of the denoiser: guidance, temporal windows and given pixels around a model's forward pass."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lumiere.model.conditioning import Cond, blend, channels
from lumiere.model.text import Text
from lumiere.sampling.schedulers import Schedule
from lumiere.sampling.temporal_windows import in_windows

BATCH_LATENTS = 2**16  # clips up to here are denoised twofold in one call: 16 frames of 64 x 64


@dataclass(frozen=True)
class Denoiser:
    """Maps noisy latents `1 c t h w` and a timestep to a prediction and to clean latents of that shape.

    Attributes:
        model: called with clips, a timestep and the arguments of a `Text`; returns a prediction.
        schedule: converts between predictions and clean latents.
        text: one row, or with guidance two: of the negative prompt, then of the prompt.
        guidance: scale of classifier-free guidance (Ho and Salimans 2022); without effect for one row.
        interval: lowest and highest timestep at which guidance counts (Kynkäänniemi et al. 2024, arXiv
            2404.07724). At others the model sees the prompt alone.
        windows: frames that the model sees at once. Predictions are averaged where windows overlap.
        cond: given latents. They replace what is predicted, and with `cond_channels` the model sees them.
        cond_channels: whether the model takes given latents and their mask as further channels.
        device, dtype: of the model.
        autocast: whether the model multiplies in bfloat16, for processors that do.
    """

    model: Callable[..., Tensor]
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
        """The prediction and the clean latents at this timestep, both float32 with given latents put in."""
        shown = x
        if self.cond and self.cond_channels:
            shown = torch.cat([x, channels(*self.cond)], dim=1)
        low, high = self.interval
        guided = len(self.text) > 1 and low <= timestep <= high
        text = self.text if guided else self.text.last()
        prediction = in_windows(lambda part: self._guided(part, timestep, text), shown, self.windows)
        pred_x0 = self.schedule.pred_x0(prediction, x, timestep)
        if self.cond:
            pred_x0 = blend(pred_x0, *self.cond)
            prediction = self.schedule.prediction(pred_x0, x, timestep)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)  # so that time and stop mean this step
        return prediction, pred_x0

    def _guided(self, clip: Tensor, timestep: Tensor, text: Text) -> Tensor:
        """The prediction for one window, guided where there are two texts.

        A long clip is shown to the model twice rather than twofold: a batch saves less than a tenth of the
        time and takes twice the memory.
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


def rows_at_once(texts: int, latents: int) -> int:
    """How many of the texts a clip of so many latents, t x h x w, is shown with in one call."""
    return texts if latents <= BATCH_LATENTS else 1


def on_one_frame(unet: nn.Module) -> Callable[..., tuple[Tensor]]:
    """An image UNet of diffusers as a model of clips of one frame, `b c 1 h w`."""

    def forward(clip: Tensor, *args, **kwargs) -> tuple[Tensor]:
        return (unet(clip[:, :, 0].contiguous(), *args, **kwargs)[0].unsqueeze(2),)

    return forward
