"""Reads untrusted images with Pillow and resizes them to the size of a clip."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lumiere.limits import ServerLimits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
UNREADABLE = "cannot read a picture from this file"


def read_image(path: str | Path | BinaryIO, max_side: int = ServerLimits.image_side) -> np.ndarray:
    """Reads the first image of an untrusted file, upright, with transparency blended onto white.

    Args:
        path: path or binary file. The content determines the format, not the name.
        max_side: maximum height and width in pixels, checked in the header before decoding.

    Returns:
        RGB uint8 `h w c`.

    Raises:
        ValueError: the image is too large, damaged, or in none of `FORMATS`.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if max(image.size) > max_side:
                wide, high = image.size
                raise TooLarge(
                    f"a picture must be at most {max_side} pixels a side: received {wide} x {high}."
                )
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):  # 16 bits per channel, which `convert` would clip at 255
                image = Image.fromarray((np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(image.convert("RGB"))
    except TooLarge:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        raise ValueError(f"{UNREADABLE}.") from None


class TooLarge(ValueError):
    """An image exceeds the maximum size."""

    pass


def fit(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crops frames around the centre to the target aspect ratio and resizes them.

    Args:
        frames: uint8 `t h w c`.
        height: target height in pixels.
        width: target width in pixels.

    Returns:
        uint8 `t height width c`.
    """
    pictures = (ImageOps.fit(Image.fromarray(frame), (width, height), Image.LANCZOS) for frame in frames)
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


def write_moving(file: str | Path | BinaryIO, frames: np.ndarray, fps: float, **options) -> None:
    """Writes an animated image that loops forever.

    Args:
        file: path or binary file.
        frames: uint8 `t h w c`.
        fps: frames per second.
        options: options of Pillow's `Image.save`.
    """
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(file, save_all=True, append_images=rest, duration=1000 / fps, loop=0, **options)
