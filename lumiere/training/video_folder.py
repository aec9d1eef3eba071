"""Encodes a folder of captioned video files into latents for training, once (see latent_dataset.py).

Captions are lines {"file_name": "a.mp4", "text": "..."} of metadata.jsonl, the format of the datasets
library. Without this file, each clip has a text file beside it: a.mp4 and a.txt.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from lumiere.media.images import fit
from lumiere.media.video import read_clip
from lumiere.training.latent_dataset import CAPTIONS, FILES, read_lines

METADATA = "metadata.jsonl"
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
MAX_FRAMES, MAX_SIDE = 256, 2048  # read from each clip, at most 3.2 GB


@dataclass(frozen=True)
class Size:
    """Frame count and size of encoded clips.

    Attributes:
        frames: smallest number of frames; shorter clips are skipped.
        height: height in pixels.
        width: width in pixels.
    """

    frames: int
    height: int
    width: int


def encode_clips(
    folder: str | Path, cache: str | Path, vae: nn.Module, size: Size, tell: Callable[[str], None]
) -> int:
    """Encodes the clips of a folder into latents and returns how many can be used.

    Clips in the cache are not encoded again, so an interrupted call resumes.

    Args:
        folder: folder of captioned video files.
        cache: output folder.
        vae: autoencoder.
        size: frame count and size of the clips.
        tell: callback for skipped clips and reasons, called at most once.

    Raises:
        ValueError: no clip can be used, or the metadata is not valid.
    """
    folder, cache = Path(folder).resolve(), Path(cache)
    (cache / FILES).mkdir(parents=True, exist_ok=True)
    lines, skipped = [], []
    entries = list(captioned(folder))
    for file, text in tqdm(entries, desc="encoding", unit="clip", disable=None):
        name = f"{file.relative_to(folder).as_posix().replace('/', '-')}-{_stamp(file, size)}.npy"
        try:
            if not text:
                raise ValueError("it has no caption")
            if (cache / FILES / name).exists():
                _check_length(len(np.load(cache / FILES / name, mmap_mode="r")), size)
            else:
                _write(cache / FILES / name, encode_clip(file, vae, size))
        except ValueError as reason:
            skipped.append(f"  {file.relative_to(folder)}: {str(reason).rstrip('.')}")
        else:
            lines.append(json.dumps({"text": text, "latents": name}, ensure_ascii=False))
    if skipped:
        tell(f"{len(skipped)} of {len(entries)} clips in {folder} are left out:\n" + "\n".join(skipped))
    if not lines:
        raise ValueError(f"There is no clip in {folder} that could be used, of {len(entries)} found.")
    part = cache / f"{CAPTIONS}.part"
    part.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    os.replace(part, cache / CAPTIONS)
    return len(lines)


def captioned(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields the video files of a folder with their captions, in a fixed order. Missing captions are empty.

    Args:
        folder: resolved path without symbolic links, like the paths of its files.

    Raises:
        ValueError: a metadata line is not valid or leads out of the folder; the message gives its number.
    """
    metadata = folder / METADATA
    if not metadata.exists():
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in SUFFIXES:
                text = file.with_suffix(".txt")
                yield file, text.read_text("utf-8", "replace").strip() if text.exists() else ""
        return
    try:
        lines = read_lines(metadata)
    except UnicodeDecodeError as error:
        raise ValueError(f"{metadata} should be UTF-8 text: byte {error.start + 1} is not.") from None
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry.get("text", "")
            text.encode()  # rejects lone surrogates, which JSON allows
            file = (folder / name).resolve()
            inside = file.is_relative_to(folder)
        except (ValueError, KeyError, TypeError, AttributeError):
            inside = False
        if not inside:
            wanted = '{"file_name": "a.mp4", "text": "..."}, of a file inside the folder'
            raise ValueError(f"Line {number} of {metadata} should be like {wanted}.")
        yield file, text.strip()


@torch.inference_mode()
def encode_clip(file: Path, vae: nn.Module, size: Size, batch: int = 16) -> np.ndarray:
    """Encodes a video file.

    Args:
        file: video file.
        vae: autoencoder.
        size: frame count and size of the clip.
        batch: frames encoded at once.

    Returns:
        Scaled latents, float16 `t c h w`.

    Raises:
        ValueError: the file is missing, cannot be read or is too short.
    """
    if not file.exists():
        raise ValueError("there is no such file")
    clip, _ = read_clip(file, MAX_FRAMES, MAX_SIDE)
    _check_length(len(clip), size)
    frames = torch.from_numpy(fit(clip, size.height, size.width)).permute(0, 3, 1, 2)  # t h w c -> t c h w
    weight = next(vae.parameters())
    latents = [
        vae.encode(part.to(weight.device, weight.dtype) / 127.5 - 1).latent_dist.mean.float().cpu()
        for part in frames.split(batch)
    ]
    return (torch.cat(latents) * vae.config.scaling_factor).half().numpy()


def _check_length(frames: int, size: Size) -> None:
    if frames < size.frames:
        raise ValueError(f"it has {frames} frames, fewer than {size.frames}")


def _stamp(file: Path, size: Size) -> str:
    """Returns a cache key that changes with the file and with the encoded size."""
    told = file.stat() if file.exists() else None
    return f"{told.st_size if told else 0}-{int(told.st_mtime) if told else 0}-{size.height}x{size.width}"


def _write(file: Path, latents: np.ndarray) -> None:
    part = file.with_name(f"{file.name}.part")
    with open(part, "wb") as stream:
        np.save(stream, latents)
    os.replace(part, file)
