"""Checkpoints of lumiere-pytorch 0.0.24 give here what they give there.

`python -m tests.model.test_reference` prints the largest differences. Weights are random, those of the
projections and of the resampling included, so that every parameter matters. Its convolution block has had
group norm up to 0.0.22 and a norm along the last axis since; the former is put together from the latter's
parts.
"""

import lumiere_pytorch as reference
import pytest
import torch
from torch import Tensor, nn

from lumiere.model import layers
from lumiere.model.lumiere import Lumiere

WIDTH, CLIPS, FRAMES = 16, 2, 8


def shaken(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return layer


def block(name: str, **options) -> tuple[Tensor, Tensor]:
    """What a block of ours and one of theirs with the same weights make of two clips."""
    if name.startswith("Temporal"):
        theirs = getattr(reference, name)(WIDTH)
    else:
        theirs = getattr(reference, name)(dim=WIDTH, **options)
    if name.startswith("Convolution"):
        options["norm"] = "rms"
    return side_by_side(theirs, getattr(layers, name)(dim=WIDTH, **options))


def group_norm() -> tuple[Tensor, Tensor]:
    theirs = reference.ConvolutionInflationBlock(dim=WIDTH)
    theirs.spatial_conv[1] = nn.GroupNorm(8, WIDTH)
    theirs.temporal_conv[1] = nn.GroupNorm(8, WIDTH)
    return side_by_side(theirs, layers.ConvolutionInflationBlock(dim=WIDTH))


@torch.no_grad()
def side_by_side(theirs: nn.Module, ours: nn.Module) -> tuple[Tensor, Tensor]:
    ours.load_state_dict(shaken(theirs).state_dict())
    clip = torch.randn(CLIPS, WIDTH, FRAMES, 5, 3)
    images = clip.transpose(1, 2).flatten(0, 1)  # b c t h w -> (b t) c h w
    expected = theirs(clip).transpose(1, 2).flatten(0, 1)
    if not isinstance(ours, layers.TemporalUpsample | layers.TemporalDownsample):  # theirs take clips only
        torch.testing.assert_close(theirs(images, batch_size=CLIPS), expected)
    return ours(images, batch_size=CLIPS), expected


def channel_last() -> tuple[Tensor, Tensor]:
    """Theirs with `channel_last` moves the wrong axis, so that it runs only where all three are equal."""
    theirs = shaken(reference.AttentionInflationBlock(dim=WIDTH, heads=2, dim_head=8))
    ours = layers.AttentionInflationBlock(dim=WIDTH, heads=2, dim_head=8, channel_last=True)
    ours.load_state_dict(theirs.state_dict())
    clip = torch.randn(CLIPS, FRAMES, 5, 3, WIDTH)
    with torch.no_grad():
        return ours(clip), theirs(clip.movedim(-1, 1)).movedim(1, -1)


class Block(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv, self.embed = nn.Conv2d(before, after, 3, padding=1), nn.Linear(1, after)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(self.conv(x) + self.embed(time[:, None])[:, :, None, None])


class Join(nn.Module):
    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((x, skip), dim=1)


class PlainUnet(nn.Module):
    """Three levels; a skip is taken before its resolution is halved, or after."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.middle = Block(3, 16), Block(16, 16), Block(16, 24)
        self.downs = nn.ModuleList(nn.Conv2d(16, 16, 2, stride=2) for _ in range(2))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(width, 16, 2, stride=2) for width in (24, 16))
        self.joins = nn.ModuleList(Join() for _ in range(2))
        self.third, self.last, self.out = Block(32, 16), Block(32, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        outer = self.first(x, time)
        inner = self.second(self.downs[0](outer), time)
        x = self.middle(self.downs[1](inner), time)
        x = self.third(self.joins[0](self.ups[0](x), inner), time)
        return self.out(self.last(self.joins[1](self.ups[1](x), outer), time))


NAMES = {
    "conv_module_names": ["last", "second", "first", "third"],
    "attn_module_names": ["middle"],
    "downsample_module_names": ["downs.1", "downs.0"],
    "upsample_module_names": ["ups.0", "ups.1"],
}


@torch.no_grad()
def wrapper(**changes) -> tuple[Tensor, Tensor]:
    base = PlainUnet()
    options = {"image_size": 8, "unet_time_kwarg": "time", **NAMES, **changes}
    options["attn_inflation_kwargs"] = {"depth": 2, "heads": 2, "dim_head": 8}
    theirs = reference.Lumiere(base, **options)
    for weight in theirs.parameters():
        weight += 0.1 * torch.randn_like(weight)
    ours = Lumiere(base, **options, conv_inflation_kwargs={"norm": "rms"})
    checkpoint = theirs.state_dict()
    ours.load_state_dict({key: checkpoint[key] for key in checkpoint if not key.startswith("model.")})
    clips, time = torch.randn(CLIPS, 3, FRAMES, 8, 8), torch.tensor([0.3, 0.8])
    return ours(clips, time=time), theirs(clips, time=time)


CASES = {
    "convolution": lambda: block("ConvolutionInflationBlock"),
    "convolution, kernels 5 and 7": lambda: block(
        "ConvolutionInflationBlock", conv2d_kernel_size=5, conv1d_kernel_size=7
    ),
    "convolution with group norm": group_norm,
    "attention": lambda: block("AttentionInflationBlock"),
    "attention, depth 3, 2 heads": lambda: block("AttentionInflationBlock", depth=3, heads=2, dim_head=8),
    "attention without prenorm": lambda: block("AttentionInflationBlock", prenorm=False),
    "attention without residual": lambda: block("AttentionInflationBlock", residual_attn=False, depth=2),
    "attention, no prenorm, no residual": lambda: block(
        "AttentionInflationBlock", prenorm=False, residual_attn=False
    ),
    "attention, options of x-transformers": lambda: block(
        "AttentionInflationBlock", heads=2, dim_head=8, qk_norm=True, causal=True
    ),
    "attention, channel last": channel_last,
    "downsampling": lambda: block("TemporalDownsample"),
    "upsampling": lambda: block("TemporalUpsample"),
    "whole wrapper": wrapper,
    "whole wrapper, two layers after a module": lambda: wrapper(attn_module_names=["third", "middle"]),
    "whole wrapper, skips of other frames": lambda: wrapper(downsample_module_names=["first", "second"]),
}


def differences() -> dict[str, float]:
    """Largest difference between our output and the reference's, for every case."""
    found = {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        ours, theirs = case()
        assert ours.shape == theirs.shape
        found[name] = (ours - theirs).abs().max().item()
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, float]:
    return differences()


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_give_the_output_of_the_reference(found, case):
    print(f"{case}: {found[case]:.1e}")
    assert found[case] <= 1e-5


if __name__ == "__main__":
    for case, difference in differences().items():
        print(f"{case:42} {difference:.1e}")
