"""The parts of a base model, each loaded by its own class, from safetensors and never from a pickle."""

from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from lumiere.loading.layout import component_class, variant


def load_model(folder: Path, name: str, dtype: torch.dtype) -> nn.Module:
    """The unet, vae or a text encoder of a model folder, on the CPU, ready for inference.

    Raises OSError in words when its file is damaged, lacks weights, has misshapen ones, or holds NaN or inf:
    the libraries would go on with random numbers in their place, or say so only in a log.
    """
    return _whole(_class(folder, name), folder / name, dtype, name, folder, variant(folder, name))


def load_tiny(folder: Path, dtype: torch.dtype) -> nn.Module:
    """A tiny autoencoder for previews, as `load_model`."""
    return _whole(diffusers.AutoencoderTiny, folder, dtype, "preview", folder)


def _whole(
    klass, place: Path, dtype: torch.dtype, name: str, folder: Path, kind: str | None = None
) -> nn.Module:
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
    faults = sorted(map(str, report["missing_keys"])) + sorted(
        str(key[0]) for key in report["mismatched_keys"]
    )
    if faults:
        raise OSError(
            f"the {name} in {folder} lacks {len(faults)} weights, among them {', '.join(faults[:3])}."
        )
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise OSError(f"the {name} in {folder} holds values that are not numbers, in {key}.")
    return model.eval()


def load_tokenizer(folder: Path, name: str = "tokenizer"):
    """A tokenizer of a model folder. Raises OSError in words when its files are damaged."""
    try:
        return _class(folder, name).from_pretrained(folder / name, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise OSError(f"cannot read the {name} in {folder} ({type(error).__name__}).") from error


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of this name, or the first there is. Raises ValueError when there is none."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ValueError):
        raise ValueError(f"there is no device {name} on this machine: leave it out, or use cpu.") from None


def best_dtype(device: torch.device) -> torch.dtype:
    """float32 on the CPU, where a seed must give the same bits; elsewhere half the size and faster."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16


def multiplies_in_bf16() -> bool:
    """Whether the processor does: others take up to twice as long in bfloat16 as in float32."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _class(folder: Path, name: str):
    klass = component_class(folder, name)
    return getattr(diffusers, klass, None) or getattr(transformers, klass)


@contextmanager
def _quiet():
    """Without the libraries' progress bars, which count tensors and shards of what takes a second."""
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
