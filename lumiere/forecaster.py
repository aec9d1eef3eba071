"""What a clip will go on as: its next frames from those before, in one call of a small network.

The motion weights denoise a part of a clip that goes on from noise, where little is to be seen yet: which
pace a thing goes at is decided there. What comes is nearly certain, though, from how it went before, and a
network that tells only the mean of what may come (as SimVP does, Gao et al. 2022, arXiv 2206.05099) learns
that from far fewer clips than one that denoises. The part then begins as its forecast, with noise, as a clip
of a strength below 1 does, and the model makes sharp what is blurred in it.
"""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .layers import zeros_

BEGINS = 0.65  # share of the timesteps from which a forecast is denoised
STILL = 0.01  # variance over time, at most, of latents where nothing moves


class Forecaster(ModelMixin, ConfigMixin):
    """The next frames of a clip from as many before them: `b c t h w -> b c t h w`, scaled latents.

    channels: of a latent. frames: t, always this many. widths, depths: channels and residual layers at full
    and at half size; those at full size are there twice, on the way down and up. Frames are channels to the
    convolutions, which compare all of them at once. padding_mode: what these see beyond an edge.

    Height and width are even. Raises ValueError for other numbers of frames.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 4,
        frames: int = 16,
        widths: tuple[int, int] = (128, 256),
        depths: tuple[int, int] = (2, 4),
        groups: int = 8,
        padding_mode: str = "circular",
    ):
        super().__init__()
        (full, half), (outer, inner) = widths, depths

        def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode=padding_mode)

        def layers(width: int, depth: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualLayer(conv, width, groups) for _ in range(depth)))

        self.conv_in = conv(channels * frames, full)
        self.down, self.downsample = layers(full, outer), conv(full, half, stride=2)
        self.mid = layers(half, inner)
        self.upsample, self.join = nn.Conv2d(half, 4 * full, 1), nn.Conv2d(2 * full, full, 1)
        self.up = layers(full, outer)
        self.conv_out = conv(full, channels * frames)
        zeros_(self.conv_out)

    def forward(self, clip: Tensor) -> Tensor:
        frames = self.config.frames
        if clip.shape[2] != frames:
            raise ValueError(f"The next frames are told from {frames}; received {clip.shape[2]}.")
        x = clip.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)  # b (t c) h w
        x = self.down(self.conv_in(x))
        y = F.pixel_shuffle(self.upsample(self.mid(self.downsample(x))), 2)
        y = self.conv_out(self.up(self.join(torch.cat([x, y], dim=1))))
        return y.unflatten(1, (frames, -1)).transpose(1, 2) + clip.mean(2, keepdim=True)


class ResidualLayer(nn.Module):
    """Twice a group norm, SiLU and a convolution, whose sum starts as what comes in."""

    def __init__(self, conv, width: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, width), conv(width, width)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width), conv(width, width)
        zeros_(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


def with_what_stands_still(told: Tensor, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What is given of a window, and all that does not move in it, there and next to it, as it is told.

    told, latents: `1 c t h w`. mask: which latents are given, bool (t h w). Of what stands still a forecast
    is all but certain, and small motion weights would make something else of it.
    """
    moves = (told.var(2).mean(1) > STILL).float()
    still = F.max_pool2d(moves, 3, stride=1, padding=1)[0] == 0  # h w
    return torch.where(mask, latents, told), mask | still
