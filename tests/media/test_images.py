"""Pictures from strangers."""

import numpy as np
import pytest
from PIL import Image

from lumiere.media.images import fit, fit_mask, read_image

RED, WHITE = (200, 30, 40), (255, 255, 255)


def halves(mode: str = "RGB") -> Image.Image:
    """Red above, white below, 40 x 20."""
    picture = Image.new("RGB", (40, 20), WHITE)
    picture.paste(RED, (0, 0, 40, 10))
    return picture.convert(mode)


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.bmp", "x.jpg", "x.gif"])
def test_formats_that_browsers_send(tmp_path, name):
    halves().save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
    image = read_image(tmp_path / name)
    assert image.shape == (20, 40, 3) and image.dtype == np.uint8
    assert np.abs(image[3, 20].astype(int) - RED).max() < 12 and image[16, 20].min() > 243


def test_what_a_file_is_called_does_not_matter(tmp_path):
    halves().save(tmp_path / "x.jpg", format="PNG")
    assert tuple(read_image(tmp_path / "x.jpg")[0, 0]) == RED


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read a picture"):
        read_image(tmp_path / "x.png")


def test_the_middle_is_kept_where_proportions_differ():
    picture = np.zeros((1, 20, 60, 3), np.uint8)
    picture[:, :, 20:40] = 200
    assert (fit(picture, 8, 8) > 180).all()
    wide = np.full((2, 10, 10, 3), 255, np.uint8)
    assert fit(wide, 16, 32).shape == (2, 16, 32, 3)
    mask = fit_mask(np.asarray(halves()), 10, 20)
    assert mask.dtype == bool and mask[7].all() and not mask[2].any()
