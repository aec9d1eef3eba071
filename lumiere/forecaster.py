"""What a clip will go on as: its next frames from those before, in one call of a small network.

The motion weights denoise a part of a clip that goes on from noise, where little is to be seen yet: which
pace a thing goes at is decided there. What comes is nearly certain, though, from how it went before, and a
network that tells only the mean of what may come (as SimVP does, Gao et al. 2022, arXiv 2206.05099) learns
that from far fewer clips than one that denoises. It is told the prompt, too: by that a thing that has lost
some of its shape gets it back. The part then begins as its forecast, with noise, as a clip of a strength
below 1 does, and the model makes sharp what is blurred in it. The last frames before it are made again with
it, and the clip goes over from what they were, so that nothing jumps where the part begins.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from .convnet import FrameNet
from .layers import zeros_
from .repeats import repeated
from .windows import joined

BEGINS = 0.5  # share of the timesteps from which a forecast is denoised
AGAIN = 4  # frames before a forecast that are made again with it
STILL = 0.01  # mean square, at most, of a change of latents where nothing moves
REMEMBERED = 64  # frames before a forecast in which what stands still is looked for: bounds its memory


class Forecaster(FrameNet):
    """The next frames of a clip from as many before them: `b c t h w`, text `b n d` -> `b c t h w`.

    Clips are scaled latents; of the text, what the base is told, the mean over n is seen.

    channels: of a latent. frames: t, always this many. text_width: d. The rest is told to `FrameNet.build`.

    Height and width are even. Raises ValueError for other numbers of frames.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 4,
        frames: int = 16,
        text_width: int = 128,
        embedding: int = 64,
        widths: tuple[int, int] = (128, 256),
        depths: tuple[int, int] = (2, 4),
        groups: int = 8,
        padding_mode: str = "circular",
    ):
        super().__init__()
        self.build(
            channels * frames,
            channels * frames,
            widths,
            depths,
            groups,
            padding_mode,
            text_width,
            embedding,
        )
        zeros_(self.conv_out)

    def forward(self, clip: Tensor, text: Tensor) -> Tensor:
        frames = self.config.frames
        if clip.shape[2] != frames:
            raise ValueError(f"The next frames are told from {frames}; received {clip.shape[2]}.")
        x, _ = self.features(clip.transpose(1, 2).flatten(1, 2), self.embed(text.mean(1)))  # b (t c) h w
        return self.conv_out(x).unflatten(1, (frames, -1)).transpose(1, 2) + clip.mean(2, keepdim=True)

    def window(self, clip: Tensor, window: slice, text: Tensor) -> Tensor:
        """The frames of a window: those that the clip (1 c t h w) has, and what is told of those after.

        That is what came then, where the clip has been there before (repeats.py).
        """
        told = repeated(clip, self.config.frames)
        if told is None:
            told = self(clip[:, :, -self.config.frames :].to(self.dtype), text).to(clip)
        return joined(clip, told, slice(clip.shape[2], None))[:, :, window]


def with_what_stands_still(
    told: Tensor, known: tuple[Tensor, Tensor] | None, before: Tensor
) -> tuple[Tensor, Tensor]:
    """What is given of a window, and in each frame all where it is told to show what stood there before.

    told: `1 c t h w`. known, and the result: latents of that shape, and which of them are given, bool
    (t h w). before: frames that the window goes on from, `1 c n h w`. Of what a thing leaves alone or
    uncovers a forecast is all but certain, and small motion weights would make something else of it. So it is
    as it was, but for places next to what moves.
    """
    latents, mask = known or (told, torch.zeros_like(told[0, 0], dtype=torch.bool))
    ground = most_shown(before[:, :, -REMEMBERED:])
    moves = (told - ground).square().mean(1) > STILL  # 1 t h w
    still = F.max_pool2d(moves.float(), 3, stride=1, padding=1)[0] == 0
    return torch.where(mask, latents, ground), mask | still


def most_shown(clip: Tensor) -> Tensor:
    """What each place of a clip, `1 c t h w`, shows in more of its frames than anything else: `1 c 1 h w`."""
    apart = (clip.unsqueeze(3) - clip.unsqueeze(2)).square().mean(1)  # 1 t t h w
    frame = (apart <= STILL).sum(2).argmax(1)  # 1 h w
    return clip.gather(2, frame[:, None, None].expand(-1, clip.shape[1], -1, -1, -1))
