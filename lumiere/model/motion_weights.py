"""Motion weights on disk: tensors in `motion.safetensors`, placement and options in `motion.json`.

Large weights may be sharded (`motion-00001-of-00003.safetensors`), with an index of keys.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lumiere.model.layers import (
    AttentionInflationBlock,
    ConvolutionInflationBlock,
    TemporalDownsample,
    TemporalLayer,
    TemporalUpsample,
)
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_files import MOTION, MOTION_INDEX, motion_files, read_description
from lumiere.model.placement import KINDS, adapter_places, unet_places

FORMAT = 1


class AnimateDiffBlock(TemporalLayer):
    """Residual layer of public motion adapters (AnimateDiff, Guo et al. 2023, arXiv 2307.04725, 4.2).

    The layer applies a group norm over all frames, then `depth` blocks of two temporal attentions and a
    feed-forward layer. Unlike Lumiere's own layers, an untrained block changes the image, because its
    projection does not start at zero.

    Args:
        dim: channels, a multiple of `heads`.
        heads: attention heads.
        depth: number of transformer blocks.
        positions: number of sinusoidal positional embeddings, the maximum number of frames.
        groups: groups of the group norm.

    Raises:
        ValueError: `heads` does not divide `dim`; in `forward`, the clip is longer than `positions`.
    """

    motion_scale = 1.0  # see `adapter_options.set_motion_scale`
    plain_blocks: tuple[nn.ModuleList, ...] = ()  # while attention has windows: the blocks without

    def __init__(self, *, dim: int, heads: int = 8, depth: int = 1, positions: int = 32, groups: int = 32):
        super().__init__()
        if dim % heads:
            raise ValueError(f"`heads` must divide the {dim} channels; received {heads}.")
        self.positions = positions
        self.motion_module = AnimateDiffTransformer3D(
            in_channels=dim,
            num_attention_heads=heads,
            attention_head_dim=dim // heads,
            num_layers=depth,
            norm_num_groups=groups,
            positional_embeddings="sinusoidal",
            num_positional_embeddings=positions,
        )

    def over_time(self, x: Tensor, b: int, embedding: Tensor | None = None) -> Tensor:
        """Maps `(b t) c h w` to the same shape.

        Args:
            x: stacked frames.
            b: number of clips.
            embedding: not used.

        Raises:
            ValueError: t exceeds `positions`.
        """
        frames = x.shape[0] // b
        if frames > self.positions and not self.plain_blocks:
            raise ValueError(f"These motion weights know {self.positions} frames at most; received {frames}.")
        moved = self.motion_module(x, num_frames=frames)
        return moved if self.motion_scale == 1 else torch.lerp(x, moved, self.motion_scale)


CLASSES: dict[str, type[TemporalLayer]] = {
    klass.__name__: klass
    for klass in (
        ConvolutionInflationBlock,
        AttentionInflationBlock,
        TemporalDownsample,
        TemporalUpsample,
        AnimateDiffBlock,
    )
}
OPTIONS = {  # kind of layer -> arguments of `Lumiere.from_unet`: its class and the arguments of the class
    "convs": ("conv_klass", "conv_inflation_kwargs"),
    "attns": ("attn_klass", "attn_inflation_kwargs"),
    "downsamples": ("downsample_klass", "downsample_kwargs"),
    "upsamples": ("upsample_klass", "upsample_kwargs"),
}


def save_motion(
    lumiere: Lumiere,
    folder: str | Path,
    facts: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Saves the motion weights of `lumiere`. Each file is replaced atomically.

    Args:
        lumiere: the inflated UNet.
        folder: output folder, created if missing.
        facts: provenance as JSON data (hub id of the base, steps, clips, ...), see `read_facts`.
        dtype: dtype of the saved tensors. Defaults to their own, bit for bit.
        shard_bytes: maximum size of a shard. Defaults to a single file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layers = {kind: getattr(lumiere, kind) for kind in KINDS}
    description = {
        "format": FORMAT,
        "downsample_factor": lumiere.downsample_factor,
        "placement": {kind: getattr(lumiere.places, kind) for kind in KINDS},
        "classes": {kind: type(layers[kind][0]).__name__ for kind in KINDS if layers[kind]},
        "kwargs": lumiere.kwargs,
        "cond_channels": lumiere.cond_channels,
        "embedding_width": lumiere.embedding_width,
        "noise_correlation": lumiere.noise_correlation,
        "facts": facts or {},
    }
    state = lumiere.state_dict()
    weights = {key: value.to(dtype or value.dtype).contiguous() for key, value in state.items()}
    split = split_torch_state_dict_into_shards(
        weights,
        filename_pattern=MOTION[1].replace(".", "{suffix}.", 1),
        max_shard_size=shard_bytes or sum(value.nbytes for value in weights.values()) + 1,
    )
    # Files are replaced atomically: an interrupted training leaves loadable weights.
    stale = {MOTION[1], MOTION_INDEX, *(file.name for file in folder.glob("motion-*-of-*.safetensors"))}
    shards = split.filename_to_tensors
    for name, keys in shards.items():
        save_file({key: weights[key] for key in keys}, folder / f"{name}.part")
    texts: dict[str, dict[str, Any]] = {MOTION[0]: description}
    if split.is_sharded:
        texts[MOTION_INDEX] = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    for name, text in texts.items():
        (folder / f"{name}.part").write_text(json.dumps(text, indent=2), encoding="utf-8")
    for name in (*shards, *sorted(texts, reverse=True)):
        os.replace(folder / f"{name}.part", folder / name)
    for name in stale - shards.keys() - texts.keys():
        (folder / name).unlink(missing_ok=True)


def load_motion(unet: UNet2DConditionModel, folder: str | Path) -> Lumiere:
    """Inflates a `UNet2DConditionModel` with saved motion weights, in its dtype and on its device.

    Args:
        unet: the base UNet.
        folder: folder written by `save_motion`.

    Returns:
        The inflated UNet.

    Raises:
        OSError: a file is missing or damaged, or contains NaN or inf.
        ValueError: the weights belong to another UNet, or keys are missing, unexpected or misshapen.
    """
    folder = Path(folder)
    description = _read(folder)
    factor = description["downsample_factor"]
    if description["classes"].get("attns") == AnimateDiffBlock.__name__:
        known = [adapter_places(unet, middle) for middle in (True, False)]
    else:
        known = [unet_places(unet, factor, at_input) for at_input in (False, True)]
    fitting = [p for p in known if description["placement"] == {kind: getattr(p, kind) for kind in KINDS}]
    if not fitting:
        raise ValueError(f"The motion weights in {folder} belong to a UNet with other blocks or widths.")
    # Older files lack some entries.
    names = ("cond_channels", "embedding_width", "noise_correlation")
    options = {name: description.get(name, 0) for name in names}
    for kind, (klass, kwargs) in OPTIONS.items():
        options[kwargs] = description["kwargs"][kind]
        name = description["classes"].get(kind)  # None without temporal resampling
        if name is not None and name not in CLASSES:
            raise ValueError(f"motion.json in {folder} names a layer of class {name}, which is not known.")
        if name is not None:
            options[klass] = CLASSES[name]
    lumiere = Lumiere.from_unet(unet, places=fitting[0], **options)
    weights = _read_weights(folder)
    check_keys(weights, lumiere.state_dict(), f"{MOTION[1]} in {folder}")
    lumiere.load_state_dict(weights)
    return lumiere


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Returns the provenance (`facts`) saved with motion weights.

    Args:
        folder: folder written by `save_motion`.
    """
    return _read(Path(folder))["facts"]


def _read_weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in motion_files(folder):
        try:
            weights |= load_file(file)
        except FileNotFoundError:
            raise FileNotFoundError(f"the motion weights in {folder} lack {file.name}.") from None
        except (SafetensorError, OSError) as error:
            raise OSError(f"cannot read {file.name} in {folder}: {error}.") from error
    for key, weight in weights.items():
        if not weight.isfinite().all():
            raise OSError(f"the motion weights in {folder} hold values that are not numbers, in {key}.")
    return weights


def _read(folder: Path) -> dict[str, Any]:
    description = read_description(folder)
    found = description.get("format")
    if found != FORMAT:
        raise ValueError(f"motion.json in {folder} has format {found}; this version reads format {FORMAT}.")
    absent = {"downsample_factor", "placement", "classes", "kwargs", "facts"} - description.keys()
    if absent:
        raise ValueError(f"motion.json in {folder} lacks {', '.join(sorted(absent))}.")
    return description


def check_keys(weights: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Checks that weights have the expected keys and shapes.

    Args:
        weights: tensors by key.
        expected: expected tensors by key.
        where: name of the source for the error message.

    Raises:
        ValueError: keys are missing, unexpected or misshapen; the message lists the first three of each.
    """
    both = weights.keys() & expected.keys()
    faults = {
        "missing": sorted(expected.keys() - both),
        "unexpected": sorted(weights.keys() - both),
        "misshapen": sorted(key for key in both if weights[key].shape != expected[key].shape),
    }
    words = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})"
        for kind, keys in faults.items()
        if keys
    ]
    if words:
        raise ValueError(f"The keys of {where} do not fit: {'; '.join(words)}.")
