"""Encodes a folder of captioned video files into latents for training, once (see latent_dataset.py).

Captions are lines {"file_name": "a.mp4", "text": "..."} of metadata.jsonl, the format of the datasets
library. Without this file, each clip has a text file beside it: a.mp4 and a.txt.
"""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from lumiere.media.header import probe
from lumiere.media.images import fit
from lumiere.media.text import printable, read_text
from lumiere.media.video import read_clip
from lumiere.training.latent_dataset import CAPTIONS, FILES, read_lines

METADATA = "metadata.jsonl"
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp"),
)
MAX_FRAMES, MAX_SIDE = 256, 2048  # read from each clip, at most 3.2 GB
FRAMES_AT_ONCE = 16  # encoded
WANTED = 'a line should be like {"file_name": "a.mp4", "text": "..."}, of a file inside the folder'


@dataclass(frozen=True)
class Size:
    """Frame count, size and rate of encoded clips.

    Attributes:
        frames: smallest number of frames; shorter clips are skipped.
        height: height in pixels.
        width: width in pixels.
        fps: frames per second to which clips are brought; 0 keeps each clip's own rate.
    """

    frames: int
    height: int
    width: int
    fps: int = 0


class Entry(NamedTuple):
    """A clip of a folder.

    Attributes:
        name: its file relative to the folder, or its line of the metadata.
        file: path of the video.
        text: caption.
        problem: reason why the clip cannot be used, empty for none.
    """

    name: str
    file: Path
    text: str
    problem: str = ""


def encode_clips(
    folder: str | Path, cache: str | Path, vae: AutoencoderKL, size: Size, tell: Callable[[str], None]
) -> int:
    """Encodes the clips of a folder into latents and returns how many can be used.

    Clips in the cache are not encoded again, so an interrupted call resumes. A clip that cannot be used never
    ends the call.

    Args:
        folder: folder of captioned video files.
        cache: output folder.
        vae: autoencoder.
        size: frame count, size and rate of the clips.
        tell: callback for skipped clips with reasons, and for clips of different rates; called at most once.

    Raises:
        ValueError: no clip can be used.
    """
    folder, cache = Path(folder), Path(cache)
    (cache / FILES).mkdir(parents=True, exist_ok=True)
    lines, skipped, known = [], [], _known_rates(cache)
    entries = list(captioned(folder))
    for entry in tqdm(entries, desc="encoding", unit="clip", disable=None):
        try:
            if entry.problem or not entry.text:
                raise ValueError(entry.problem or "it has no caption")
            name, fps = _encoded(entry, cache / FILES, vae, size, known)
        except ValueError as reason:
            skipped.append(printable(f"  {entry.name}: {str(reason).rstrip('.')}"))
        else:
            lines.append({"text": entry.text, "latents": name, "fps": fps})
    told = [f"{len(skipped)} of {len(entries)} clips in {folder} are left out:", *skipped] if skipped else []
    told += _rates(Counter(line["fps"] for line in lines))
    if told:
        tell("\n".join(told))
    if not lines:
        raise ValueError(f"There is no clip in {folder} that could be used, of {len(entries)} found.")
    part = cache / f"{CAPTIONS}.part"
    part.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), "utf-8")
    os.replace(part, cache / CAPTIONS)
    return len(lines)


def captioned(folder: Path) -> Iterator[Entry]:
    """Yields the clips of a folder with their captions, in a fixed order. Missing captions are empty.

    Files may be symbolic links to anywhere, as the hub's cache makes them; hidden files are skipped.

    Args:
        folder: path of the folder.

    Raises:
        ValueError: the metadata file is not text.
    """
    if not (folder / METADATA).exists():
        for file in _videos(folder):
            try:
                text, problem = _sidecar(file), ""
            except ValueError as error:
                text, problem = "", f"its caption cannot be used: {error}"
            yield Entry(str(file.relative_to(folder)), file, text, problem)
        return
    for number, line in enumerate(read_lines(folder / METADATA), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            file, text = _inside(folder, entry["file_name"]), entry.get("text", "").strip()
            text.encode()  # rejects lone surrogates, which JSON allows
        except (ValueError, KeyError, TypeError, AttributeError):
            yield Entry(f"line {number} of {METADATA}", folder, "", WANTED)
        else:
            yield Entry(entry["file_name"], file, text)


def _videos(folder: Path) -> list[Path]:
    """Returns all video files below a folder; symbolic links are followed, but not in circles."""
    found, seen = [], set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            found += [Path(where, name) for name in files if not name.startswith(".")]
        seen.add(real)
    return sorted(file for file in found if file.suffix.lower() in SUFFIXES)


def _sidecar(file: Path) -> str:
    """Returns the caption beside a video: that of a.mp4 is in a.txt."""
    text = file.with_suffix(".txt")
    return read_text(text).strip() if os.path.lexists(text) else ""


def _inside(folder: Path, name: str) -> Path:
    """Returns the path of a file by its name in the metadata, which may be absolute.

    Raises:
        ValueError: the path leads out of the folder. Symbolic links inside may.
    """
    for root in (folder.absolute(), folder.resolve()):
        for spelling in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))):
            file = Path(os.path.normpath(root / spelling))
            if file.is_relative_to(root) and file.exists():
                return file
    for root in (folder.absolute(), folder.resolve()):
        file = Path(os.path.normpath(root / name))
        if file.is_relative_to(root):
            return file
    raise ValueError("the file is outside of the folder")


def _encoded(
    entry: Entry, folder: Path, vae: AutoencoderKL, size: Size, known: dict[str, float]
) -> tuple[str, float]:
    """Returns the file name of a clip's latents, encoded now unless they are in `folder`, and its rate.

    Raises:
        ValueError: the clip cannot be used.
    """
    name = f"{_key(entry, size)}.npy"
    try:
        frames = len(np.load(folder / name, mmap_mode="r"))
    except (OSError, ValueError, EOFError):  # missing or damaged
        latents, fps = encode_clip(entry.file, vae, size)
        _write(folder / name, latents)
        return name, fps
    _check_length(frames, size)
    return name, known.get(name) or size.fps or probe(entry.file).fps


def _known_rates(cache: Path) -> dict[str, float]:
    try:
        lines = [json.loads(line) for line in read_lines(cache / CAPTIONS)]
        return {line["latents"]: line["fps"] for line in lines if "fps" in line}
    except (ValueError, KeyError, TypeError):
        return {}


def _rates(counts: Counter) -> list[str]:
    """Returns a sentence about clips of different rates, which show the same motion at different speeds."""
    if not counts or max(counts) <= 1.05 * min(counts):  # rates of GIFs are rounded
        return []
    listed = ", ".join(f"{count} at {fps:g}" for fps, count in sorted(counts.items()))
    usual = counts.most_common(1)[0][0]
    return [
        f"The clips differ in frames per second ({listed}), so one motion has several speeds in training; "
        f"--fps {round(usual)} brings them to one rate."
    ]


@torch.inference_mode()
def encode_clip(file: Path, vae: AutoencoderKL, size: Size) -> tuple[np.ndarray, float]:
    """Encodes a video file.

    Args:
        file: video file.
        vae: autoencoder.
        size: frame count, size and rate of the clip.

    Returns:
        Scaled latents, float16 `t c h w`, and frames per second.

    Raises:
        ValueError: the file is missing, cannot be read or is too short.
    """
    clip, fps = read_clip(file, MAX_FRAMES, MAX_SIDE, fps=size.fps or None)
    _check_length(len(clip), size)
    frames = torch.from_numpy(fit(clip, size.height, size.width)).permute(0, 3, 1, 2)  # t h w c -> t c h w
    weight = next(vae.parameters())
    latents = [
        vae.encode(part.to(weight.device, weight.dtype) / 127.5 - 1).latent_dist.mean.float().cpu()
        for part in frames.split(FRAMES_AT_ONCE)
    ]
    return (torch.cat(latents) * vae.config.scaling_factor).half().numpy(), fps


def _check_length(frames: int, size: Size) -> None:
    if frames < size.frames:
        raise ValueError(f"it has {frames} frames, fewer than {size.frames}")


def _key(entry: Entry, size: Size) -> str:
    """Returns a cache key that changes with the file and the encoded size and is short, whatever its name.

    Raises:
        ValueError: the file cannot be used.
    """
    try:
        told = entry.file.stat()
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"it cannot be opened: {error.strerror}") from None
    facts = f"{told.st_size}-{told.st_mtime_ns}-{size.height}x{size.width}-{size.fps}".encode()
    return hashlib.sha256(entry.name.encode("utf-8", "surrogateescape") + b"\0" + facts).hexdigest()[:32]


def _write(file: Path, latents: np.ndarray) -> None:
    part = file.with_name(f"{file.name}.part")
    with open(part, "wb") as stream:
        np.save(stream, latents)
    os.replace(part, file)
