"""Row 16: SVG, HTML named .png, truncated, 1×1, CMYK, 16-bit, alpha, animated, EXIF-rotated images."""

import numpy as np
import pytest
from PIL import Image

from lumiere.media.images import fit, read_image
from tests.media.test_images import RED, WHITE, halves

UNREADABLE = "^cannot read a picture from this file(: it is (empty|an SVG drawing|a web page))?.$"
NO_PICTURES = {
    "empty": b"",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><image href='/etc/passwd'/></svg>",
    "html": b"<html><img src='http://127.0.0.1/'></html>",
    "broken": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "zeros": bytes(99),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run showpage\n",
    "playlist": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
}


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_is_no_picture_is_refused(tmp_path, kind):
    (tmp_path / "x.png").write_bytes(NO_PICTURES[kind])
    with pytest.raises(ValueError, match=UNREADABLE):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.gif", "x.bmp"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_a_picture_that_is_cut_off_is_refused(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=UNREADABLE):
        read_image(tmp_path / name)


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


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_over_http_what_is_no_picture_is_refused(stranger, work, kind):
    told = stranger.refusal("image_to_video", image=stranger.file("x.png", NO_PICTURES[kind] or b"\n"))
    assert told.startswith("Cannot read a picture from this file")
    assert not work.any


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "RGBA", "P", "1"])
def test_over_http_any_picture_becomes_a_clip(stranger, tmp_path, mode):
    name = "x.jpg" if mode == "CMYK" else "x.png"
    halves(mode).save(tmp_path / name)
    file = stranger.file(name, (tmp_path / name).read_bytes())
    outcome, told = stranger.generate("image_to_video", image=file)
    assert outcome == "complete" and told[1]["mode"] == "image"
