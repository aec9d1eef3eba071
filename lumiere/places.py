"""Where temporal layers go: found in a UNet of diffusers, or by name in any other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

KINDS = ("convs", "attns", "downsamples", "upsamples")  # also their order where several follow one module


@dataclass(frozen=True)
class Places:
    """Where the layers go: name of a module of the base -> channels of its output, in order of execution."""

    convs: dict[str, int] = field(default_factory=dict)
    attns: dict[str, int] = field(default_factory=dict)
    downsamples: dict[str, int] = field(default_factory=dict)
    upsamples: dict[str, int] = field(default_factory=dict)
    # Modules that are given features and conditioning (time embedding, text): the rows of both have to agree.
    conditioned: list[str] = field(default_factory=list)


def unet_places(unet: nn.Module, factor: int) -> Places:
    """The places of the paper in a `UNet2DConditionModel` of diffusers.

    Convolutions follow every residual(+attention) layer but those of the coarsest level; attention follows
    those and the middle. A `factor` below the spatial one compresses time at the finest levels, to save most.
    """
    places = Places()
    levels = len(unet.down_blocks)
    steps = factor.bit_length() - 1
    if factor < 1 or 2**steps != factor or steps > levels - 1:
        most = 2 ** (levels - 1)
        raise ValueError(f"The factor must be a power of two up to {most} on this UNet; received {factor}.")

    def visit(path: str, level: int) -> None:
        block = unet.get_submodule(path)
        layers = "attentions" if getattr(block, "attentions", None) else "resnets"
        for j in range(len(getattr(block, layers))):
            kind = places.attns if level == levels - 1 else places.convs
            kind[f"{path}.{layers}.{j}"] = block.resnets[j].out_channels
        if path.startswith("down") and level < steps:
            places.downsamples[f"{path}.downsamplers.0"] = block.downsamplers[0].out_channels
        if path.startswith("up") and 0 < level <= steps:
            places.upsamples[f"{path}.upsamplers.0"] = block.upsamplers[0].out_channels

    for i in range(levels):
        visit(f"down_blocks.{i}", level=i)
    if unet.mid_block is not None:
        places.attns["mid_block"] = unet.mid_block.resnets[-1].out_channels
    for i in range(levels):
        visit(f"up_blocks.{i}", level=levels - 1 - i)
    for name, layers in unet.named_modules():
        if name.startswith(("down_blocks.", "mid_block.", "up_blocks.")) and name.count(".") <= 2:
            if isinstance(layers, nn.ModuleList):  # resnets, attentions, downsamplers, upsamplers of a block
                places.conditioned.extend(f"{name}.{j}" for j in range(len(layers)))
    return places


def find_places(
    model: nn.Module,
    names: dict[str, Sequence[str]],
    channel_last: dict[str, bool],
    image: Tensor,
    kwargs: dict,
) -> Places:
    """Sends one image through any UNet and notes what the layers and the conditioning need to know."""
    places, handles = Places(), []

    def note(module, args, kwargs, output, name):
        if name and sum(isinstance(x, Tensor) for x in tree_leaves((args, kwargs))) > 1:
            places.conditioned.append(name)
        for kind in KINDS:
            if name in names[kind]:
                if name in getattr(places, kind):
                    raise ValueError(f"A layer can follow a module that runs once; {name} runs more often.")
                output = output[0] if isinstance(output, tuple) else output
                getattr(places, kind)[name] = output.shape[-1 if channel_last[kind] else 1]

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(partial(note, name=name), with_kwargs=True))
        with torch.no_grad():
            model(image, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for kind in KINDS for name in names[kind] if name not in getattr(places, kind)]
    if unused:
        raise ValueError(f"The base has or uses no module named {', '.join(unused[:3])}.")
    return places
