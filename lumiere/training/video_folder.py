"""A folder of video files with captions, encoded once into latents for training (see latent_dataset.py).

Captions are lines {"file_name": "a.mp4", "text": "..."} of metadata.jsonl, as the datasets library has them,
or, where there is no such file, a text file beside each clip: a.mp4 and a.txt.
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
MAX_FRAMES, MAX_SIDE = 256, 2048  # read of each clip: 3.2 gigabytes at most


@dataclass(frozen=True)
class Size:
    """What clips are brought to; a shorter one than `frames` is left out."""

    frames: int
    height: int
    width: int


def encode_clips(
    folder: str | Path, cache: str | Path, vae: nn.Module, size: Size, tell: Callable[[str], None]
) -> int:
    """Encodes the clips of `folder` into `cache`, unless they are there already; returns how many there are.

    What cannot be used is told once, a line each, and left out. An interrupted call goes on where it was.
    Raises ValueError in words when nothing can be used.
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
    """The video files of a folder with their captions, empty where there is none, in a fixed order.

    folder: without links in its own path, as those of the files are.

    Raises ValueError, naming the line, for metadata that is not as it should be, or leads out of the folder.
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
            text.encode()  # half of a pair of surrogates, which JSON may have, is no text
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
    """Scaled latents of a video file, float16 (t c h w). Raises ValueError in words."""
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
    """Changes with the file and with what it is brought to."""
    told = file.stat() if file.exists() else None
    return f"{told.st_size if told else 0}-{int(told.st_mtime) if told else 0}-{size.height}x{size.width}"


def _write(file: Path, latents: np.ndarray) -> None:
    part = file.with_name(f"{file.name}.part")
    with open(part, "wb") as stream:
        np.save(stream, latents)
    os.replace(part, file)
