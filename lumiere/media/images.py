"""Pictures from strangers, read with Pillow, and brought to the size of a clip."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lumiere.limits import Bounds

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
UNREADABLE = "cannot read a picture from this file"


def read_image(path: str | Path | BinaryIO, max_side: int = Bounds.image_side) -> np.ndarray:
    """The first picture in a file, upright, as uint8 (h w c) RGB; what is transparent becomes white.

    Raises ValueError when a side is over `max_side`, which the header tells before anything is decoded, and
    for a file that is damaged, or not one of `FORMATS`, whatever its name says.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if max(image.size) > max_side:
                wide, high = image.size
                raise TooLarge(
                    f"a picture must be at most {max_side} pixels a side: received {wide} x {high}."
                )
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):  # 16 bits a channel, which `convert` would cut off at 255
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
    pass


def fit(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 frames (t h w c), the middle of each that has the proportions asked for, at height x width."""
    pictures = (ImageOps.fit(Image.fromarray(frame), (width, height), Image.LANCZOS) for frame in frames)
    return np.stack([np.asarray(picture) for picture in pictures])


def fit_mask(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A drawn picture (h w c), bright where it is meant, as bool (h w)."""
    return fit(picture[None], height, width)[0].mean(-1) >= 128


def write_moving(file: str | Path | BinaryIO, frames: np.ndarray, fps: float, **options) -> None:
    """Writes frames uint8 (t h w c) as a picture that repeats for ever; options are those of Pillow."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(file, save_all=True, append_images=rest, duration=1000 / fps, loop=0, **options)
