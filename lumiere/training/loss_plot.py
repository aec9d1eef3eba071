"""Plots the training loss."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 960, 540
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 44, 56  # margins with the axis labels
SMOOTHED = 50  # points of the smoothed curve, each the mean of equally many losses
PAPER, INK, GRID, SINGLE, SMOOTH = "#ffffff", "#333333", "#e4e4e4", "#c9d3e6", "#2456c4"


def plot_losses(steps: Sequence[int], losses: Sequence[float], file: str | Path) -> None:
    """Writes a PNG of the loss of each step and of the means over 50 equal parts of the run.

    The vertical axis ends just above the 99th percentile; higher losses are drawn at the border. Losses that
    are not finite are skipped. The file is replaced atomically.

    Args:
        steps: training steps.
        losses: loss of each step.
        file: output path.

    Raises:
        ValueError: no loss is finite.
    """
    finite = np.isfinite(losses)
    x, y = np.asarray(steps, float)[finite], np.asarray(losses, float)[finite]
    if len(y) == 0:
        raise ValueError("There is no finite loss to plot.")
    bottom, top = float(y.min()), float(np.quantile(y, 0.99))
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    axes = _Axes(x[0], max(x[-1], x[0] + 1), bottom - margin, top + margin)
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_grid(draw, axes)
    for across, down in zip(*axes.place(x, y), strict=True):
        draw.ellipse((across - 1, down - 1, across + 1, down + 1), SINGLE)
    parts = np.array_split(np.arange(len(y)), min(SMOOTHED, len(y)))
    means = [(x[part].mean(), y[part].mean()) for part in parts]
    draw.line(list(zip(*axes.place(*np.array(means).T), strict=True)), SMOOTH, width=3, joint="curve")
    last = f"loss by step; the last {len(parts[-1])} have a mean of {means[-1][1]:.4f}"
    draw.text((LEFT, 14), last, INK, font=ImageFont.load_default(18))
    unfinished = Path(file).with_name(f"{Path(file).name}.part")
    picture.save(unfinished, format="PNG")
    os.replace(unfinished, file)


class _Axes:
    """Maps steps and losses to pixels; losses outside the range are clipped to the border."""

    def __init__(self, first: float, last: float, low: float, high: float):
        self.first, self.last, self.low, self.high = first, last, low, high

    def place(self, steps: ArrayLike, losses: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        across = (np.asarray(steps) - self.first) / (self.last - self.first)
        up = np.clip((np.asarray(losses) - self.low) / (self.high - self.low), 0, 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _draw_grid(draw: ImageDraw.ImageDraw, axes: _Axes) -> None:
    font = ImageFont.load_default(14)
    for loss in _round_numbers(axes.low, axes.high):
        y = float(axes.place(axes.first, loss)[1])
        draw.line((LEFT, y, WIDTH - RIGHT, y), GRID)
        draw.text((LEFT - 8, y), f"{loss:g}", INK, font=font, anchor="rm")
    for step in _round_numbers(axes.first, axes.last):
        x = float(axes.place(step, axes.low)[0])
        draw.line((x, TOP, x, HEIGHT - BOTTOM), GRID)
        draw.text((x, HEIGHT - BOTTOM + 8), f"{step:g}", INK, font=font, anchor="mt")


def _round_numbers(low: float, high: float, about: int = 6) -> list[float]:
    """Returns multiples of 1, 2 or 5 times a power of ten from low to high, about `about` of them."""
    power = 10 ** math.floor(math.log10((high - low) / about))
    step = next(k * power for k in (1, 2, 5, 10) if k * power * about >= high - low)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
