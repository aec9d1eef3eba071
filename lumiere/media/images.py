"""Reads untrusted images with Pillow as they should be shown, and resizes them to the size of a clip."""

import io
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lumiere.limits import ServerLimits
from lumiere.media.kinds import PICTURES, check_file, read_head, refusal

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
UNREADABLE = "cannot read a picture from this file"
DAMAGED = (
    *(UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError),
    *(KeyError, TypeError, OverflowError, Image.DecompressionBombError),
)
COLOURS_WITHIN = 2**16  # bytes of a file in which it describes its colours
MAX_ASPECT = 4  # of a pixel; other values are mistakes
SHOWN_GAMMA = 1 / 2.2  # of PNG files without a profile
HDR = {16: "PQ", 18: "HLG"}  # transfer functions of ITU-T H.273
# Linear light of these primaries (ITU-T H.273) -> linear light of sRGB
GAMUTS = {
    9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    12: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}


class Refused(ValueError):
    """An image is intact, but cannot be used."""


def read_image(
    path: str | Path | BinaryIO, max_side: int = ServerLimits.image_side, background: str = "white"
) -> np.ndarray:
    """Reads the first image of an untrusted file as it should be shown (see `as_shown`).

    Args:
        path: path or binary file. The content determines the format, not the name.
        max_side: maximum height and width in pixels, checked in the header before decoding.
        background: colour under transparent pixels. For masks, black: what is transparent was not drawn.

    Returns:
        RGB uint8 `h w c`.

    Raises:
        ValueError: there is no such file, or the image is too large, damaged, HDR or in none of `FORMATS`.
    """
    if isinstance(path, str | Path):
        check_file(path)
    try:
        colours = coded_colours(read_head(path, COLOURS_WITHIN))
        with Image.open(path, formats=FORMATS) as image:
            check_side(image, max_side)
            return as_shown(image, colours, background)
    except Refused:
        raise
    except DAMAGED:
        raise refusal(UNREADABLE, path, PICTURES) from None


def check_side(image: Image.Image, max_side: int) -> None:
    """Checks the size of an image before it is decoded.

    Args:
        image: opened image.
        max_side: maximum height and width in pixels.

    Raises:
        Refused: the image is larger.
    """
    if max(image.size) > max_side:
        wide, high = image.size
        raise Refused(f"a picture must be at most {max_side} pixels a side: received {wide} x {high}.")


def as_shown(image: Image.Image, colours: tuple[int, int] = (0, 0), background: str = "white") -> np.ndarray:
    """Returns a decoded image upright, with square pixels and sRGB colours, on a background.

    Args:
        image: opened image.
        colours: primaries and transfer function (see `coded_colours`).
        background: colour under transparent pixels.

    Returns:
        RGB uint8 `h w c`.

    Raises:
        Refused: the image is in HDR or has floating-point pixels.
    """
    primaries, transfer = colours
    if transfer in HDR:
        raise Refused(f"the picture is in HDR ({HDR[transfer]}), which is not supported: save it as SDR.")
    image.load()
    info = dict(image.info)
    image = ImageOps.exif_transpose(_square(image, info))
    if image.mode == "F":
        raise Refused(
            "the picture has floating-point pixels, which are not supported: save it with 8 or 16 bits."
        )
    if image.mode.startswith("I"):  # 16 bits per channel, which `convert` would clip at 255
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    image = _in_srgb(image, info, primaries)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, background), alpha)
    return np.array(image)


def _square(image: Image.Image, info: dict) -> Image.Image:
    """Shrinks the longer side of pixels that are not square."""
    density = info.get("jfif_density") if info.get("jfif_unit") == 0 else info.get("aspect", info.get("dpi"))
    across, down = (float(number) for number in density or (1, 1))
    aspect = down / across if across > 0 and down > 0 else 1.0  # width of a pixel for its height
    if abs(aspect - 1) < 0.01 or not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        return image
    width, height = image.width * min(1, aspect), image.height * min(1, 1 / aspect)
    size = max(1, round(width)), max(1, round(height))
    mode = "RGBA" if image.has_transparency_data else "RGB" if image.mode in ("P", "1") else image.mode
    return image.convert(mode).resize(size, Image.Resampling.BICUBIC)


def _in_srgb(image: Image.Image, info: dict, primaries: int) -> Image.Image:
    """Converts the colours of an image without transparency to sRGB, as its file describes them."""
    if info.get("icc_profile"):
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(info["icc_profile"]))
            if image.mode not in ("L", "RGB", "CMYK", "LAB"):
                image = image.convert("RGB")
            if image.mode == "RGB" and profile.profile.xcolor_space.strip() == "GRAY":
                image = image.convert("L")
            flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
            return _converted(image, profile, ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile, or one of another kind of image: browsers ignore it
    if image.mode == "LAB":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _converted(image, profile, ImageCms.Intent.PERCEPTUAL, ImageCms.Flags.NONE)
    image = image.convert("RGB")
    if primaries in GAMUTS:
        light = _light(np.asarray(image, np.float32) / 255) @ np.array(GAMUTS[primaries], np.float32).T
        return Image.fromarray((_samples(light.clip(0, 1)) * 255).round().astype(np.uint8))
    gamma = info.get("gamma", SHOWN_GAMMA)
    if "srgb" not in info and 0.1 < gamma < 10 and abs(gamma / SHOWN_GAMMA - 1) > 0.05:
        table = [round(255 * (value / 255) ** (SHOWN_GAMMA / gamma)) for value in range(256)]
        return image.point(table * 3)
    return image


def _converted(
    image: Image.Image, profile: ImageCms.ImageCmsProfile, intent: ImageCms.Intent, flags: ImageCms.Flags
) -> Image.Image:
    """Converts the colours of an image from a profile to sRGB."""
    srgb = ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(image, profile, srgb, intent, outputMode="RGB", flags=flags)
    assert made is not None, "not in place"
    return made


def _light(samples: np.ndarray) -> np.ndarray:
    return np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)


def _samples(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def coded_colours(head: bytes) -> tuple[int, int]:
    """Returns primaries and transfer function (ITU-T H.273) of a PNG or AVIF file, which Pillow ignores.

    Args:
        head: beginning of the file, `COLOURS_WITHIN` bytes.

    Returns:
        The two numbers, (0, 0) if the file names none.
    """
    chunk = head.find(b"cICP") if head.startswith(b"\x89PNG") else -1
    box = head.find(b"colrnclx") if head[4:8] == b"ftyp" else -1
    if chunk >= 0:
        primaries, transfer = (head[chunk + 4 :] + bytes(2))[:2]
        return primaries, transfer
    return struct.unpack(">2H", (head[box + 8 :] + bytes(4))[:4]) if box >= 0 else (0, 0)


def on_white(frame: np.ndarray) -> np.ndarray:
    """Blends RGBA pixels onto white.

    Args:
        frame: uint8 `h w 4`.

    Returns:
        RGB uint8 `h w 3`.
    """
    alpha = frame[..., 3:].astype(np.uint16)
    return ((frame[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def fit(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crops frames around the centre to the target aspect ratio and resizes them.

    Args:
        frames: uint8 `t h w c`.
        height: target height in pixels.
        width: target width in pixels.

    Returns:
        uint8 `t height width c`.
    """
    pictures = (
        ImageOps.fit(Image.fromarray(frame), (width, height), Image.Resampling.LANCZOS) for frame in frames
    )
    return np.stack([np.asarray(picture) for picture in pictures])


def fit_mask(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Converts a drawn image to a mask.

    Args:
        picture: uint8 `h w c`, bright where the mask is True.
        height: target height in pixels.
        width: target width in pixels.

    Returns:
        bool `height width`.
    """
    return fit(picture[None], height, width)[0].mean(-1) >= 128


def write_moving(
    file: str | Path | BinaryIO,
    frames: np.ndarray,
    fps: float,
    format: str | None = None,
    **options: int,
) -> None:
    """Writes an animated image that loops forever and keeps its pace.

    Files count in whole milliseconds, GIF in hundredths of a second. Durations are rounded so that errors do
    not add up. Browsers slow down GIFs with less than 20 ms a frame, so faster clips lose frames.

    Args:
        file: path or binary file.
        frames: uint8 `t h w c`.
        fps: frames per second.
        format: format of Pillow. Defaults to that of the file's name.
        **options: options of Pillow's `Image.save`.
    """
    unit, fastest = (10, 50) if format == "GIF" else (1, 60)
    rate = min(fps, fastest)
    kept = [int(number * fps / rate) for number in range(max(1, round(len(frames) * rate / fps)))]
    ends = [unit * round(1000 * number / rate / unit) for number in range(len(kept) + 1)]  # ms
    first, *rest = (Image.fromarray(frames[number]) for number in kept)
    durations = np.diff(ends).tolist()
    first.save(file, format, save_all=True, append_images=rest, duration=durations, loop=0, **options)
