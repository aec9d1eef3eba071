"""Imports public motion adapters for diffusers UNets (AnimateDiff, Guo et al. 2023, arXiv 2307.04725).

Adapters are read from safetensors only. `convert` rewrites a `.ckpt` of AnimateDiff's own code.
"""

import os
import re
import sys
from pathlib import Path
from statistics import mode
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_files import ADAPTER, check_motion, read_json
from lumiere.model.motion_weights import AnimateDiffBlock, check_keys, load_motion
from lumiere.model.placement import adapter_places

WEIGHTS = ADAPTER[1].removesuffix(".safetensors")  # a diffusers folder may add a variant, such as `.fp16`
POSITIONS = ".pos_embed.pe"
HEADS = 8  # in every adapter published so far; cannot be inferred from the weights
# Noise levels of every published adapter, on any base; other betas make clips flicker. What the UNet's output
# means (`prediction_type`) and whether its last step is pure noise (`rescale_betas_zero_snr`) is the base's.
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": False,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
LORA = re.compile(r"[._]lora\.(down|up)\.weight$")  # keys of domain adapters and MotionLoRAs
UNSTORED_POSITIONS = 64  # AnimateLCM's own file leaves out its sinusoidal positions, which it computes
ORIGINAL = (  # key names of other codes -> key names of diffusers, replaced in this order
    (".temporal_attentions.", ".motion_modules."),  # Hotshot-XL
    (".temporal_transformer.", "."),
    (".attention_blocks.0.pos_encoder.", ".pos_embed."),  # AnimateDiff stores one copy per attention
    (".attention_blocks.1.pos_encoder.", ".pos_embed."),
    (".pos_embed.positional_encoding", ".pos_embed.pe"),  # Hotshot-XL
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)


def load_weights(unet: UNet2DConditionModel, source: str | os.PathLike) -> Lumiere:
    """Inflates a `UNet2DConditionModel` with motion weights saved by Lumiere, or with a public adapter.

    Args:
        unet: the base UNet.
        source: folder written by `save_motion`, or an adapter in a form that `load_adapter` reads.

    Returns:
        The inflated UNet.

    Raises:
        OSError: the source is missing or unreadable (see `load_motion` and `load_adapter`).
        ValueError: the weights do not fit the UNet.
    """
    folder = Path(source).expanduser()
    if folder.is_file() or any(folder.glob(f"{WEIGHTS}*")) or (folder / ADAPTER[0]).is_file():
        return load_adapter(unet, source)
    return load_motion(unet, check_motion(folder))


def schedule_for(lumiere: Lumiere) -> dict[str, Any]:
    """Returns the scheduler config entries that the motion weights require on any base.

    Args:
        lumiere: an inflated UNet.

    Returns:
        Overrides of the scheduler config for AnimateDiff adapters, an empty dict for other motion weights.
    """
    return SCHEDULE if any(isinstance(layer, AnimateDiffBlock) for layer in lumiere.attns) else {}


def load_adapter(unet: UNet2DConditionModel, source: str | os.PathLike | MotionAdapter) -> Lumiere:
    """Inflates a `UNet2DConditionModel` with an AnimateDiff adapter, in its dtype and on its device.

    The weights determine the number of positions, the depth, and whether the mid block has layers. The config
    determines the number of heads. The UNet determines the groups of the norms, as in diffusers'
    `UNetMotionModel`. Both models produce the same clip from the same frames.

    Args:
        unet: the base UNet.
        source: diffusers folder, `.safetensors` file with the keys of diffusers or of AnimateDiff's own code,
            or `MotionAdapter`. A source without a config has 8 heads.

    Returns:
        The inflated UNet.

    Raises:
        OSError: the source is missing or cannot be read.
        ValueError: the file format is unsupported. The adapter belongs to another family of UNets, has
            missing, unexpected or misshapen keys, values not finite in the UNet's dtype, or no mid block
            despite the config.
    """
    weights, config, where = _read(source)
    weights = _in_names_of_diffusers(weights, where)
    middle = any(key.startswith("mid_block.motion_modules.") for key in weights)
    if config is not None and config.get("use_motion_mid_block", True) and not middle:
        named = "" if isinstance(source, MotionAdapter) else "; to load it without, name the file instead"
        raise ValueError(f"{where} lacks mid_block.motion_modules, which its config claims{named}.")
    places = adapter_places(unet, middle)
    _check_family(weights, unet, where)
    options = {
        "heads": _heads(config or {}, where),
        "depth": _depth(weights),
        "positions": _positions(weights),
        "groups": unet.config.norm_num_groups or 32,
    }
    lumiere = Lumiere.from_unet(
        unet, places=places, attn_klass=AnimateDiffBlock, attn_inflation_kwargs=options
    )
    names = adapter_keys(lumiere)
    expected = {names[key]: weight for key, weight in lumiere.state_dict().items()}
    if not any(key.endswith(POSITIONS) for key in weights):  # computed, not stored
        weights |= {name: weight for name, weight in expected.items() if name.endswith(POSITIONS)}
    check_keys(weights, expected, where)
    if lumiere.device.type != "meta":
        lumiere.load_state_dict({key: weights[name] for key, name in names.items()})
        _check_finite(lumiere, names, where)
    return lumiere


def _read(source: str | os.PathLike | MotionAdapter) -> tuple[dict[str, Tensor], dict | None, str]:
    """Returns the weights, the config if it exists, and a name of the source for error messages."""
    if isinstance(source, MotionAdapter):
        return source.state_dict(), dict(source.config), "the MotionAdapter"
    file, config = Path(source).expanduser(), None
    if file.is_dir():
        if (file / "config.json").exists():
            config = read_json(file / "config.json")
        file = _weights_file(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no motion adapter {source}: give the path of a folder or a file.")
    if file.suffix != ".safetensors":
        raise ValueError(
            f"Adapters are read from .safetensors only, as others can run code; received {file}: python -m "
            f"lumiere.model.animatediff {file.name} {file.stem}.safetensors makes one of it, and runs none."
        )
    return read_tensors(file, "adapter"), config, str(file)


def read_tensors(file: Path, kind: str) -> dict[str, Tensor]:
    """Reads all tensors of a `.safetensors` file.

    Args:
        file: the file.
        kind: noun for the error message, for example "adapter".

    Raises:
        OSError: the file is missing, damaged, or of another format.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot read the {kind} {file}: it is damaged, or no safetensors file.") from error


def _weights_file(folder: Path) -> Path:
    """Returns the weights file of a diffusers folder; the file without a variant takes precedence."""
    plain = folder / f"{WEIGHTS}.safetensors"
    variants = [plain] if plain.is_file() else sorted(folder.glob(f"{WEIGHTS}.*.safetensors"))
    if not variants:
        raise FileNotFoundError(f"the folder {folder} has no {plain.name}: name a file, if it holds another.")
    if len(variants) > 1:
        names = ", ".join(file.name for file in variants)
        raise ValueError(
            f"{folder} holds several variants of one adapter ({names}): leave one, or name a file."
        )
    return variants[0]


def _in_names_of_diffusers(weights: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, weight in weights.items():
        name = diffusers_name(key)
        if name in renamed and not torch.equal(renamed[name], weight):
            raise ValueError(f"{where} has two different tensors for {name}, one of them in {key}.")
        renamed[name] = weight
    if not any(".motion_modules." in name for name in renamed):
        raise ValueError(f"{where} holds no motion modules: it is no AnimateDiff adapter.")
    return renamed


def diffusers_name(key: str) -> str:
    """Returns the name that diffusers gives to a key of AnimateDiff's or Hotshot-XL's own code."""
    name = key.removeprefix("module.")  # from training on several GPUs
    for theirs, ours in ORIGINAL:
        name = name.replace(theirs, ours)
    return name


def adapter_keys(lumiere: Lumiere) -> dict[str, str]:
    """Returns diffusers' name of each key of the state dict, for a model with an AnimateDiff adapter."""
    places = list(lumiere.places.attns)
    return {key: _adapter_key(key, places) for key in lumiere.state_dict()}


def _check_family(weights: dict[str, Tensor], unet: UNet2DConditionModel, where: str) -> None:
    """Compares the widths of the levels; the most frequent vector length is robust to one misshapen key."""
    levels: set[str] = set()
    lengths: dict[int, list[int]] = {}
    for key, weight in weights.items():
        if found := re.match(r"(down|up)_blocks\.(\d+)\.", key):
            levels.add(found[2])
            if found[1] == "down" and weight.ndim == 1:
                lengths.setdefault(int(found[2]), []).append(len(weight))
    ours = [block.resnets[-1].out_channels for block in unet.down_blocks]
    theirs = {level: mode(lengths[level]) for level in sorted(lengths)}
    if len(levels) != len(ours) or any(ours[level : level + 1] != [width] for level, width in theirs.items()):
        words = [", ".join(map(str, widths)) or "no" for widths in (theirs.values(), ours)]
        raise ValueError(
            f"{where} is for another family of UNets: its levels have {words[0]} channels, "
            f"those of this UNet {words[1]}."
        )


def _heads(config: dict[str, Any], where: str) -> int:
    given = config.get("motion_num_attention_heads", HEADS)
    heads = list(given) if isinstance(given, list | tuple) else [given]
    if len(set(map(str, heads))) != 1 or type(heads[0]) is not int or heads[0] < 1:
        raise ValueError(f"The config of {where} must give all levels one number of heads; received {given}.")
    return heads[0]


def _depth(weights: dict[str, Tensor]) -> int:
    blocks = (re.search(r"\.transformer_blocks\.(\d+)\.", key) for key in weights)
    return max(1, len({found[1] for found in blocks if found}))


def _positions(weights: dict[str, Tensor]) -> int:
    """Returns the length of the first positional embedding `1 t c`; `check_keys` reports other lengths."""
    stored = [w for key, w in weights.items() if key.endswith(POSITIONS)]
    return next((w.shape[1] for w in stored if w.ndim == 3), 32 if stored else UNSTORED_POSITIONS)


def _adapter_key(key: str, places: list[str]) -> str:
    """Maps `attns.3.motion_module.norm.bias` to `down_blocks.1.motion_modules.1.norm.bias`."""
    _, index, _, rest = key.split(".", 3)
    block, _, layer = places[int(index)].rsplit(".", 2)
    return f"{block}.motion_modules.{layer}.{rest}"


def _check_finite(lumiere: Lumiere, names: dict[str, str], where: str) -> None:
    for key, weight in lumiere.state_dict().items():
        if not weight.isfinite().all():
            raise ValueError(f"{where} holds values that are no numbers in {lumiere.dtype}, in {names[key]}.")


def convert(checkpoint: str | os.PathLike, file: str | os.PathLike) -> None:
    """Writes the tensors of an AnimateDiff `.ckpt` file as safetensors, without executing pickled code.

    A domain adapter, which is a LoRA of the base's UNet without motion modules, keeps its keys.

    Args:
        checkpoint: path of the `.ckpt` file.
        file: path of the `.safetensors` file to write.

    Raises:
        OSError: the checkpoint does not exist or the output cannot be written.
        ValueError: the checkpoint is damaged, contains objects other than tensors, or has neither motion
            modules nor LoRA factors.
    """
    try:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}.") from None
    except Exception as error:  # a damaged file can raise almost any exception
        raise ValueError(
            f"{checkpoint} is refused: it is damaged, or holds other things than tensors "
            f"({type(error).__name__})."
        ) from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else {}
    weights = {key: w.contiguous() for key, w in weights.items() if isinstance(w, Tensor)}
    if any(LORA.search(key) for key in weights):
        renamed = {key.removeprefix("module."): weight.clone() for key, weight in weights.items()}
    else:
        renamed = _in_names_of_diffusers(weights, str(checkpoint))
        renamed = {key: weight.clone() for key, weight in renamed.items() if ".motion_modules." in key}
    part = Path(file).with_name(f"{Path(file).name}.part")
    save_file(renamed, part, metadata={"format": "pt"})
    os.replace(part, file)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("python -m lumiere.model.animatediff CHECKPOINT.ckpt FILE.safetensors")
    try:
        convert(*sys.argv[1:])
    except (OSError, ValueError) as failure:
        sys.exit(str(failure))
