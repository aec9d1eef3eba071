"""Moving previews: a tiny autoencoder, or a linear map from latents to colours; one sheet of frames."""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

JPEG_QUALITY = 80
MAX_SHEET_SIDE = 4096  # browsers on phones refuse to decode larger pictures
RIDGE = 1e-5  # in variances of the latents: keeps the solution tame where pictures leave a direction empty
TINY_BATCH = 4  # frames that a tiny autoencoder decodes at once: at full size each takes up to 0.1 GB


class Preview(nn.Module):
    """From the latents of a clip to a few small pictures; `colours` is what the kinds differ in."""

    def colours(self, latents: Tensor) -> Tensor:
        """Scaled latents, float32 (n c h w) -> pictures (n 3 ph pw), colours 0..1 or a little past that."""
        raise NotImplementedError

    @torch.inference_mode()
    def forward(self, latents: Tensor, max_frames: int = 24, max_side: int = 256) -> np.ndarray:
        """Scaled latents of one clip (1 c t h w) -> uint8 (t h w c): at most `max_frames`, evenly spaced.

        Pictures whose longer side would be over `max_side` are shrunk before they leave the device.
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
    """A tiny autoencoder, `AutoencoderTiny` of diffusers: the clip's own size, and nearly its colours."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae.to(memory_format=torch.channels_last)  # up to twice as fast on a CPU

    def colours(self, latents: Tensor) -> Tensor:
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        pictures = [self.vae.decode(each, return_dict=False)[0].float() for each in scaled.split(TINY_BATCH)]
        return torch.cat(pictures) / 2 + 0.5  # -1..1 -> 0..1


class LatentPreview(Preview):
    """A linear map from each 3x3 neighbourhood of latents to a patch of p x p RGB pixels, colours 0..1.

    It costs next to nothing and suits autoencoders that keep colour linearly, as those of Stable Diffusion
    do. weight (3pp c 3 3), bias (3pp).
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        self.patch = math.isqrt(len(bias) // 3)
        assert len(weight) == len(bias) == 3 * self.patch**2

    @classmethod
    def fit(cls, vae, images: Tensor, patch: int | None = None) -> "LatentPreview":
        """Least squares on images (n 3 h w) in -1..1.

        patch: half of the autoencoder's factor unless given, which shows pictures at half their size.
        """
        weight = next(vae.parameters())
        with torch.no_grad():
            latents = torch.cat([_encode(vae, image[None].to(weight)) for image in images]).float().cpu()
        factor = images.shape[-1] // latents.shape[-1]
        patch = patch or max(1, factor // 2)
        colours = F.interpolate(images.float().cpu() / 2 + 0.5, scale_factor=patch / factor, mode="area")
        return cls(*_least_squares(latents, F.pixel_unshuffle(colours, patch))).eval()

    def colours(self, latents: Tensor) -> Tensor:
        patches = F.conv2d(_pad(latents), self.weight, self.bias)  # n c h w -> n 3pp h w
        return F.pixel_shuffle(patches, self.patch)  # n 3pp h w -> n 3 ph pw


@dataclass(frozen=True)
class Sheet:
    """Frames of one clip in rows, left to right and top to bottom; width and height are those of a frame."""

    jpeg: bytes
    columns: int
    rows: int
    count: int
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


def sprite_sheet(frames: np.ndarray) -> Sheet:
    """uint8 (t h w c) -> one JPEG of all frames, as square as it gets, no side over 4096 pixels.

    Raises ValueError when the frames do not fit on it.
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
    # Full colour resolution: at these sizes the halved one of plain JPEG bleeds from frame to frame.
    Image.fromarray(sheet).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Sheet(buffer.getvalue(), columns, rows, count, width, height)


def synthetic_pictures(count: int = 24, side: int = 128) -> Tensor:
    """Pictures to fit on when there are no better ones: float (count 3 side side) in -1..1, always the same.

    Soft grounds with discs and bars, in colours that fill the cube.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
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
    """The best linear map from 3x3 neighbourhoods of (n c h w) to (n k h w): weight (k c 3 3), bias (k)."""
    x = rearrange(F.unfold(_pad(latents), 3), "n k l -> (n l) k").double()  # k = (channel, row, column)
    y = rearrange(targets, "n k h w -> (n h w) k").double()
    # About the means the bias drops out; the normal equations are 9c x 9c, however many pixels there are.
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.mT @ x / len(x)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, x.mT @ y / len(x))  # 9c k
    weight = solution.mT.reshape(-1, latents.shape[1], 3, 3).float().contiguous()
    return weight, (y_mean - x_mean @ solution).float()


def _encode(vae, images: Tensor) -> Tensor:
    return vae.encode(images).latent_dist.mean * vae.config.scaling_factor


def _pad(latents: Tensor) -> Tensor:
    return F.pad(latents, (1, 1, 1, 1), mode="replicate")
