"""Locations of the temporal layers, derived from a diffusers UNet or found by module names in any UNet."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

M = TypeVar("M", bound=nn.Module)
KINDS = ("convs", "attns", "downsamples", "upsamples")  # also their order after the same module


@dataclass(frozen=True)
class Places:
    """Locations of the layers: module name in the base -> output channels, in order of execution."""

    convs: dict[str, int] = field(default_factory=dict)
    attns: dict[str, int] = field(default_factory=dict)
    downsamples: dict[str, int] = field(default_factory=dict)
    upsamples: dict[str, int] = field(default_factory=dict)
    # Modules that receive only the embedding of timestep and text -> its width.
    embeddings: dict[str, int] = field(default_factory=dict)
    # Modules that receive features and conditioning (time embedding, text), whose rows have to match.
    conditioned: list[str] = field(default_factory=list)
    # Arguments with feature maps that the base adds -> number of temporal halvings at each addition.
    residuals: dict[str, list[int]] = field(default_factory=dict)


def unet_places(unet: "UNet2DConditionModel", factor: int, at_input: bool = False) -> Places:
    """Returns the paper's layer locations in a diffusers `UNet2DConditionModel` (Lumiere, section 3.1).

    Convolution blocks follow every residual(+attention) layer above the coarsest level. Attention blocks
    follow the layers of the coarsest level and the mid block.

    Args:
        unet: the base UNet.
        factor: temporal downsampling factor, a power of two. A factor below the spatial one downsamples the
            finest levels, which saves the most compute.
        at_input: whether a convolution block also follows the first convolution, which is not in the paper.
            It compares frames before the base processes the noise of each.

    Raises:
        ValueError: `unet` is not a diffusers UNet, or `factor` does not fit it.
    """
    if not hasattr(unet, "down_blocks") or not hasattr(unet, "time_proj"):
        wanted = "A UNet2DConditionModel of diffusers is inflated without naming its modules"
        raise ValueError(f"{wanted}; received a {type(unet).__name__}.")
    places = Places()
    levels = len(unet.down_blocks)
    steps = factor.bit_length() - 1
    if factor < 1 or 2**steps != factor or steps > levels - 1:
        most = 2 ** (levels - 1)
        raise ValueError(f"The factor must be a power of two up to {most} on this UNet; received {factor}.")

    if at_input:
        places.convs["conv_in"] = unwrapped(unet.conv_in).out_channels

    def visit(path: str, level: int) -> None:
        block, layers = unet.get_submodule(path), block_layers(unet, path)
        (places.attns if level == levels - 1 else places.convs).update(layers)
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
    for name, module in unet.named_modules():
        if name.endswith(".time_emb_proj"):
            places.embeddings[name] = unwrapped(module).in_features
    places.residuals.update(residual_levels(unet, places))
    return places


def adapter_places(unet: "UNet2DConditionModel", middle: bool) -> Places:
    """Returns the layer locations of AnimateDiff adapters, all of kind `attns`, without temporal resampling.

    Layers follow every residual(+attention) layer of all levels.

    Args:
        unet: a diffusers `UNet2DConditionModel`.
        middle: whether a layer also follows the attention of the mid block, before its last residual layer.
    """
    places = unet_places(unet, factor=1)
    paths = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]
    paths += ["mid_block"] * (middle and unet.mid_block is not None)
    paths += [f"up_blocks.{i}" for i in range(len(unet.up_blocks))]
    attns = {name: width for path in paths for name, width in block_layers(unet, path).items()}
    return replace(places, convs={}, attns=attns)


def unwrapped(module: M) -> M:
    """Returns the layer that a LoRA of peft wraps, or the module itself."""
    return getattr(module, "base_layer", module)


def block_layers(unet: "UNet2DConditionModel", path: str) -> dict[str, int]:
    """Returns the residual(+attention) layers of a diffusers block with their output channels.

    Args:
        unet: a diffusers UNet.
        path: module name of the block.
    """
    block = unet.get_submodule(path)
    layers = "attentions" if getattr(block, "attentions", None) else "resnets"
    return {f"{path}.{layers}.{j}": block.resnets[j].out_channels for j in range(len(getattr(block, layers)))}


def residual_levels(unet: "UNet2DConditionModel", places: Places) -> dict[str, list[int]]:
    """Returns the number of temporal halvings at each ControlNet residual and T2I-Adapter feature of a UNet.

    Args:
        unet: a diffusers UNet.
        places: its layer locations.
    """
    skips, level = [0], 0
    features: list[int] = []
    for i, block in enumerate(unet.down_blocks):
        skips += [level] * len(block.resnets)
        within = level
        if block.downsamplers:
            level += f"down_blocks.{i}.downsamplers.0" in places.downsamples
            skips.append(level)
        # Blocks with cross-attention add the features of an adapter before downsampling, others after.
        features.append(within if getattr(block, "has_cross_attention", False) else level)
    return {
        "down_block_additional_residuals": skips,
        "mid_block_additional_residual": [level],
        "down_intrablock_additional_residuals": [*features, level],
    }


def fit_residuals(places: Places, kwargs: dict[str, Any], b: int, t: int) -> dict[str, Any]:
    """Resamples residuals to the number of frames at their level, as nearest-neighbour downsampling does.

    Args:
        places: layer locations of the base.
        kwargs: arguments of the base. Residuals have b rows (one per clip) or b t rows (one per frame).
        b: number of clips.
        t: frames per clip.

    Returns:
        The residuals among `kwargs`, resampled.

    Raises:
        ValueError: the number of rows or of tensors is wrong.
    """
    fitted = {}
    for name, levels in places.residuals.items():
        given = kwargs.get(name)
        if given is None:
            continue
        tensors = (given,) if isinstance(given, Tensor) else given
        least = 1 if name.startswith("down_intrablock") else len(levels)
        if not least <= len(tensors) <= len(levels):
            raise ValueError(f"`{name}` holds {len(levels)} tensors on this base; received {len(tensors)}.")
        check_rows(name, tensors, b, t)
        rows = [to_rows(x, b, b * t >> level) for x, level in zip(tensors, levels, strict=False)]
        fitted[name] = rows[0] if isinstance(given, Tensor) else rows
    return fitted


def check_rows(name: str, tensors: Sequence[Tensor], b: int, t: int) -> None:
    """Checks that tensors have one row per clip or one per frame.

    Args:
        name: argument name for the error message.
        tensors: tensors of any shape; scalars pass.
        b: number of clips.
        t: frames per clip.

    Raises:
        ValueError: a tensor has another number of rows.
    """
    for x in tensors:
        if x.ndim > 0 and x.shape[0] not in (b, b * t):
            wanted = f"{b} rows (one per clip) or {b * t} (one per frame)"
            raise ValueError(f"`{name}` must have {wanted}; received {x.shape[0]}.")


def to_rows(x: Tensor, batch_size: int, rows: int) -> Tensor:
    """Repeats the row of a clip for its frames, or keeps every k-th frame (nearest-neighbour resampling).

    Args:
        x: any tensor. Scalars and tensors that cannot be divided into clips are returned unchanged.
        batch_size: number of clips.
        rows: number of rows to return.
    """
    have = x.shape[0] if x.ndim else rows
    if have == rows or have % batch_size:
        return x
    return x.repeat_interleave(rows // have, dim=0) if have < rows else x[:: have // rows]


def find_places(
    model: nn.Module,
    names: dict[str, Sequence[str]],
    channel_last: dict[str, bool],
    image: Tensor,
    kwargs: dict[str, Any],
) -> Places:
    """Runs one image through a UNet and records where layers and conditioning go.

    Args:
        model: the base UNet.
        names: module names for each kind of layer.
        channel_last: whether channels are the last axis, for each kind of layer.
        image: `1 c h w`.
        kwargs: other arguments of the base.

    Returns:
        Layer locations with widths, in order of execution.

    Raises:
        ValueError: a name is unknown, repeated or runs more than once, or the base cannot process the image.
    """
    places, handles = Places(), []
    for kind in KINDS:
        twice = [name for name in names[kind] if list(names[kind]).count(name) > 1]
        if twice:
            raise ValueError(f"One layer of a kind follows a module; {twice[0]} is named more than once.")

    def note(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object, name: str
    ) -> None:
        given = [*args, *kwargs.values()]
        if name and given and isinstance(given[0], Tensor):
            if sum(isinstance(x, Tensor) for x in tree_leaves(given)) > 1:
                places.conditioned.append(name)
        for kind in KINDS:
            if name in names[kind]:
                if name in getattr(places, kind):
                    raise ValueError(f"A layer can follow a module that runs once; {name} runs more often.")
                getattr(places, kind)[name] = _width(name, output, channel_last[kind])

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(partial(note, name=name), with_kwargs=True))
        with torch.no_grad():
            model(image, **kwargs)
    except (TypeError, RuntimeError, AssertionError) as error:
        given = f"one image of {' x '.join(map(str, image.shape[1:]))} with {', '.join(kwargs)}"
        raise ValueError(f"The base cannot take {given}: {type(error).__name__} {error}".rstrip()) from error
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for kind in KINDS for name in names[kind] if name not in getattr(places, kind)]
    if unused:
        raise ValueError(f"The base has or uses no module named {', '.join(unused[:3])}.")
    return places


def _width(name: str, output: object, channel_last: bool) -> int:
    output = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
    if not isinstance(output, Tensor) or output.ndim != 4:
        found = " x ".join(map(str, output.shape)) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"A layer follows a module with feature maps (b c h w); {name} gives {found}.")
    return output.shape[-1 if channel_last else 1]
