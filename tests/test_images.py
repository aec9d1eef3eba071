"""Pictures from strangers."""

import time

import numpy as np
import pytest
from PIL import Image

from lumiere.images import fit, fit_mask, read_image

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


def test_rotated_pictures_come_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right when shown
    halves().save(tmp_path / "x.png", exif=exif)
    image = read_image(tmp_path / "x.png")
    assert image.shape == (40, 20, 3) and tuple(image[20, 15]) == RED and tuple(image[20, 5]) == WHITE


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "RGBA", "LA"])
def test_other_modes(tmp_path, mode):
    name = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    halves(mode).save(name)
    image = read_image(name)
    assert image.shape == (20, 40, 3) and image[3].mean() < 160 and image[16].mean() > 243


def test_sixteen_bits_a_channel(tmp_path):
    values = np.array([[0, 128 * 256, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png")[0, :, 0].tolist() == [0, 128, 255]


def test_what_is_transparent_is_white(tmp_path):
    picture = halves("RGBA")
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert tuple(image[0, 0]) == WHITE and tuple(image[0, 1]) == RED


def test_the_first_of_several(tmp_path):
    halves().save(tmp_path / "x.gif", save_all=True, append_images=[Image.new("RGB", (40, 20))])
    assert np.abs(read_image(tmp_path / "x.gif")[3, 3].astype(int) - RED).max() < 12


def test_a_pixel_is_a_picture(tmp_path):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "x.png")
    assert tuple(fit(read_image(tmp_path / "x.png")[None], 8, 6)[0, 7, 5]) == RED


def test_a_bomb_is_refused_from_its_header(tmp_path):
    Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 50_000
    began = time.perf_counter()
    with pytest.raises(ValueError, match="at most 8192 pixels a side: received 13000 x 13000"):
        read_image(tmp_path / "bomb.png")
    assert time.perf_counter() - began < 0.5  # decoding it would take several seconds


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html></html>",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        bytes(99),
    ],
    ids=["empty", "svg", "html", "broken", "zeros"],
)
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ValueError, match="^cannot read a picture from this file.$"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot read a picture"):
        read_image(tmp_path / name)


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
