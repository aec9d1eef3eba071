"""Writes clips side by side as one animated picture, with the prompt below each."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lumiere.media.images import write_moving
from lumiere.paperworld.world.scene import FPS

GRID = (5, 3)  # columns, rows
LINES, LINE, LETTERS = 2, 12, 23  # text below a clip: lines, pixels per line, characters per line
PAPER, INK = (255, 252, 242), (60, 54, 66)


def write_grid(path, clips, texts, columns=GRID[0], fps=FPS):
    """Writes clips, uint8 `t h w c`, and one text each as an infinitely looping animated WebP."""
    cells = [_above(clip, _label(text, clip.shape[2])) for clip, text in zip(clips, texts, strict=True)]
    blank = np.full_like(cells[0], PAPER)
    cells += [blank] * (-len(cells) % columns)
    lines = [np.concatenate(cells[i : i + columns], 2) for i in range(0, len(cells), columns)]
    write_moving(path, np.concatenate(lines, 1), fps, quality=70)


def _above(clip, label):
    """Appends a label `h w c` below every frame of a clip `t h w c`."""
    return np.concatenate([clip, np.repeat(label[None], len(clip), 0)], 1)


def _label(text, width):
    label = Image.new("RGB", (width, LINES * LINE + 4), PAPER)
    words = textwrap.wrap(text, LETTERS, max_lines=LINES, placeholder="…")
    draw, font = ImageDraw.Draw(label), ImageFont.load_default(10)
    for line, part in enumerate(words):
        draw.text((width / 2, 2 + LINE * (line + 0.5)), part, INK, font, anchor="mm")
    return np.asarray(label)
