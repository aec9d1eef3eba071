"""Reads training clips from a folder of latents and captions, and draws the batches of each step.

- `latents.npy`: float16 `n t c h w`, scaled by the scaling factor of the autoencoder.
- `weights.npy`: optional subject weights, uint8 `n t h w`: share of each latent that shows the subject,
  0 to 255.
- `captions.jsonl`: one line per clip, {"text": "...", "texts": ["...", "..."]}, `texts` optional.

Clips of different lengths are stored in one file each, latents/*.npy `t c h w`, instead of latents.npy. The
key "latents" of their line in captions.jsonl holds the file name.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumiere.media.text import read_text
from lumiere.model.conditioning import random_mask
from lumiere.training.config import Settings

Floats = NDArray[np.float32]
LATENTS, WEIGHTS, CAPTIONS, FILES = "latents.npy", "weights.npy", "captions.jsonl", "latents"
ORDER, CLIP, TIMES, MASK, LENGTH, COND = 1, 2, 3, 4, 5, 6  # keys of the random streams, all different


@dataclass(frozen=True)
class Batch:
    """A batch of training clips.

    Attributes:
        latents: clean latents `b c t h w`.
        subject: subject weights `b 1 t h w`, 0 to 1.
        noise: unit Gaussian noise `b c t h w`, independent between frames.
        cond: clean latents with conditioning noise, `b c t h w`.
        cond_mask: bool mask `b t h w`, True where the model sees `cond`.
        times: diffusion times `b` in [0, 1), from almost clean to almost pure noise.
        texts: b captions.
    """

    latents: Tensor
    subject: Tensor
    noise: Tensor
    cond: Tensor
    cond_mask: Tensor
    times: Tensor
    texts: list[str]


class LatentClips:
    """A folder of latents and captions. The latents stay on disk, memory-mapped.

    Args:
        folder: folder in the layout of this module.

    Attributes:
        channels: latent channels.
        size: height and width of the latents.
        frames: frames of the shortest clip.

    Raises:
        ValueError: a file is missing or damaged, or the files do not match.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder = Path(folder)
        self.texts = read_captions(folder)
        self.subject: NDArray[np.uint8] | None = None
        several = (folder / FILES).is_dir()
        self.latents = _Several(folder) if several else _one(folder, len(self.texts))
        shapes = [clip.shape for clip in self.latents]
        sizes = {shape[1:] for shape in shapes}
        if len(sizes) > 1:
            raise ValueError(
                f"The clips in {folder} differ in size: {', '.join(map(_times, sorted(sizes)))}."
            )
        self.size: list[int]
        self.channels, *self.size = sizes.pop()
        self.frames = min(shape[0] for shape in shapes)  # frames of the shortest clip
        if (folder / WEIGHTS).exists():
            self.subject = _open(folder / WEIGHTS, "n t h w", (np.uint8,))
            expected = (len(self.latents), self.frames, *self.size)
            if self.subject.shape != expected:
                received = _times(self.subject.shape)
                raise ValueError(f"{folder / WEIGHTS} should be {_times(expected)}; it is {received}.")

    def __len__(self) -> int:
        return len(self.latents)

    def __reduce__(self) -> tuple:
        """Pickles the folder only; another process opens the files itself."""
        return type(self), (self.folder,)

    def draw(self, step: int, clips: Sequence[int], settings: Settings) -> Batch:
        """Draws some clips of a step's batch.

        The result depends only on the step, the settings and the clip numbers. Processes may therefore
        divide the batch in any way, and a resumed run draws the same clips. An epoch shows each clip once
        before any repeats.

        Args:
            step: training step, from 0.
            clips: clip numbers in the batch, 0 to `settings.batch_size` - 1.
            settings: `batch_size`, `frames`, `seed` and the shares of captions, strides and masks.

        Raises:
            ValueError: the stored clips have fewer than `settings.frames` frames.
        """
        batch, frames = settings.batch_size, settings.frames
        if frames > self.frames:
            raise ValueError(f"The clips have {self.frames} frames; training on {frames} was asked for.")
        times = _stratified(batch, np.random.default_rng((TIMES, settings.seed, step)))
        drawn = [self._clip(step * batch + clip, settings) for clip in clips]
        latents, subject, noise, cond, masks, texts = zip(*drawn, strict=True)
        return Batch(
            latents=_stack(latents),
            subject=torch.from_numpy(np.stack(subject)).unsqueeze(1),  # b t h w -> b 1 t h w
            noise=_stack(noise),
            cond=_stack(cond),
            cond_mask=torch.stack(masks),
            times=torch.from_numpy(times[list(clips)]),
            texts=list(texts),
        )

    def _clip(self, number: int, settings: Settings) -> tuple[Floats, Floats, Floats, Floats, Tensor, str]:
        """Returns latents, subject, noise, cond `t ...`, mask and caption of a clip, counted from step 0."""
        seed, frames = settings.seed, settings.frames
        epoch, place = divmod(number, len(self))
        row = np.random.default_rng((ORDER, seed, epoch)).permutation(len(self))[place]
        random = np.random.default_rng((CLIP, seed, number))
        clip = self.latents[row]
        most = max(1, min(settings.stride, (len(clip) - 1) // max(1, frames - 1)))
        step = 1 if settings.stride == 1 else 1 + int(random.integers(most))
        start = int(random.integers(len(clip) - step * (frames - 1)))
        extra = np.random.default_rng((COND, seed, number))
        from_start = extra.random() < settings.from_start
        start = 0 if from_start else start
        shown = slice(start, start + step * frames, step)
        latents = clip[shown].astype(np.float32)
        noise = random.standard_normal(latents.shape, np.float32)
        if self.subject is None:
            subject = np.zeros((frames, *latents.shape[2:]), np.float32)
        else:
            subject = self.subject[row, shown].astype(np.float32) / 255
        text = self.texts[row][random.integers(len(self.texts[row]))]
        level = np.float32(settings.cond_noise * extra.random())
        cond = latents + level * extra.standard_normal(latents.shape, np.float32)
        mask = self._mask(number, settings, from_start)
        return latents, subject, noise, cond, mask, "" if random.random() < settings.caption_dropout else text

    def _mask(self, number: int, settings: Settings, from_start: bool) -> Tensor:
        random = np.random.default_rng((MASK, settings.seed, number))
        generator = torch.Generator().manual_seed(int(random.integers(2**63)))
        frames, (height, width) = settings.frames, self.size
        if not from_start:
            return random_mask(frames, height, width, generator, settings.cond_prob, settings.continued)
        mask = torch.zeros(frames, height, width, dtype=torch.bool)
        mask[0] = bool(random.random() < settings.cond_prob)
        return mask


def _stack(clips: Sequence[np.ndarray]) -> Tensor:
    """Stacks clips `t c h w` to `b c t h w`."""
    return torch.from_numpy(np.stack(clips)).transpose(1, 2)


def draw_length(lengths: Sequence[int], step: int, seed: int) -> int:
    """Draws the number of frames for all clips of a step, from the step and the seed only.

    Args:
        lengths: candidates.
        step: training step, from 0.
        seed: seed of the run.
    """
    return int(np.random.default_rng((LENGTH, seed, step)).choice(lengths))


def write_captions(folder: str | Path, texts: Iterable[Sequence[str]]) -> None:
    """Writes captions.jsonl.

    Args:
        folder: output folder.
        texts: captions of each clip; the first one is the canonical caption.
    """
    file = Path(folder) / CAPTIONS
    part = file.with_name(f"{CAPTIONS}.part")
    with open(part, "w", encoding="utf-8") as lines:
        for several in texts:
            lines.write(json.dumps({"text": several[0], "texts": list(several)}, ensure_ascii=False) + "\n")
    os.replace(part, file)


def read_captions(folder: str | Path) -> list[list[str]]:
    """Reads captions.jsonl.

    Args:
        folder: folder of captions.jsonl.

    Returns:
        At least one caption for each clip.

    Raises:
        ValueError: the file cannot be read, or a line is not valid; the message gives its number.
    """
    file = Path(folder) / CAPTIONS
    if not file.parent.is_dir():
        what = "a file" if file.parent.exists() else "missing"
        raise ValueError(f"{file.parent} is {what}: a folder of clips or of latents is needed.")
    if not file.exists():
        raise ValueError(f"There is no {CAPTIONS} in {file.parent}.")
    lines, captions = read_lines(file), []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            texts = entry.get("texts") or [entry["text"]]
        except (ValueError, KeyError, AttributeError):
            texts = None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f'Line {number} of {file} should be like {{"text": "..."}}.')
        captions.append(texts)
    return captions


def read_lines(file: Path) -> list[str]:
    """Returns the lines of a JSON lines file. `splitlines` would also split inside JSON strings.

    Args:
        file: path of the file, UTF-8 or UTF-16.

    Raises:
        ValueError: the file cannot be read.
    """
    return read_text(file).rstrip("\r\n").split("\n")


def _one(folder: Path, captions: int) -> np.ndarray:
    clips = _open(folder / LATENTS, "n t c h w", (np.float16, np.float32))
    if len(clips) == 0:
        raise ValueError(f"{folder / LATENTS} holds no clips.")
    if captions != len(clips):
        raise ValueError(f"{folder} has {len(clips)} clips and captions for {captions}.")
    return clips


class _Several:
    """Clips stored in one file each; files are opened on access only."""

    def __init__(self, folder: Path):
        lines = [json.loads(line) for line in read_lines(folder / CAPTIONS)]
        self.files = [folder / FILES / Path(line.get("latents", "")).name for line in lines]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> np.ndarray:
        return _open(self.files[row], "t c h w", (np.float16, np.float32))


def _stratified(count: int, random: np.random.Generator) -> np.ndarray:
    """Draws one number from each of `count` equal intervals of [0, 1), in random order."""
    times = (np.arange(count) + random.random(count)) / count
    return random.permutation(np.minimum(times, 1 - 1e-7))


def _open(file: Path, axes: str, kinds: tuple[type[np.generic], ...]) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r")
    except FileNotFoundError:
        raise ValueError(f"There is no {file.name} in {file.parent}.") from None
    except (OSError, ValueError, EOFError):
        raise ValueError(f"{file} is not an array of numpy, or is cut off.") from None
    names = " or ".join(np.dtype(kind).name for kind in kinds)
    if array.ndim != len(axes.split()) or array.dtype not in kinds:
        received = f"{array.dtype} with {array.ndim} axes"
        raise ValueError(f"{file} should be {names} with the axes {axes}; it is {received}.")
    return array


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
