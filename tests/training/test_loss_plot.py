"""The picture of the loss."""

import numpy as np
import pytest
from PIL import Image

from lumiere.training.loss_plot import BOTTOM, HEIGHT, LEFT, RIGHT, SMOOTH, TOP, WIDTH, plot_losses


def smooth_curve(file) -> dict[int, float]:
    """Column of the picture -> mean row of the smooth curve in it."""
    picture = np.asarray(Image.open(file).convert("RGB"))
    colour = np.array([int(SMOOTH[i : i + 2], 16) for i in (1, 3, 5)])
    rows, columns = np.nonzero((picture == colour).all(-1))
    return {int(column): float(rows[columns == column].mean()) for column in np.unique(columns)}


def test_the_curve_goes_where_the_loss_goes(tmp_path):
    steps, noise = np.arange(1, 2001), np.random.default_rng(0).normal(0, 0.02, 2000)
    plot_losses(steps, np.where(steps <= 1000, 1.0, 0.5) + noise, tmp_path / "loss.png")
    curve = smooth_curve(tmp_path / "loss.png")
    assert min(curve) < LEFT + 20 and max(curve) > WIDTH - RIGHT - 20
    middle = (LEFT + WIDTH - RIGHT) / 2
    left = [row for column, row in curve.items() if column < middle - 20]
    right = [row for column, row in curve.items() if column > middle + 20]
    assert np.ptp(left) < 15 and np.ptp(right) < 15
    assert np.mean(right) - np.mean(left) > 0.4 * (HEIGHT - TOP - BOTTOM), "down is less"
    assert not list(tmp_path.glob("*.part"))


def test_a_spike_does_not_flatten_the_rest(tmp_path):
    losses = np.linspace(1, 0.5, 500)
    losses[100] = 1e6
    plot_losses(np.arange(500), losses, tmp_path / "loss.png")
    assert np.ptp(list(smooth_curve(tmp_path / "loss.png").values())) > 0.6 * (HEIGHT - TOP - BOTTOM)


@pytest.mark.parametrize("losses", [[0.3], [0.3, 0.3], [np.nan, 0.2, np.inf, 0.1], [0.0, 0.0]])
def test_few_and_odd_losses_make_a_picture(tmp_path, losses):
    plot_losses(range(len(losses)), losses, tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").size == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="no finite loss"):
        plot_losses([1], [np.nan], tmp_path / "none.png")
