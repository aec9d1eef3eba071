"""Writes clips with their prompts: side by side as one animated picture, or frame by frame as a sheet."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lumiere.media.images import write_moving
from lumiere.paperworld.world.scene import FPS

GRID = (5, 3)  # columns, rows
LINES, LINE, LETTERS = 2, 12, 23  # text below a clip: lines, pixels per line, characters per line
SHEET, LOOKS = 40, 8  # clips on a contact sheet, frames of each
PAPER, INK = (255, 252, 242), (60, 54, 66)


def write_grid(
    path: str | Path,
    clips: Sequence[NDArray[np.uint8]],
    texts: Sequence[str],
    columns: int = GRID[0],
    fps: float = FPS,
) -> None:
    """Writes clips with their texts as an infinitely looping animated WebP.

    Args:
        path: output file.
        clips: clips `t h w c` of one shape.
        texts: one for each clip.
        columns: clips side by side.
        fps: frames per second.
    """
    cells = [_above(clip, _label(text, clip.shape[2])) for clip, text in zip(clips, texts, strict=True)]
    blank = np.full_like(cells[0], PAPER)
    cells += [blank] * (-len(cells) % columns)
    lines = [np.concatenate(cells[i : i + columns], 2) for i in range(0, len(cells), columns)]
    write_moving(path, np.concatenate(lines, 1), fps, quality=70)


def write_sheet(
    path: str | Path, clips: Sequence[NDArray[np.uint8]], texts: Sequence[str], columns: int = 2
) -> None:
    """Writes evenly spaced frames of clips at half their size, each clip with its text, as a PNG.

    Args:
        path: output file.
        clips: clips `t h w c` of one size.
        texts: one for each clip.
        columns: clips side by side.
    """
    cells = []
    for clip, text in zip(clips, texts, strict=True):
        some = clip[np.linspace(0, len(clip) - 1, LOOKS).astype(int)]
        small = [np.asarray(Image.fromarray(x).resize((x.shape[1] // 2, x.shape[0] // 2))) for x in some]
        strip = np.concatenate(small, 1)
        cells.append(np.concatenate([strip, _label(text, strip.shape[1], 1, 90)]))
    blank = np.full_like(cells[0], PAPER)
    cells += [blank] * (-len(cells) % columns)
    lines = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    Image.fromarray(np.concatenate(lines)).save(path, optimize=True)


def _above(clip: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Appends a label `h w c` below every frame of a clip `t h w c`."""
    return np.concatenate([clip, np.repeat(label[None], len(clip), 0)], 1)


def _label(text: str, width: int, lines: int = LINES, letters: int = LETTERS) -> NDArray[np.uint8]:
    label = Image.new("RGB", (width, lines * LINE + 4), PAPER)
    words = textwrap.wrap(text, letters, max_lines=lines, placeholder="…")
    draw, font = ImageDraw.Draw(label), ImageFont.load_default(10)
    for line, part in enumerate(words):
        draw.text((width / 2, 2 + LINE * (line + 0.5)), part, INK, font, anchor="mm")
    return np.asarray(label)
