"""A small convolutional network for which the frames of a clip are channels: what forecasts are made by."""

from functools import partial

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn

from .layers import zeros_


class FrameNet(ModelMixin, ConfigMixin):
    """Residual layers at full size, at half size, and at full size again, which see both; see `build`."""

    def build(
        self,
        inputs: int,
        outputs: int,
        widths: tuple[int, int],
        depths: tuple[int, int],
        groups: int,
        padding_mode: str,
        text_width: int,
        embedding: int,
    ) -> None:
        """Makes the layers.

        inputs, outputs: channels. widths, depths: channels and residual layers at full and at half size;
        those at full size are there twice, on the way down and up. padding_mode: what convolutions see beyond
        an edge. text_width: channels of a text. embedding: channels that it becomes before all layers are
        told it.
        """
        (full, half), (outer, inner) = widths, depths
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode=padding_mode)

        def layers(width: int, depth: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualLayer(conv, width, groups, embedding) for _ in range(depth))

        self.conv_in = conv(inputs, full)
        self.down, self.downsample = layers(full, outer), conv(full, half, stride=2)
        self.mid = layers(half, inner)
        self.upsample, self.join = nn.Conv2d(half, 4 * full, 1), nn.Conv2d(2 * full, full, 1)
        self.up = layers(full, outer)
        self.conv_out = conv(full, outputs)
        self.embed = nn.Sequential(
            nn.Linear(text_width, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )

    def features(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """`b c h w`, height and width even -> what `conv_out` is shown, and what there is at half size.

        embedding: `embed` of the mean of a text's states, `b d`.
        """
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        for layer in self.down:
            x = layer(x, embedding)
        half = self.downsample(x)
        for layer in self.mid:
            half = layer(half, embedding)
        x = self.join(torch.cat([x, F.pixel_shuffle(self.upsample(half), 2)], dim=1))
        for layer in self.up:
            x = layer(x, embedding)
        return x, half


class ResidualLayer(nn.Module):
    """Twice a group norm, SiLU and a convolution, whose sum starts as what comes in.

    An embedding (b d) scales and shifts what the second norm gives, at first not at all.
    """

    def __init__(self, conv, width: int, groups: int, embedding: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, width), conv(width, width)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width), conv(width, width)
        zeros_(self.conv2)
        self.modulation = nn.Linear(embedding, 2 * width)
        zeros_(self.modulation)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        y = self.norm2(self.conv1(F.silu(self.norm1(x))))
        return x + self.conv2(F.silu(y * (1 + scale) + shift))
