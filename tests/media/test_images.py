"""Pictures from strangers."""

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from lumiere.media.images import fit, fit_mask, read_image, write_moving
from lumiere.media.video import read_clip

RED, WHITE = (200, 30, 40), (255, 255, 255)


def halves(mode: str = "RGB") -> Image.Image:
    """Red above, white below, 40 x 20."""
    picture = Image.new("RGB", (40, 20), WHITE)
    picture.paste(RED, (0, 0, 40, 10))
    return picture.convert(mode)


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.bmp", "x.jpg", "x.gif", "x.tiff", "x.avif"])
def test_formats_that_browsers_send(tmp_path, name):
    halves().save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
    image = read_image(tmp_path / name)
    assert image.shape == (20, 40, 3) and image.dtype == np.uint8
    assert np.abs(image[3, 20].astype(int) - RED).max() < 12 and image[16, 20].min() > 243


def test_what_a_file_is_called_does_not_matter(tmp_path):
    halves().save(tmp_path / "x.jpg", format="PNG")
    assert tuple(read_image(tmp_path / "x.jpg")[0, 0]) == RED


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^there is no file .*x.png.$"):
        read_image(tmp_path / "x.png")
    with pytest.raises(ValueError, match=" is a folder: a file is needed.$"):
        read_image(tmp_path)


def test_the_middle_is_kept_where_proportions_differ():
    picture = np.zeros((1, 20, 60, 3), np.uint8)
    picture[:, :, 20:40] = 200
    assert (fit(picture, 8, 8) > 180).all()
    wide = np.full((2, 10, 10, 3), 255, np.uint8)
    assert fit(wide, 16, 32).shape == (2, 16, 32, 3)
    mask = fit_mask(np.asarray(halves()), 10, 20)
    assert mask.dtype == bool and mask[7].all() and not mask[2].any()


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tiff", "x.avif"])
def test_colours_follow_the_profile_of_a_file(tmp_path, name):
    """A profile in which red and green light are exchanged, so that a reader without profiles is far off."""
    profile = exchanged_profile()
    Image.new("RGB", (16, 16), (0, 200, 0)).save(tmp_path / name, icc_profile=profile, quality=95)
    red, green, blue = read_image(tmp_path / name)[8, 8].astype(int)
    assert red > 150 and green < 60 and blue < 60


def exchanged_profile() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4  # where offset and length of the colour stand
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)


def test_a_damaged_profile_is_ignored(tmp_path):
    Image.new("RGB", (16, 16), RED).save(tmp_path / "x.png", icc_profile=b"no profile")
    assert tuple(read_image(tmp_path / "x.png")[8, 8]) == RED


def test_the_gamma_of_a_png_is_applied(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", (100_000).to_bytes(4, "big"))  # linear light
    Image.new("RGB", (8, 8), (55, 55, 55)).save(tmp_path / "x.png", pnginfo=info)
    assert abs(int(read_image(tmp_path / "x.png")[0, 0, 0]) - 127) <= 2


def coded(path, primaries: int, transfer: int) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"cICP", bytes([primaries, transfer, 0, 1]))
    Image.new("RGB", (8, 8), (200, 100, 100)).save(path, pnginfo=info)


def test_hdr_pictures_are_refused_in_words(tmp_path):
    coded(tmp_path / "x.png", 9, 16)
    with pytest.raises(ValueError, match=r"^the picture is in HDR \(PQ\), which is not supported"):
        read_image(tmp_path / "x.png")


def test_wide_gamuts_of_pictures_are_converted(tmp_path):
    coded(tmp_path / "x.png", 12, 13)  # Display P3: the same colour has more red and less green in sRGB
    red, green, blue = read_image(tmp_path / "x.png")[0, 0].astype(int)
    assert red > 208 and green < 97 and abs(green - blue) < 6
    Image.new("RGB", (8, 8), (200, 100, 100)).save(tmp_path / "a.avif", quality=100)
    data = (tmp_path / "a.avif").read_bytes()
    (tmp_path / "b.avif").write_bytes(data.replace(b"colrnclx\0\1", b"colrnclx\0\x0c"))
    plain, wide = (read_image(tmp_path / name)[0, 0].astype(int) for name in ("a.avif", "b.avif"))
    assert wide[0] - plain[0] > 5


@pytest.mark.parametrize("name, dpi", [("x.png", (144, 72)), ("x.jpg", (144, 72)), ("x.tiff", (144, 72))])
def test_pictures_with_flat_pixels_come_in_proportion(tmp_path, name, dpi):
    halves().save(tmp_path / name, dpi=dpi)
    assert read_image(tmp_path / name).shape == (20, 20, 3)
    halves().save(tmp_path / name, dpi=(72, 72))
    assert read_image(tmp_path / name).shape == (20, 40, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_on_a_mask_what_is_transparent_was_not_drawn(tmp_path, mode):
    layer = Image.new("RGBA", (40, 20), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (0, 0, 20, 20))
    layer.convert(mode).save(tmp_path / "x.png", **({"transparency": 0} if mode == "P" else {}))
    if mode == "P":
        layer.save(tmp_path / "x.gif")
        mask = fit_mask(read_image(tmp_path / "x.gif", background="black"), 20, 40)
    else:
        mask = fit_mask(read_image(tmp_path / "x.png", background="black"), 20, 40)
    assert mask[:, :20].all() and not mask[:, 20:].any()


def shades(count: int) -> np.ndarray:
    levels = (np.arange(count) * 97 % 251).astype(np.uint8)  # far apart, or encoders would merge them
    return np.broadcast_to(levels[:, None, None, None], (count, 16, 24, 3)).copy()


@pytest.mark.parametrize("fps", [1, 8, 12.5, 16, 24, 30, 50, 60])
@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_animations_keep_the_pace_and_are_not_slowed_down(tmp_path, form, fps):
    frames = shades(60)
    write_moving(tmp_path / "x", frames, fps, format=form)
    durations = []
    with Image.open(tmp_path / "x") as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
    assert abs(sum(durations) - 60_000 / fps) <= 10
    assert min(durations) >= (20 if form == "GIF" else 16)  # browsers show up to 10 ms as 100 ms
    assert max(durations) - min(durations) <= (10 if form == "GIF" else 1)
    assert image.n_frames == (60 if form == "WEBP" or fps <= 50 else 50)


@pytest.mark.parametrize("form", ["WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize("fps, count", [(None, 16), (8, 8), (32, 32)])
def test_animated_pictures_are_read_as_clips(tmp_path, form, fps, count):
    frames = shades(16)
    write_moving(tmp_path / "x", frames, 16, format=form, **({} if form == "PNG" else {"quality": 90}))
    clip, rate = read_clip(tmp_path / "x", fps=fps)
    assert clip.shape == (count, 16, 24, 3) and abs(rate - (fps or 16)) < 0.1
    expected = frames[np.arange(count) * 16 // count].astype(int)
    assert np.abs(clip.astype(int) - expected).max() <= 6
    assert len(read_clip(tmp_path / "x", max_frames=3, fps=fps)[0]) == 3


def test_an_animated_picture_is_scaled_down_and_blended_onto_white(tmp_path):
    layers = [Image.new("RGBA", (64, 32), (255, 0, 0, alpha)) for alpha in (0, 255)]
    layers[0].save(tmp_path / "x.webp", save_all=True, append_images=layers[1:], duration=100, lossless=True)
    clip, _ = read_clip(tmp_path / "x.webp", max_side=32)
    assert clip.shape == (2, 16, 32, 3)
    assert clip[0, 8, 8].tolist() == [255, 255, 255] and clip[1, 8, 8].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tiff"])
def test_a_picture_given_as_a_clip_is_said_to_be_one(tmp_path, name):
    halves().save(tmp_path / name)
    with pytest.raises(
        ValueError, match="^an? .* picture that does not move was given where a video is needed.$"
    ):
        read_clip(tmp_path / name)


@pytest.mark.parametrize(
    "head, words",
    [
        (b"\0\0\0\x18ftypheic", "a HEIC picture"),
        (b"\0\0\0\x18ftypmp42", "an MP4 or MOV video"),
        (b"\xff\x0a", "a JPEG XL picture"),
        (b"8BPS", "a Photoshop file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"", "empty"),
    ],
)
def test_what_a_file_is_instead_of_a_picture_is_said(tmp_path, head, words):
    (tmp_path / "x.png").write_bytes(head)
    with pytest.raises(ValueError, match=f"^cannot read a picture from this file: it is {words}"):
        read_image(tmp_path / "x.png")
