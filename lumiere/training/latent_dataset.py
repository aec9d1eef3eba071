"""Clips to train on, as a folder of latents and captions, and what is drawn from them for each step.

latents.npy     float16 (n t c h w), multiplied by the autoencoder's scaling factor
weights.npy     uint8 (n t h w), optional: share of each latent that shows the subject, 0 to 255
captions.jsonl  a line per clip: {"text": "...", "texts": ["...", "..."]}, `texts` optional

Clips of different lengths have a file each instead, latents/*.npy (t c h w), named in the line as "latents".
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lumiere.model.conditioning import random_mask

LATENTS, WEIGHTS, CAPTIONS, FILES = "latents.npy", "weights.npy", "captions.jsonl", "latents"
ORDER, CLIP, TIMES, MASK, LENGTH, COND = 1, 2, 3, 4, 5, 6  # what is drawn: no two may be the same


@dataclass(frozen=True)
class Batch:
    """Clips `b c t h w` with unit noise for each frame; `subject` is 0 to 1, `b 1 t h w`.

    `given`, bool `b t h w`, marks the latents that the model is shown, as they are in `cond`.

    `times` (b,), one per clip, lie in [0, 1): from almost clean to almost pure noise.
    """

    latents: Tensor
    subject: Tensor
    noise: Tensor
    cond: Tensor
    given: Tensor
    times: Tensor
    texts: list[str]


@dataclass(frozen=True)
class DrawOptions:
    """What is drawn for a step.

    Attributes:
        batch: clips of a step.
        frames: of each clip.
        seed: of all that is drawn.
        caption_dropout: share of captions left empty.
        stride: of a long clip every second, third, up to every `stride`-th frame may be taken.
        given: share of clips of which some pixels are given (conditioning.random_mask).
        continued: share of those of which the first frames are given, up to half of them.
        from_start: share of clips that begin with the first frame of what is on disk; that frame alone is
            what may be given of them.
        cond_noise: standard deviation, at most, of noise on given latents.
    """

    batch: int
    frames: int
    seed: int = 0
    caption_dropout: float = 0.0
    stride: int = 1
    given: float = 0.0
    continued: float = 0.2
    from_start: float = 0.0
    cond_noise: float = 0.0


class LatentClips:
    """A folder of latents and captions; the latents stay on disk.

    Raises ValueError in words when a file is missing, damaged, or does not fit the others.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder = Path(folder)
        self.subject, self.texts = None, read_captions(folder)
        self.latents = _Several(folder) if (folder / FILES).is_dir() else _one(folder, len(self.texts))
        shapes = [clip.shape for clip in self.latents]
        sizes = {shape[1:] for shape in shapes}
        if len(sizes) > 1:
            raise ValueError(
                f"The clips in {folder} differ in size: {', '.join(map(_times, sorted(sizes)))}."
            )
        self.channels, *self.size = sizes.pop()
        self.frames = min(shape[0] for shape in shapes)  # of the shortest clip
        if (folder / WEIGHTS).exists():
            self.subject = _open(folder / WEIGHTS, "n t h w", (np.uint8,))
            expected = (len(self.latents), self.frames, *self.size)
            if self.subject.shape != expected:
                expected, received = _times(expected), _times(self.subject.shape)
                raise ValueError(f"{folder / WEIGHTS} should be {expected}; it is {received}.")

    def __len__(self) -> int:
        return len(self.latents)

    def __reduce__(self) -> tuple:
        """As its folder: another process opens the files itself, and is not sent what is in them."""
        return type(self), (self.folder,)

    def draw(self, step: int, clips: Sequence[int], options: DrawOptions) -> Batch:
        """Some of the clips of a step.

        What is drawn depends on the step, the options and the number of the clip in the batch alone, so that
        processes may divide the batch as they like, and a run resumes where it was. All clips are seen once
        before one is seen again.

        Args:
            step: of the training, from 0.
            clips: numbers of clips in the batch, 0 to `options.batch` - 1.
            options: how they are drawn.

        Raises:
            ValueError: the clips on disk have fewer frames.
        """
        batch, frames = options.batch, options.frames
        if frames > self.frames:
            raise ValueError(f"The clips have {self.frames} frames; training on {frames} was asked for.")
        times = _stratified(batch, np.random.default_rng((TIMES, options.seed, step)))
        drawn = [self._clip(step * batch + clip, options) for clip in clips]
        latents, subject, noise, cond, given, texts = zip(*drawn, strict=True)
        return Batch(
            latents=_stack(latents),
            subject=torch.from_numpy(np.stack(subject)).unsqueeze(1),  # b t h w -> b 1 t h w
            noise=_stack(noise),
            cond=_stack(cond),
            given=torch.stack(given),
            times=torch.from_numpy(times[list(clips)]),
            texts=list(texts),
        )

    def _clip(self, number: int, options: DrawOptions) -> tuple:
        """The clip of this number since step 0: latents, subject, noise, cond (t ...), mask and text."""
        seed, frames = options.seed, options.frames
        epoch, place = divmod(number, len(self))
        row = np.random.default_rng((ORDER, seed, epoch)).permutation(len(self))[place]
        random = np.random.default_rng((CLIP, seed, number))
        clip = self.latents[row]
        most = max(1, min(options.stride, (len(clip) - 1) // max(1, frames - 1)))
        step = 1 if options.stride == 1 else 1 + random.integers(most)
        start = random.integers(len(clip) - step * (frames - 1))
        extra = np.random.default_rng((COND, seed, number))
        from_start = extra.random() < options.from_start
        start = 0 if from_start else start
        shown = slice(start, start + step * frames, step)
        latents = clip[shown].astype(np.float32)
        noise = random.standard_normal(latents.shape, np.float32)
        if self.subject is None:
            subject = np.zeros((frames, *latents.shape[2:]), np.float32)
        else:
            subject = self.subject[row, shown].astype(np.float32) / 255
        text = self.texts[row][random.integers(len(self.texts[row]))]
        level = np.float32(options.cond_noise * extra.random())
        cond = latents + level * extra.standard_normal(latents.shape, np.float32)
        mask = self._mask(number, options, from_start)
        return latents, subject, noise, cond, mask, "" if random.random() < options.caption_dropout else text

    def _mask(self, number: int, options: DrawOptions, from_start: bool) -> Tensor:
        random = np.random.default_rng((MASK, options.seed, number))
        generator = torch.Generator().manual_seed(int(random.integers(2**63)))
        if not from_start:
            return random_mask(options.frames, *self.size, generator, options.given, options.continued)
        mask = torch.zeros(options.frames, *self.size, dtype=torch.bool)
        mask[0] = bool(random.random() < options.given)
        return mask


def _stack(clips: Sequence[np.ndarray]) -> Tensor:
    """Clips `t c h w` -> `b c t h w`."""
    return torch.from_numpy(np.stack(clips)).transpose(1, 2)


def draw_length(lengths: Sequence[int], step: int, seed: int) -> int:
    """One of these numbers of frames, for all clips of a step; it depends on step and seed alone."""
    return int(np.random.default_rng((LENGTH, seed, step)).choice(lengths))


def write_captions(folder: str | Path, texts: Iterable[Sequence[str]]) -> None:
    """Writes captions.jsonl: for each clip its texts, of which the first is the canonical one."""
    file = Path(folder) / CAPTIONS
    part = file.with_name(f"{CAPTIONS}.part")
    with open(part, "w", encoding="utf-8") as lines:
        for several in texts:
            lines.write(json.dumps({"text": several[0], "texts": list(several)}, ensure_ascii=False) + "\n")
    os.replace(part, file)


def read_captions(folder: str | Path) -> list[list[str]]:
    """The texts of each clip, one at least. Raises ValueError, naming the line, when there is none."""
    file = Path(folder) / CAPTIONS
    try:
        lines = read_lines(file)
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"There is no {CAPTIONS} in {file.parent} that could be read.") from None
    captions = []
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
    """Those of a file of JSON lines; `splitlines` knows ends of lines that JSON has within text, too."""
    return file.read_text("utf-8").rstrip("\n").split("\n")


def _one(folder: Path, captions: int) -> np.ndarray:
    clips = _open(folder / LATENTS, "n t c h w", (np.float16, np.float32))
    if len(clips) == 0:
        raise ValueError(f"{folder / LATENTS} holds no clips.")
    if captions != len(clips):
        raise ValueError(f"{folder} has {len(clips)} clips and captions for {captions}.")
    return clips


class _Several(Sequence):
    """Clips that have a file each; none stays open."""

    def __init__(self, folder: Path):
        lines = [json.loads(line) for line in read_lines(folder / CAPTIONS)]
        self.files = [folder / FILES / Path(line.get("latents", "")).name for line in lines]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> np.ndarray:
        return _open(self.files[row], "t c h w", (np.float16, np.float32))


def _stratified(count: int, random: np.random.Generator) -> np.ndarray:
    """One number from each of `count` equal parts of [0, 1), in random order."""
    times = (np.arange(count) + random.random(count)) / count
    return random.permutation(np.minimum(times, 1 - 1e-7))


def _open(file: Path, axes: str, kinds: tuple) -> np.ndarray:
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


def _times(shape: tuple) -> str:
    return " x ".join(map(str, shape))
