"""Styles of a base pipeline: LoRA adapters through peft (Hu et al. 2021, arXiv 2106.09685) and blends."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lumiere.loading.components import BasePipeline, load_model, text_encoders
from lumiere.loading.file_kinds import lora_tensors
from lumiere.loading.layout import check, component_class, locate, locate_file
from lumiere.loading.styles import Style

WEIGHTS = "pytorch_lora_weights.safetensors"  # file name in folders written by diffusers
METADATA = "lora_adapter_metadata"  # header entry where diffusers stores the LoRA config
PREFIXES = ("unet.", "text_encoder.", "text_encoder_2.", "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
FACTORS = {".lora_A.weight": "down", ".lora_B.weight": "up"}


class Styler:
    """Applies styles to a base pipeline in place. No clip may be running meanwhile.

    Args:
        base: the base pipeline.
        folder: model folder with the weights of the base, which second bases are blended with. None refuses
            second bases.

    Attributes:
        own: LoRAs and weights that belong to the motion weights and are part of every style.
    """

    def __init__(self, base: BasePipeline, folder: Path | None):
        self.base, self.folder, self.style = base, folder, Style()
        self.own: tuple[tuple[str, float], ...] = ()
        self._adapters: dict[str, str] = {}  # source of a LoRA -> name of its adapter

    def apply(self, style: Style) -> tuple[str, ...]:
        """Blends the weights of a second base into the base, then loads and weights the LoRAs.

        Args:
            style: the style. It replaces the current one.

        Returns:
            Notes for the operator.

        Raises:
            OSError: a file is missing or damaged. The style is unchanged.
            ValueError: the style belongs to another model family. The style is unchanged.
        """
        blended = self._blended(style)
        notes: tuple[str, ...] = ()
        before, wanted = list(self._adapters), dict(self.own + style.loras)
        added = [source for source in wanted if source not in before]
        try:
            for source in added:
                name = f"lora{next(n for n in range(99) if f'lora{n}' not in self._adapters.values())}"
                notes += load_lora(self.base, source, name)
                self._adapters[source] = name
        except (OSError, ValueError):
            self._unload([source for source in self._adapters if source not in before])
            self._weigh(self.style)
            raise
        for module, state in blended:
            own = module.state_dict()
            for key, tensor in own.items():
                if ".lora_" not in key:
                    weight = state[key.replace(".base_layer.", ".")]
                    # Vectors of textual inversions follow those of the vocabulary.
                    (tensor if tensor.shape == weight.shape else tensor[: len(weight)]).copy_(weight)
        self._unload([source for source in self._adapters if source not in wanted])
        self._weigh(style)
        self.style = style
        return notes

    def _weigh(self, style: Style) -> None:
        weights: dict[str, float] = defaultdict(float)
        for source, weight in self.own + style.loras:
            if source not in self._adapters:  # `own`, when the first style failed
                continue
            weights[self._adapters[source]] += weight
        if weights:
            self.base.set_adapters(list(weights), list(weights.values()))

    def _blended(self, style: Style) -> list[tuple[nn.Module, dict[str, Tensor]]]:
        """Returns the modules whose weights another blend changes, with the blended weights."""
        if _blend(style) == _blend(self.style):
            return []
        if self.folder is None:
            raise ValueError(f"the style {style.base} needs a pipeline that was loaded from a model folder.")
        twin = None if style.base is None else locate(style.base)
        if twin is not None:
            check(twin)
        blended = []
        for name, module in _modules(self.base).items():
            state = load_model(self.folder, name, torch.float32).state_dict()
            if twin is not None:
                if component_class(twin, name) != component_class(self.folder, name):
                    raise ValueError(f"the style {style.base} is of another family than {self.folder}.")
                other = load_model(twin, name, torch.float32).state_dict()
                if state.keys() != other.keys() or any(state[k].shape != other[k].shape for k in state):
                    raise ValueError(f"the style {style.base} is of another family: its {name} differs.")
                for key, weight in state.items():
                    if weight.is_floating_point():
                        weight.lerp_(other[key], style.alpha)
            blended.append((module, state))
        return blended

    def _unload(self, sources: list[str]) -> None:
        names = [self._adapters.pop(source) for source in sources]
        if names and not self._adapters:
            self.base.unload_lora_weights()  # restores the plain modules, which take less time
        elif names:
            self.base.delete_adapters(names)


def load_lora(base: BasePipeline, source: str, name: str) -> tuple[str, ...]:
    """Injects the LoRA of a file into the UNet and the text encoders with peft, at weight 1.

    The key formats of diffusers, peft and kohya's trainer are supported. Files are checked before anything
    is injected, because diffusers skips layers that it does not find.

    Args:
        base: the base pipeline.
        source: file, folder written by diffusers, or hub id.
        name: name of the adapter.

    Returns:
        A note for the operator if the file holds other tensors besides, such as a bundled embedding.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: the format is not supported, factors are missing or do not fit, or values are not finite.
    """
    weights, config = _read(source)
    extra = sorted(key for key in weights if not key.startswith(PREFIXES))
    if len(extra) == len(weights):
        raise ValueError(f"the LoRA {source} has keys of a kind that is not known, such as {extra[0]}.")
    try:
        weights = {key: weight for key, weight in weights.items() if key not in extra}
        weights, alphas = base.lora_state_dict(weights, unet_config=base.unet.config)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"the LoRA {source} has keys of a kind that is not known.") from error
    states = _by_module(weights, base, source)
    for component, state in states.items():
        _check_fit(base.components[component], component, state, source)
    for component, state in states.items():
        options = {"network_alphas": alphas, "adapter_name": name, "metadata": config}
        # Told of the pipeline, diffusers restores group offloading, but replaces our CPU offload by its own.
        options["_pipeline"] = None if hasattr(base.text_encoder, "_hf_hook") else base
        state = {f"{component}.{key}": weight for key, weight in state.items()}
        if component == "unet":
            base.load_lora_into_unet(state, unet=base.unet, **options)
        else:
            encoder = base.components[component]
            base.load_lora_into_text_encoder(state, text_encoder=encoder, prefix=component, **options)
    if not extra:
        return ()
    return (f"{len(extra)} tensors in the LoRA {source} are not LoRA factors and not used, as {extra[0]}.",)


def _blend(style: Style) -> tuple[str, float] | None:
    return (style.base, style.alpha) if style.base else None


def _modules(base: BasePipeline) -> dict[str, nn.Module]:
    """Returns the components that a style changes, by name."""
    return {"unet": base.unet} | {name: encoder for name, (encoder, _) in text_encoders(base).items()}


def _read(source: str) -> tuple[dict[str, Tensor], dict | None]:
    """Returns the tensors of a file and the LoRA config in its header, if there is one."""
    file = locate_file(source, "LoRA", WEIGHTS)
    if file.suffix != ".safetensors":
        raise ValueError(
            f"LoRAs are read from .safetensors only, as others can run code; received {file}: python -m "
            f"lumiere.model.animatediff {file.name} {file.stem}.safetensors converts AnimateDiff's domain "
            "adapter, and runs none."
        )
    try:
        with safe_open(file, "pt") as opened:
            weights = {key: opened.get_tensor(key).float() for key in opened.keys()}
            config = json.loads((opened.metadata() or {}).get(METADATA, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise OSError(f"cannot read the LoRA {file}: it is damaged, or no safetensors file.") from error
    weights = lora_tensors(weights, source)
    bad = [key for key, weight in weights.items() if not weight.isfinite().all()]
    if bad or not weights:
        reason = f"holds values that are not numbers, in {bad[0]}" if bad else "holds no tensors"
        raise ValueError(f"the LoRA {source} {reason}.")
    return weights, config


def _by_module(weights: dict[str, Tensor], base: BasePipeline, source: str) -> dict[str, dict[str, Tensor]]:
    """Splits a state dict by component and renames its keys to the names of peft: `path.lora_A.weight`."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        component, _, path = key.partition(".")
        states.setdefault(component, {})[path.replace(".processor.", ".")] = weight
    others = sorted(set(states) - set(_modules(base)))
    if others:
        raise ValueError(f"the LoRA {source} is for another family: it has parts for {', '.join(others)}.")
    for component, state in states.items():
        if component == "unet":
            states[component] = convert_unet_state_dict_to_peft(state)
        else:
            state = convert_state_dict_to_peft(convert_state_dict_to_diffusers(state))
            known = dict(base.components[component].named_modules())  # transformers 5 dropped `text_model.`
            states[component] = {
                key if key.split(".lora_")[0] in known else key.removeprefix("text_model."): weight
                for key, weight in state.items()
            }
    return states


def _check_fit(module: nn.Module, name: str, state: dict[str, Tensor], source: str) -> None:
    """Checks that every layer of a LoRA exists and that its two factors fit."""
    known = dict(module.named_modules())
    layers: dict[str, dict[str, Tensor]] = {}
    for key, weight in state.items():
        factor = next((factor for end, factor in FACTORS.items() if key.endswith(end)), None)
        if factor is None:
            raise ValueError(f"the LoRA {source} has keys of a kind that is not known, such as {name}.{key}.")
        layers.setdefault(key.rsplit(".lora_", 1)[0], {})[factor] = weight
    for path, factors in layers.items():
        layer: Any = getattr(known.get(path), "base_layer", known.get(path))  # wrapped by another LoRA
        if not hasattr(layer, "weight"):
            raise ValueError(f"the LoRA {source} is for another family: the {name} has no layer {path}.")
        if len(factors) < 2:
            raise ValueError(f"the LoRA {source} lacks factors of {name}.{path}.")
        up, down = factors["up"], factors["down"]
        if up.shape[0] != len(layer.weight) or down[0].numel() != layer.weight[0].numel():
            shapes = " and ".join(" x ".join(map(str, x.shape)) for x in (up, down))
            raise ValueError(f"the LoRA {source} does not fit the layer {path}: its factors are {shapes}.")
