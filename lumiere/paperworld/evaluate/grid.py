"""Writes clips with their prompts: side by side as one animated picture, or frame by frame as a sheet."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lumiere.media.images import write_moving
from lumiere.paperworld.world.scene import FPS

GRID = (5, 3)  # columns, rows
LINES, LINE, LETTERS = 2, 12, 23  # text below a clip: lines, pixels per line, characters per line
SHEET, LOOKS = 40, 8  # clips on a contact sheet, frames of each
PAPER, INK = (255, 252, 242), (60, 54, 66)


def write_grid(path, clips, texts, columns=GRID[0], fps=FPS):
    """Writes clips, uint8 `t h w c`, and one text each as an infinitely looping animated WebP."""
    cells = [_above(clip, _label(text, clip.shape[2])) for clip, text in zip(clips, texts, strict=True)]
    blank = np.full_like(cells[0], PAPER)
    cells += [blank] * (-len(cells) % columns)
    lines = [np.concatenate(cells[i : i + columns], 2) for i in range(0, len(cells), columns)]
    write_moving(path, np.concatenate(lines, 1), fps, quality=70)


def write_sheet(path, clips, texts, columns=2):
    """Writes evenly spaced frames of clips `t h w c` at half their size, each with its text, as a PNG."""
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


def _above(clip, label):
    """Appends a label `h w c` below every frame of a clip `t h w c`."""
    return np.concatenate([clip, np.repeat(label[None], len(clip), 0)], 1)


def _label(text, width, lines=LINES, letters=LETTERS):
    label = Image.new("RGB", (width, lines * LINE + 4), PAPER)
    words = textwrap.wrap(text, letters, max_lines=lines, placeholder="…")
    draw, font = ImageDraw.Draw(label), ImageFont.load_default(10)
    for line, part in enumerate(words):
        draw.text((width / 2, 2 + LINE * (line + 0.5)), part, INK, font, anchor="mm")
    return np.asarray(label)
