"""Clips side by side as one moving picture, each above the words that it was made from."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lumiere.media.images import write_moving
from lumiere.paperworld.world.scene import FPS

GRID = (5, 3)  # columns, rows
LINES, LINE, LETTERS = 2, 12, 23  # of text below a clip: how many, pixels each, letters on one
PAPER, INK = (255, 252, 242), (60, 54, 66)


def write_grid(path, clips, texts, columns=GRID[0], fps=FPS):
    """Clips uint8 (t h w c) with a text each, as an animated WebP that repeats for ever."""
    cells = [_above(clip, _label(text, clip.shape[2])) for clip, text in zip(clips, texts, strict=True)]
    blank = np.full_like(cells[0], PAPER)
    cells += [blank] * (-len(cells) % columns)
    lines = [np.concatenate(cells[i : i + columns], 2) for i in range(0, len(cells), columns)]
    write_moving(path, np.concatenate(lines, 1), fps, quality=70)


def _above(clip, label):
    """A label (h w c) below every frame of a clip (t h w c)."""
    return np.concatenate([clip, np.repeat(label[None], len(clip), 0)], 1)


def _label(text, width):
    label = Image.new("RGB", (width, LINES * LINE + 4), PAPER)
    words = textwrap.wrap(text, LETTERS, max_lines=LINES, placeholder="…")
    draw, font = ImageDraw.Draw(label), ImageFont.load_default(10)
    for line, part in enumerate(words):
        draw.text((width / 2, 2 + LINE * (line + 0.5)), part, INK, font, anchor="mm")
    return np.asarray(label)
