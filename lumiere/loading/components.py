"""Loads each component of a base model with its own class, from safetensors and never from a pickle."""

from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from lumiere.loading.layout import component_class, variant


def load_model(folder: Path, name: str, dtype: torch.dtype) -> nn.Module:
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


def load_tiny(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Loads a tiny autoencoder for previews, with the checks of `load_model`.

    Args:
        folder: folder of an `AutoencoderTiny`.
        dtype: dtype of the weights.

    Raises:
        OSError: the file is damaged, lacks weights, has weights of another shape, or contains NaN or inf.
    """
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


def _class(folder: Path, name: str):
    klass = component_class(folder, name)
    return getattr(diffusers, klass, None) or getattr(transformers, klass)


@contextmanager
def _quiet():
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
