"""Merges styles into the weights of a base model: LoRA (Hu et al. 2021, arXiv 2106.09685) and blends.

A merged style adds no cost to sampling and needs no further libraries.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lumiere.loading.components import load_model
from lumiere.loading.layout import check, is_xl, locate, locate_file
from lumiere.loading.styles import Style
from lumiere.model.motion_files import read_json

WEIGHTS = "pytorch_lora_weights.safetensors"  # file name in folders written by diffusers
METADATA = "lora_adapter_metadata"  # header entry where diffusers stores alphas
FACTOR = re.compile(
    r"(?P<module>.+?)(?:(?:\.lora_linear_layer|\.lora|_lora)\.(?P<old>down|up)|\.lora_(?P<new>[AB]))\.weight"
)


@dataclass
class Factors:
    """LoRA factors of one layer, which add `alpha / rank * up @ down` to its weight.

    Attributes:
        down: `rank in ...`.
        up: `out rank ...`.
        alpha: scale. Defaults to the rank.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None

    def product(self) -> Tensor:
        """Returns the scaled product `out in`; the kernel sides of a convolution are flattened into `in`."""
        rank = len(self.down)
        scale = 1.0 if self.alpha is None else self.alpha / rank
        return scale * self.up.flatten(1) @ self.down.flatten(1)


class Styler:
    """Loads the components of a model folder with a style merged into their weights.

    Args:
        folder: model folder.
        style: LoRAs with their weights, and an optional second base.

    Raises:
        OSError: a file of the style is missing or damaged.
        ValueError: the style belongs to another model family.
    """

    def __init__(self, folder: Path, style: Style):
        self.folder, self.style, self.twin = folder, style, None
        names = {"unet", "text_encoder"} | ({"text_encoder_2"} if is_xl(folder) else set())
        self.loras = []
        for source, weight in style.loras:
            layers = read(source, is_xl(folder), read_json(folder / "unet" / "config.json"))
            others = {layer.split(".")[0] for layer in layers} - names
            if others:
                parts = ", ".join(sorted(others))
                raise ValueError(f"the LoRA {source} is for another family: it has parts for {parts}.")
            self.loras.append((source, weight, layers))
        if style.base is not None:
            self.twin = locate(style.base)
            check(self.twin)
            if is_xl(self.twin) != is_xl(folder):
                raise ValueError(f"the style {style.base} is of another family than {folder}.")

    def load(self, name: str, dtype: torch.dtype) -> nn.Module:
        """Loads the UNet or a text encoder onto the CPU. Merging runs in float32 and rounds once.

        Args:
            name: name of the component.
            dtype: dtype of the returned weights.

        Raises:
            OSError: a file is missing or damaged.
            ValueError: a LoRA or the second base does not fit the component.
        """
        changed = self.twin is not None or self.loras
        module = load_model(self.folder, name, torch.float32 if changed else dtype)
        with torch.no_grad():
            if self.twin is not None:
                self._blend(module, name)
            for source, weight, layers in self.loras:
                _merge(module, name, layers, weight, source)
        return nn.Module.to(module, dtype)  # `ModelMixin.to` would warn about modules to keep in float32

    def _blend(self, module: nn.Module, name: str) -> None:
        own, twin = module.state_dict(), load_model(self.twin, name, torch.float32).state_dict()
        if own.keys() != twin.keys() or any(own[key].shape != twin[key].shape for key in own):
            raise ValueError(f"the style {self.style.base} is of another family: its {name} differs.")
        for key, weight in own.items():
            if weight.is_floating_point():
                weight.lerp_(twin[key], self.style.alpha)


def read(source: str, xl: bool, config: dict) -> dict[str, Factors]:
    """Reads LoRA factors by layer for all components, with keys such as `unet.mid_block…`.

    The key formats of diffusers, peft and kohya are supported.

    Args:
        source: file, folder written by diffusers, or hub id.
        xl: whether the base is Stable Diffusion XL.
        config: UNet config of the base, which maps the block numbers of kohya's keys.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: the format is not supported, factors are missing, or values are not finite.
    """
    file = locate_file(source, "LoRA", WEIGHTS)
    if file.suffix != ".safetensors":
        raise ValueError(f"LoRAs are read from .safetensors only, as others can run code; received {file}.")
    try:
        with safe_open(file, "pt") as opened:
            weights = {key: opened.get_tensor(key).float() for key in opened.keys()}
            told = json.loads((opened.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise OSError(f"cannot read the LoRA {file}: it is damaged, or no safetensors file.") from error
    if any("dora_scale" in key or "lora_magnitude_vector" in key for key in weights):
        raise ValueError(f"the LoRA {source} is a DoRA, which is not supported.")
    bad = [key for key, weight in weights.items() if not weight.isfinite().all()]
    if bad:
        raise ValueError(f"the LoRA {source} holds values that are not numbers, in {bad[0]}.")
    mixin = StableDiffusionXLLoraLoaderMixin if xl else StableDiffusionLoraLoaderMixin
    try:
        # The public loader of diffusers converts the keys of other trainers and extracts their alphas.
        weights, alphas = mixin.lora_state_dict(weights, unet_config=SimpleNamespace(**config))
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"the LoRA {source} has keys of a kind that is not known.") from error
    layers: dict[str, Factors] = {}
    for key, weight in weights.items():
        layer, half = _layer(key)
        if half is None:
            raise ValueError(f"the LoRA {source} has keys of a kind that is not known, such as {key}.")
        setattr(layers.setdefault(layer, Factors(alpha=_told_alpha(told, layer))), half, weight)
    for key, alpha in (alphas or {}).items():
        layers[_layer(key.removesuffix(".alpha"))[0]].alpha = float(alpha)
    torn = [layer for layer, factors in layers.items() if factors.down is None or factors.up is None]
    if torn or not layers:
        raise ValueError(f"the LoRA {source} lacks factors{f' of {torn[0]}' if torn else ''}.")
    return layers


def _layer(key: str) -> tuple[str, str | None]:
    """Splits a key into its layer and its factor: "down", "up", or None if it is neither."""
    key = key.replace(".processor.", ".")
    found = FACTOR.fullmatch(key)
    if not found:
        return key, None
    half = {"A": "down", "B": "up"}.get(found["new"], found["old"])
    layer = re.sub(r"self_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", found["module"])  # text encoders
    return layer + (".0" if layer.endswith(".to_out") else ""), half


def _told_alpha(told: dict, layer: str) -> float | None:
    """Returns the alpha of a layer from the header of a file, or None."""
    component, _, path = layer.partition(".")
    pattern = told.get(f"{component}.alpha_pattern") or {}
    return pattern.get(path, told.get(f"{component}.lora_alpha"))


def _merge(module: nn.Module, name: str, layers: dict[str, Factors], weight: float, source: str) -> None:
    known = dict(module.named_modules())
    for key, factors in layers.items():
        component, _, path = key.partition(".")
        if component != name:
            continue
        path = path if path in known else path.removeprefix("text_model.")  # transformers 5 dropped it
        layer = known.get(path)
        if not hasattr(layer, "weight"):
            raise ValueError(f"the LoRA {source} is for another family: the {name} has no layer {path}.")
        rows, columns = len(layer.weight), layer.weight[0].numel()
        if factors.up.shape[0] != rows or factors.down[0].numel() != columns:
            shapes = " and ".join(" x ".join(map(str, half.shape)) for half in (factors.up, factors.down))
            raise ValueError(f"the LoRA {source} does not fit the layer {path}: its factors are {shapes}.")
        layer.weight += weight * factors.product().reshape(layer.weight.shape)
