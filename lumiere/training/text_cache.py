"""Encodes captions once and caches their embeddings on disk beside the latents.

The folder texts-ENCODERS-TEXTS, named by two hashes, holds a float16 file for each tensor of a `Text`. Each
distinct caption has one row, in the order of the sorted captions.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lumiere.loading.components import load_base
from lumiere.loading.text_encoder import TextEncoder
from lumiere.model.text import Text

BATCH = 64  # captions encoded at once
STATES = "states"


class TextCache:
    """Returns the embeddings that a `TextEncoder` would compute, from a folder written by `cache_texts`.

    Args:
        folder: cache folder.
        texts: all distinct captions of the cache.
    """

    def __init__(self, folder: Path, texts: Iterable[str]):
        self._rows = {text: row for row, text in enumerate(sorted(texts))}
        self._tensors = {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}

    def __call__(self, texts: list[str], device: torch.device) -> Text:
        """Returns the embeddings of n captions as float32, n rows.

        Args:
            texts: captions.
            device: device of the result.
        """
        rows = [self._rows[text] for text in texts]
        told = {
            name: torch.from_numpy(tensor[rows]).float().to(device) for name, tensor in self._tensors.items()
        }
        return Text(told.pop(STATES), told or None)


def cache_texts(
    folder: Path, texts: Iterable[str], model: Path, size: tuple[int, int], device: torch.device
) -> TextCache:
    """Returns the cache of these captions, filled on first use.

    Args:
        folder: parent folder of the cache.
        texts: captions.
        model: folder of the base model.
        size: height and width of the clips in pixels, part of XL's size conditioning.
        device: device of the text encoders.

    Raises:
        OSError: a file of the text encoders is missing or damaged, or the cache cannot be written.
    """
    texts = sorted(set(texts))
    encoders = f"texts-{_hash(_encoder_bytes(model), repr(size).encode())}"
    where = folder / f"{encoders}-{_hash(text.encode() for text in texts)}"
    if not where.is_dir():
        _fill(where, texts, TextEncoder(load_base(model, torch.float32).to(device)), size)
        for old in folder.glob(f"{encoders}-*"):  # caches of earlier captions
            if old != where:
                shutil.rmtree(old)
    return TextCache(where, texts)


def _fill(where: Path, texts: list[str], encode: TextEncoder, size: tuple[int, int]) -> None:
    part = where.with_name(f"{where.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    arrays = {}
    for first in tqdm(range(0, len(texts), BATCH), desc="reading captions", unit="batch", disable=None):
        told = encode(texts[first : first + BATCH], *size, plain=True)
        for name, tensor in ({STATES: told.states} | (told.added or {})).items():
            if name not in arrays:
                shape = (len(texts), *tensor.shape[1:])
                arrays[name] = np.lib.format.open_memmap(part / f"{name}.npy", "w+", np.float16, shape)
            arrays[name][first : first + len(tensor)] = tensor.half().cpu().numpy()
    for array in arrays.values():
        array.flush()
    os.replace(part, where)


def _encoder_bytes(model: Path) -> Iterable[bytes]:
    """Yields names and contents of all files that determine the embeddings."""
    for folder in sorted(model.glob("text_encoder*")) + sorted(model.glob("tokenizer*")):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield file.relative_to(model).as_posix().encode()
            yield file.read_bytes()


def _hash(*parts: Iterable[bytes] | bytes) -> str:
    told = hashlib.sha256()
    for part in parts:
        for piece in [part] if isinstance(part, bytes) else part:
            told.update(len(piece).to_bytes(8, "big") + piece)
    return told.hexdigest()[:12]
