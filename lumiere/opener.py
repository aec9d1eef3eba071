"""How a clip begins: its first frames from a still and the prompt, in one call of a small network.

The base draws well what stands still, and motion weights that denoise a clip from noise may lose the shape
of what turns. So the base draws what the clip shows before it moves, and a network tells how it moves from
there. What is left open, as how fast, is told in several versions, of which each clip of the training counted
for the nearest (multiple choice learning, Guzman-Rivera et al. 2012), with how likely each is. The clip then
begins as the likeliest, with noise, as one that goes on begins as its forecast (forecaster.py). So does a
clip of which the first frame alone is given, with that in place of the still.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .convnet import FrameNet
from .layers import zeros_

BEGINS = 0.2  # share of the timesteps from which an opening is denoised


class Opener(FrameNet):
    """Versions of the frames that follow: stills `b c 1 h w`, text `b n d` -> `b k c t h w`, logits `b k`.

    Stills and clips are scaled latents; the text is what the base is told, of which the mean over n is seen.
    `rest` makes of a text (b n d) that of a still in which nothing moves yet, for the base.

    channels: of a latent. frames, versions: t and k. text_width: d. hidden: channels within `rest`. Other
    arguments are told to `FrameNet.build`. Height and width are even.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 4,
        frames: int = 16,
        versions: int = 4,
        text_width: int = 128,
        embedding: int = 64,
        hidden: int = 256,
        widths: tuple[int, int] = (96, 184),
        depths: tuple[int, int] = (2, 4),
        groups: int = 8,
        padding_mode: str = "circular",
    ):
        super().__init__()
        outputs = versions * frames * channels
        self.build(channels, outputs, widths, depths, groups, padding_mode, text_width, embedding)
        self.likely = nn.Linear(widths[1] + embedding, versions)
        nn.init.normal_(self.conv_out.weight, std=0.002)  # versions that are the same would learn the same
        nn.init.zeros_(self.conv_out.bias)
        zeros_(self.likely)
        layer = {"nhead": 4, "dim_feedforward": hidden, "dropout": 0.0, "activation": "gelu"}
        self.rest = nn.Sequential(
            nn.TransformerEncoderLayer(text_width, **layer, batch_first=True, norm_first=True),
            nn.Linear(text_width, text_width),
        )

    def forward(self, still: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embed(text.mean(1))
        x, half = self.features(still[:, :, 0], embedding)
        likely = self.likely(torch.cat([F.silu(half).mean((2, 3)), embedding], dim=1))
        change = self.conv_out(F.silu(x)).unflatten(1, (self.config.versions, self.config.frames, -1))
        return still[:, None] + change.transpose(2, 3), likely  # b k t c h w -> b k c t h w

    def likeliest(self, still: Tensor, text: Tensor) -> Tensor:
        """The likeliest version of a single clip: `1 c 1 h w`, `1 n d` -> `1 c t h w`, float32."""
        versions, likely = self(still.to(self.dtype), text)
        return versions[:, likely[0].argmax()].float()
