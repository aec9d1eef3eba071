"""Loads a base pipeline: each component with its own class, from safetensors and never from a pickle."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from lumiere.loading.file_kinds import check_vae
from lumiere.loading.hub import fetch
from lumiere.loading.layout import (
    INDEX,
    check,
    component_class,
    components,
    config_folder,
    is_xl,
    variant,
)
from lumiere.model.motion_files import read_json

_verbosity = transformers.utils.logging.get_verbosity()
transformers.utils.logging.set_verbosity_error()  # the import warns that image processors lack torchvision
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline  # noqa: E402

transformers.utils.logging.set_verbosity(_verbosity)

CLIP = "openai/clip-vit-large-patch14"  # whose tokenizer all Stable Diffusion models use
BasePipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline


def load_base(
    folder: Path, dtype: torch.dtype, unet: nn.Module | None = None, vae: Path | None = None
) -> BasePipeline:
    """Loads the text-to-image pipeline of a model folder onto the CPU, without a safety checker.

    `DiffusionPipeline.from_pretrained` accepts files that lack weights, so the components are loaded one by
    one (see `load_model`) and passed to the constructor.

    Args:
        folder: model folder, or single-file checkpoint (see `load_checkpoint`).
        dtype: dtype of the weights.
        unet: a loaded UNet of this folder, used instead of its file.
        vae: folder or file of another VAE (see `load_vae`), used instead of the model's own.

    Raises:
        OSError: a file is missing, damaged or of a class that is not supported.
        ValueError: the latents of `vae` differ from the base's.
    """
    if folder.is_file():
        return load_checkpoint(folder, dtype, vae)
    check(folder)
    found: dict[str, Any] = {"unet": unet} if unet is not None else {}
    if vae is not None:
        found["vae"] = load_vae(vae, folder, dtype)
    for part in components(folder):
        if part.weights and part.name not in found:
            found[part.name] = load_model(folder, part.name, dtype)
        elif part.name.startswith("tokenizer"):
            found[part.name] = load_tokenizer(folder, part.name)
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    klass = getattr(diffusers, component_class(folder, "scheduler"), DDIMScheduler)
    found["scheduler"] = klass.from_config(config)
    if is_xl(folder):
        zeros = read_json(folder / INDEX).get("force_zeros_for_empty_prompt", True)
        found |= {"force_zeros_for_empty_prompt": bool(zeros), "add_watermarker": False}
        return _bounded(StableDiffusionXLPipeline(**found))
    found |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return _bounded(StableDiffusionPipeline(**found))


def text_encoders(base: BasePipeline) -> dict[str, tuple[Any, transformers.PreTrainedTokenizerBase]]:
    """Returns the text encoders of a base by name, each with its tokenizer."""
    pairs = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    parts = base.components
    return {name: (parts[name], parts[other]) for name, other in pairs.items() if name in parts}


def _bounded(base: BasePipeline) -> BasePipeline:
    """Limits the tokenizers to the positions of their encoders, for `encode_prompt` pads to that length."""
    for encoder, tokenizer in text_encoders(base).values():
        positions = encoder.config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return base


def load_checkpoint(file: Path, dtype: torch.dtype, vae: Path | None = None) -> BasePipeline:
    """Loads a single-file checkpoint of Stable Diffusion 1.x or XL onto the CPU, with the shipped configs.

    Args:
        file: `.safetensors` file with the keys of the original code, with or without EMA weights.
        dtype: dtype of the weights.
        vae: folder or file of another VAE (see `load_vae`), used instead of the checkpoint's own.

    Raises:
        OSError: the file is damaged, lacks weights or is of another family, or there are no tokenizer files.
        ValueError: the latents of `vae` differ from the base's.
    """
    folder = config_folder(file)
    klass = StableDiffusionXLPipeline if is_xl(folder) else StableDiffusionPipeline
    found: dict[str, Any] = {"tokenizer": _clip_tokenizer(file, {})}
    if is_xl(folder):
        found |= {"tokenizer_2": _clip_tokenizer(file, {"pad_token": "!"}), "add_watermarker": False}
    if vae is not None:
        found["vae"] = load_vae(vae, folder, dtype)
    base = _single_file(klass, file, folder, "checkpoint", ("unet", "vae"), torch_dtype=dtype, **found)
    for part in components(folder):
        if part.weights:
            _check_whole(base.components[part.name].eval(), part.name, file)
    return _bounded(base)


def load_vae(place: Path, base: Path, dtype: torch.dtype) -> AutoencoderKL:
    """Loads a VAE in the place of a base's own, onto the CPU.

    Args:
        place: diffusers folder, or `.safetensors` file with the keys of diffusers or of the original code; a
            whole checkpoint provides its VAE. A file takes its config from the base.
        base: folder with the configs of the base.
        dtype: dtype of the weights.

    Raises:
        OSError: a file is missing, damaged, or lacks weights.
        ValueError: it is no `AutoencoderKL`, or its latents differ from the base's in channels, size or
            scale.
    """
    if place.is_dir():
        kind = read_json(place / "config.json").get("_class_name")
        if kind != AutoencoderKL.__name__:
            raise ValueError(f"the VAE {place} is of class {kind}: supported is {AutoencoderKL.__name__}.")
        vae = _whole(AutoencoderKL, place, dtype, "vae", place)
    else:
        try:
            with safe_open(place, "pt") as file:
                check_vae(file.keys(), str(place))
        except (SafetensorError, OSError) as error:
            raise OSError(f"cannot read the VAE {place}: it is damaged, or no safetensors file.") from error
        vae = _single_file(
            AutoencoderKL, place, base, "VAE", ("vae",), subfolder="vae", torch_dtype=dtype
        ).eval()
        _check_whole(vae, "vae", place)
    with torch.device("meta"):
        own = AutoencoderKL.from_config(AutoencoderKL.load_config(base / "vae"))
    for what, value in _latents(vae).items():
        if value != _latents(own)[what]:
            raise ValueError(
                f"the VAE {place} is for another family: its {what} is {value}, that of the base "
                f"{_latents(own)[what]}."
            )
    return vae


def _latents(vae: AutoencoderKL) -> dict[str, float]:
    config = vae.config
    channels, factor = config.latent_channels, 2 ** (len(config.block_out_channels) - 1)
    scale = config.scaling_factor
    return {"number of latent channels": channels, "downsampling factor": factor, "scaling factor": scale}


def _single_file(
    klass: Any, file: Path, folder: Path, kind: str, parts: Sequence[str], **options: Any
) -> Any:
    """Loads a class of diffusers from a single file with the configs of a folder."""
    try:
        with _quiet():
            return klass.from_single_file(str(file), config=str(folder), local_files_only=True, **options)
    except NotImplementedError as error:  # of torch, which cannot move weights that were not filled
        raise OSError(f"the {kind} {file} {_lacks(_missing(file, folder, parts))}.") from error
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise OSError(f"cannot read the {kind} {file}: {reason}.") from error


def _missing(file: Path, folder: Path, parts: Sequence[str]) -> list[str]:
    """Returns the weights of some components that diffusers (0.42) does not find in a single file."""
    weights, missing = load_file(file), []
    for name in parts:
        klass = getattr(diffusers, component_class(folder, name))
        config = klass.load_config(folder / name)
        with torch.device("meta"):
            expected = klass.from_config(config).state_dict()
        convert = SINGLE_FILE_LOADABLE_CLASSES[klass.__name__]["checkpoint_mapping_fn"]
        found = convert(config=config, checkpoint=dict(weights))
        missing += [f"{name}.{key}" for key in expected if key not in found and key not in weights]
    return missing


def _lacks(keys: list[str]) -> str:
    return f"lacks {len(keys)} weights, among them {', '.join(keys[:3])}"


def _clip_tokenizer(file: Path, options: dict) -> transformers.PreTrainedTokenizerBase:
    """Returns CLIP's tokenizer, whose files no checkpoint holds, from a folder beside it or from the hub."""
    folder = file.parent / "tokenizer"
    try:
        if not (folder / "merges.txt").is_file():
            folder = fetch(CLIP, "tokenizer", None, ["vocab.json", "merges.txt"])
        return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77, **options)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise OSError(
            f"a checkpoint holds no tokenizer: put vocab.json and merges.txt of {CLIP} into "
            f"{file.parent / 'tokenizer'}."
        ) from error


def load_model(folder: Path, name: str, dtype: torch.dtype) -> ModelMixin | transformers.PreTrainedModel:
    """Loads the UNet, VAE or a text encoder of a model folder onto the CPU, in evaluation mode.

    The checks are necessary because `from_pretrained` initializes missing weights randomly and reports them
    only in a log, if at all.

    Args:
        folder: model folder.
        name: name of the component, for example "unet".
        dtype: dtype of the weights.

    Raises:
        OSError: the file is damaged, lacks weights, has weights of another shape, or contains NaN or inf.
    """
    return _whole(_class(folder, name), folder / name, dtype, name, folder, variant(folder, name))


def load_tiny(folder: Path, dtype: torch.dtype) -> diffusers.AutoencoderTiny:
    """Loads a tiny autoencoder for previews, with the checks of `load_model`.

    Args:
        folder: folder of an `AutoencoderTiny`.
        dtype: dtype of the weights.

    Raises:
        OSError: the file is damaged, lacks weights, has weights of another shape, or contains NaN or inf.
    """
    return _whole(diffusers.AutoencoderTiny, folder, dtype, "preview", folder)


def _whole(
    klass: Any, place: Path, dtype: torch.dtype, name: str, folder: Path, kind: str | None = None
) -> Any:
    try:
        with _quiet():
            model, report = klass.from_pretrained(
                place,
                torch_dtype=dtype,
                variant=kind,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise OSError(f"cannot read the {name} in {folder}: {reason}.") from error
    faults = [*sorted(report["missing_keys"]), *sorted(key for key, *_ in report["mismatched_keys"])]
    if faults:
        raise OSError(f"the {name} in {folder} {_lacks(faults)}.")
    _check_whole(model, name, folder)
    return model.eval()


def _check_whole(model: nn.Module, name: str, where: Path) -> None:
    """Raises OSError if weights were not loaded or are not finite."""
    missing = [key for key, weight in model.named_parameters() if weight.is_meta]
    if missing:
        raise OSError(f"the {name} in {where} {_lacks(missing)}.")
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise OSError(f"the {name} in {where} holds values that are not numbers, in {key}.")


def load_tokenizer(folder: Path, name: str = "tokenizer") -> transformers.PreTrainedTokenizerBase:
    """Loads a tokenizer of a model folder.

    Args:
        folder: model folder.
        name: name of the subfolder.

    Raises:
        OSError: its files are missing or damaged.
    """
    try:
        return _class(folder, name).from_pretrained(folder / name, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise OSError(f"cannot read the {name} in {folder} ({type(error).__name__}).") from error


def find_device(name: str | torch.device | None) -> torch.device:
    """Returns the named device. Defaults to the first available of cuda, mps and cpu.

    Args:
        name: device name, for example "cuda:1".

    Raises:
        ValueError: the device does not exist on this machine.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ValueError):
        raise ValueError(f"there is no device {name} on this machine: leave it out, or use cpu.") from None


def best_dtype(device: torch.device) -> torch.dtype:
    """Returns the default dtype of the weights on a device.

    Returns:
        float32 on the CPU, where a seed must reproduce the same bits. Elsewhere bfloat16, or float16 if the
        device has no bfloat16: half the memory, and faster.
    """
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16


def multiplies_in_bf16() -> bool:
    """Returns whether the CPU has bfloat16 matrix instructions (AMX or AVX512-BF16).

    Without them bfloat16 takes up to twice as long as float32.
    """
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _class(folder: Path, name: str) -> Any:
    klass = component_class(folder, name)
    return getattr(diffusers, klass, None) or getattr(transformers, klass)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disables the progress bars of diffusers and transformers; loading takes about a second."""
    shown = [
        library.utils.logging
        for library in (diffusers, transformers)
        if library.utils.logging.is_progress_bar_enabled()
    ]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
