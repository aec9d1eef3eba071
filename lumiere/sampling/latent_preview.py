"""Previews of latents: a tiny autoencoder or a linear map to RGB, and sprite sheets of their frames."""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

JPEG_QUALITY = 80
MAX_SHEET_SIDE = 4096  # mobile browsers do not decode larger images
RIDGE = 1e-5  # relative to the variance of the latents; regularises directions without data
TINY_BATCH = 4  # frames per call of the tiny autoencoder; a full-size frame takes up to 0.1 GB


class Preview(nn.Module):
    """Base class that decodes the latents of a clip to a few small frames; subclasses implement `colours`."""

    def colours(self, latents: Tensor) -> Tensor:
        """Decodes latents to RGB.

        Args:
            latents: scaled latents, float32 `n c h w`.

        Returns:
            RGB images `n 3 ph pw`, about 0 to 1.
        """
        raise NotImplementedError

    @torch.inference_mode()
    def forward(self, latents: Tensor, max_frames: int = 24, max_side: int = 256) -> np.ndarray:
        """Decodes evenly spaced frames of one clip.

        Args:
            latents: scaled latents `1 c t h w`.
            max_frames: maximum number of frames.
            max_side: maximum height and width in pixels. Larger frames are downscaled on the device.

        Returns:
            uint8 `t h w c`.
        """
        stack = rearrange(latents, "1 c t h w -> t c h w")
        count = min(len(stack), max_frames)
        pictures = self.colours(stack[torch.arange(count) * len(stack) // count].float())
        longest = max(pictures.shape[-2:])
        if longest > max_side:
            size = [max(1, side * max_side // longest) for side in pictures.shape[-2:]]
            pictures = F.interpolate(pictures, size=size, mode="area")
        pictures = pictures.nan_to_num().clamp(0, 1).mul(255).round().byte()
        return rearrange(pictures, "t c h w -> t h w c").cpu().numpy()


class TinyPreview(Preview):
    """Decodes latents with `AutoencoderTiny` of diffusers, at full size and with almost exact colours.

    Args:
        vae: the tiny autoencoder.
    """

    def __init__(self, vae: AutoencoderTiny):
        super().__init__()
        self.vae = vae.to(memory_format=torch.channels_last)  # up to twice as fast on a CPU

    def colours(self, latents: Tensor) -> Tensor:
        """Decodes scaled latents `n c h w` to RGB images at full size, about 0 to 1."""
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        pictures = [self.vae.decode(each, return_dict=False)[0].float() for each in scaled.split(TINY_BATCH)]
        return torch.cat(pictures) / 2 + 0.5  # -1..1 -> 0..1


class LatentPreview(Preview):
    """Maps each 3x3 neighbourhood of latents linearly to a patch of p x p RGB pixels.

    The cost is negligible. The map suits autoencoders with linear colours, such as the VAE of Stable
    Diffusion.

    Args:
        weight: `3pp c 3 3`.
        bias: `3pp`.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        self.patch = math.isqrt(len(bias) // 3)
        assert len(weight) == len(bias) == 3 * self.patch**2

    @classmethod
    def fit(cls, vae: AutoencoderKL, images: Tensor, patch: int | None = None) -> "LatentPreview":
        """Fits the map to images by least squares.

        Args:
            vae: the autoencoder.
            images: `n 3 h w`, -1 to 1.
            patch: pixels p per latent. Defaults to half of the autoencoder's factor, for previews at half
                size.

        Returns:
            The fitted preview.
        """
        weight = next(vae.parameters())
        with torch.no_grad():
            latents = torch.cat([_encode(vae, image[None].to(weight)) for image in images]).float().cpu()
        factor = images.shape[-1] // latents.shape[-1]
        patch = patch or max(1, factor // 2)
        colours = F.interpolate(images.float().cpu() / 2 + 0.5, scale_factor=patch / factor, mode="area")
        return cls(*_least_squares(latents, F.pixel_unshuffle(colours, patch))).eval()

    def colours(self, latents: Tensor) -> Tensor:
        """Maps scaled latents `n c h w` to RGB images `n 3 ph pw`, about 0 to 1."""
        patches = F.conv2d(_pad(latents), self.weight, self.bias)  # n c h w -> n 3pp h w
        return F.pixel_shuffle(patches, self.patch)  # n 3pp h w -> n 3 ph pw


@dataclass(frozen=True)
class Sheet:
    """Sprite sheet: the frames of one clip in row-major order.

    Attributes:
        jpeg: the encoded image.
        columns: frames per row.
        rows: number of rows.
        count: number of frames.
        width: width of a frame in pixels.
        height: height of a frame in pixels.
    """

    jpeg: bytes
    columns: int
    rows: int
    count: int
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        """The image as a data URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


def sprite_sheet(frames: np.ndarray) -> Sheet:
    """Encodes all frames as one JPEG, as square as possible, with sides up to 4096 pixels.

    Args:
        frames: uint8 `t h w c`.

    Returns:
        The sprite sheet.

    Raises:
        ValueError: the frames do not fit on one sheet.
    """
    count, height, width, _ = frames.shape
    most_columns, most_rows = MAX_SHEET_SIDE // width, MAX_SHEET_SIDE // height
    if count > most_columns * most_rows:
        raise ValueError(
            f"a sheet has room for {most_columns * most_rows} frames of {width} x {height}: received {count}."
        )
    square = math.ceil(math.sqrt(count * height / width))
    columns = min(most_columns, max(square, math.ceil(count / most_rows)))
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:count] = frames
    sheet = rearrange(sheet, "(r c) h w k -> (r h) (c w) k", r=rows)
    buffer = io.BytesIO()
    # Full chroma resolution: with 4:2:0 subsampling, colours bleed into adjacent frames at these sizes.
    Image.fromarray(sheet).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Sheet(buffer.getvalue(), columns, rows, count, width, height)


def synthetic_pictures(count: int = 24, side: int = 128) -> Tensor:
    """Returns a fixed set of synthetic images to fit previews without real ones.

    The images show discs and bars on soft gradients. Their colours fill the RGB cube.

    Args:
        count: number of images.
        side: height and width in pixels.

    Returns:
        float `count 3 side side`, -1 to 1.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    line = torch.linspace(0, 1, side)
    y, x = line[:, None], line[None, :]
    pictures = []
    for _ in range(count):
        corners = uniform(1, 3, 2, 2)
        picture = F.interpolate(corners, size=(side, side), mode="bilinear", align_corners=True)[0]  # 3 h w
        for index in range(6):
            cx, cy, size = uniform(3).tolist()
            size = 0.05 + 0.25 * size
            dx, dy = (x - cx).abs(), (y - cy).abs()
            reach = torch.hypot(dx, dy) if index % 2 else torch.maximum(dx, 2 * dy)
            picture = torch.where(reach < size, uniform(3, 1, 1), picture)
        pictures.append(picture)
    return torch.stack(pictures) * 2 - 1


def _least_squares(latents: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Fits a linear map from 3x3 neighbourhoods of `n c h w` to `n k h w`: weight `k c 3 3`, bias `k`."""
    x = rearrange(F.unfold(_pad(latents), 3), "n k l -> (n l) k").double()  # k = (channel, row, column)
    y = rearrange(targets, "n k h w -> (n h w) k").double()
    # Centring removes the bias. The normal equations are 9c x 9c for any number of pixels.
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.mT @ x / len(x)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, x.mT @ y / len(x))  # 9c k
    weight = solution.mT.reshape(-1, latents.shape[1], 3, 3).float().contiguous()
    return weight, (y_mean - x_mean @ solution).float()


def _encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    return vae.encode(images).latent_dist.mean * vae.config.scaling_factor


def _pad(latents: Tensor) -> Tensor:
    return F.pad(latents, (1, 1, 1, 1), mode="replicate")
