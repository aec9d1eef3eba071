"""Temporal layers for an image UNet (Lumiere, arXiv 2401.12945, section 3.1 and figure 4).

Every layer takes a clip `b c t h w`, or its frames as a stack of images `(b t) c h w` together with
`batch_size` (or with `time_dim`, the number of frames, given at construction). With `channel_last=True` the
channels are the last axis of both. Parameter names are those of lumiere-pytorch, so that its checkpoints
fit.

In channels-last memory a stack of images `(b t) c h w` and `b c t (h w)` are two views of the same numbers,
and a convolution over time is a 2d convolution over the second view: one copy into that memory, before
anything else, serves a layer. The result has the memory of what was given, for the sake of the base: on a
CPU, group norm over groups of few channels is up to forty times slower in channels-last memory.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available
from x_transformers.x_transformers import Attention, RMSNorm


class TemporalLayer(nn.Module):
    """Brings what a layer is given into `(b t) c h w` and its result back; layers implement `over_time`."""

    embedding_dim = 0  # channels of an embedding of each clip that the layer also takes; none but where said

    def __init__(self, channel_last: bool = False, time_dim: int | None = None):
        super().__init__()
        self.channel_last = channel_last
        self.time_dim = time_dim

    def forward(self, x: Tensor, batch_size: int | None = None, embedding: Tensor | None = None) -> Tensor:
        if self.channel_last:
            x = x.movedim(-1, 1)  # b t h w c -> b c t h w, or (b t) h w c -> (b t) c h w
        is_clip = x.ndim == 5
        if is_clip:
            batch_size = x.shape[0]
            x = x.transpose(1, 2).flatten(0, 1)  # b c t h w -> (b t) c h w
        elif x.ndim != 4:
            raise ValueError(f"Clips have 5 dimensions and stacks of frames 4; received {x.ndim}.")
        elif batch_size is None:
            if self.time_dim is None:
                raise ValueError("Frames `(b t) c h w` need `batch_size`, or `time_dim` at construction.")
            if x.shape[0] % self.time_dim:
                raise ValueError(f"Clips have {self.time_dim} frames here; received {x.shape[0]} frames.")
            batch_size = x.shape[0] // self.time_dim
        if batch_size < 1 or x.shape[0] % batch_size:
            raise ValueError(f"{x.shape[0]} frames cannot be divided into {batch_size} equally long clips.")
        if not self.embedding_dim:
            x = self.over_time(x, batch_size)
        elif embedding is None or embedding.shape != (batch_size, self.embedding_dim):
            received = None if embedding is None else " x ".join(map(str, embedding.shape))
            wanted = f"{batch_size} x {self.embedding_dim}"
            raise ValueError(f"This layer takes an embedding of each clip, {wanted}; received {received}.")
        else:
            x = self.over_time(x, batch_size, embedding)
        if is_clip:
            x = x.unflatten(0, (batch_size, -1)).transpose(1, 2)  # (b t) c h w -> b c t h w
        return x.movedim(1, -1) if self.channel_last else x

    def over_time(self, x: Tensor, b: int, embedding: Tensor | None = None) -> Tensor:
        """`(b t) c h w -> (b t') c h w`; the embedding is there if the layer has an `embedding_dim`."""
        raise NotImplementedError


class ConvolutionInflationBlock(TemporalLayer):
    """2d convolution, 1d convolution over time, and a projection that starts at zero; residual (figure 4b).

    The second group norm takes its statistics at each pixel, over the channels of a group and all frames.
    Checkpoints of lumiere-pytorch have that norm up to its version 0.0.22, and `norm="rms"` from 0.0.23 on.
    With `norm="clip"` it takes them over all pixels, too: what frames have in common at one pixel and not at
    another, which is all that there is to see in much noise, stays larger there.

    With `embedding_dim` the layer takes the `embedding` (b, embedding_dim) of timestep and text of each clip,
    too, which scales and shifts what that norm leaves (Perez et al. 2018, arXiv 1709.07871), at first by
    nothing: which way a thing moves is in the text before it is in the pixels.

    `padding_mode` is that of the 2d convolution, as in torch: with "circular" it sees the opposite edge
    beyond an edge, for worlds in which what leaves comes in there.
    """

    def __init__(
        self,
        *,
        dim: int,
        conv2d_kernel_size: int = 3,
        conv1d_kernel_size: int = 3,
        groups: int = 8,
        channel_last: bool = False,
        time_dim: int | None = None,
        norm: str = "group",
        embedding_dim: int = 0,
        padding_mode: str = "zeros",
    ):
        super().__init__(channel_last, time_dim)
        for size in (conv2d_kernel_size, conv1d_kernel_size):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"Kernel sizes are odd, so that a frame keeps its place; received {size}.")
        if norm not in ("group", "rms", "clip"):
            raise ValueError(f"`norm` is group, rms or clip; received {norm!r}.")
        if norm != "rms" and dim % groups:
            raise ValueError(f"`groups` must divide the {dim} channels; received {groups}.")
        self.spatial_conv = nn.Sequential(
            nn.Conv2d(
                dim, dim, conv2d_kernel_size, padding=conv2d_kernel_size // 2, padding_mode=padding_mode
            ),
            nn.GroupNorm(groups, dim) if norm != "rms" else AxisNorm(dim, axis=3),
            nn.SiLU(),
        )
        self.temporal_conv = nn.Sequential(
            nn.Conv1d(dim, dim, conv1d_kernel_size, padding=conv1d_kernel_size // 2),
            nn.GroupNorm(groups, dim) if norm != "rms" else AxisNorm(dim, axis=2),
            nn.SiLU(),
        )
        self.proj_out = nn.Conv1d(dim, dim, 1)
        zeros_(self.proj_out)
        self.norm, self.embedding_dim = norm, embedding_dim
        self.modulation = zero_linear(embedding_dim, 2 * dim) if embedding_dim else None

    def over_time(self, x: Tensor, b: int, embedding: Tensor | None = None) -> Tensor:
        conv, norm, _ = self.spatial_conv
        y = silu(norm(conv(channels_last(x))))
        y = rows_of_time(y, b)  # (b t) c h w -> b c t (h w)
        conv, norm, _ = self.temporal_conv
        y = F.conv2d(y, kernel_over_time(conv), conv.bias, padding=(conv.padding[0], 0))
        dtype = y.dtype
        # In float32 at least: bfloat16 is slow on a CPU, and not exact.
        y = y.permute(0, 2, 3, 1).to(torch.promote_types(dtype, torch.float32))  # b t (h w) c
        if self.norm == "group":
            y = group_norm_over_time(norm, y)
        elif self.norm == "clip":
            y = group_norm_over_clip(norm, y)
        else:
            y = norm(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.modulation is not None:
            scale, shift = self.modulation(embedding).to(y.dtype)[:, None, None].chunk(2, dim=-1)
            y = torch.addcmul(shift, y, 1 + scale)  # b t (h w) c
        y = silu(y).to(dtype).flatten(0, 1)  # b t (h w) c -> (b t) (h w) c
        return add_projection(x, y, self.proj_out.weight.squeeze(-1), self.proj_out.bias)


def add_projection(x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x `n c h w` and a projection of rows `n (h w) c`, in the memory of x; nothing is copied on the way."""
    weight = weight.expand(len(x), -1, -1)
    if x.is_contiguous():
        y = torch.baddbmm(x.flatten(2), weight, rows.mT).add_(bias[:, None])
        return y.unflatten(2, x.shape[2:])
    y = torch.baddbmm(x.permute(0, 2, 3, 1).flatten(1, 2), rows, weight.mT).add_(bias)
    return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def silu(x: Tensor) -> Tensor:
    """In place where nothing has to be remembered for a gradient."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def group_norm_over_time(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group norm of x `b t n c` over all frames, at each of n pixels.

    The sums are products with ones, for which a CPU takes a tenth of the time of `sum`.
    """
    b, t, n, c = x.shape
    rows, ones = x.flatten(2), x.new_ones(1, t)  # b t (n c)
    with without_autocast(x):  # which would round what is multiplied
        sums = [ones @ rows, ones @ rows.square()]
    groups = (norm.num_groups, c // norm.num_groups)
    sums = [s.view(b, 1, n, *groups).sum(-1, keepdim=True) for s in sums]  # b 1 n g 1
    mean, square = (s / (t * groups[1]) for s in sums)
    rate = (square - mean.square()).clamp(min=0).add(norm.eps).rsqrt()
    weight, bias = (w.to(x.dtype).view(groups) for w in (norm.weight, norm.bias))
    scale = weight * rate  # b 1 n g k
    return torch.addcmul((bias - mean * scale).flatten(3), x, scale.flatten(3))


def group_norm_over_clip(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group norm of x `b t n c` over all frames and pixels, whose precision the weights need not have."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return F.group_norm(x.permute(0, 3, 1, 2), norm.num_groups, weight, bias, norm.eps).permute(0, 2, 3, 1)


def without_autocast(x: Tensor) -> AbstractContextManager:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()


class AxisNorm(nn.Module):
    """Unit length along one axis of `n c ...`, then times √c and a gain per channel."""

    def __init__(self, dim: int, axis: int):
        super().__init__()
        self.axis = axis
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gamma.view(-1, *(1,) * (x.ndim - 2)) * len(self.gamma) ** 0.5
        return F.normalize(x, dim=self.axis) * gain


class AttentionInflationBlock(TemporalLayer):
    """`depth` times attention over the frames of a pixel, a projection that starts at zero; residual (4c).

    By itself attention does not know the order of frames. With `rotary` it is told how far one frame is from
    another (Su et al. 2021). With `window` a frame attends to those at most so many away: with the reach of
    the clips it was trained on, rotary attention meets nothing new in longer ones. `attn_kwargs` go to the
    Attention of x-transformers (`heads`, `dim_head`, ...).

    Beyond the paper, `space_time_depth` attentions follow over all pixels of all frames (of the window):
    where a thing is at one time excludes that it is elsewhere at another.

    With `embedding_dim` an embedding of each clip is taken, as by the convolution, and added to all frames.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int = 1,
        prenorm: bool = True,
        residual_attn: bool = True,
        time_dim: int | None = None,
        channel_last: bool = False,
        rotary: bool = False,
        window: int | None = None,
        space_time_depth: int = 0,
        embedding_dim: int = 0,
        **attn_kwargs,
    ):
        super().__init__(channel_last, time_dim)
        if window is not None and window < 1:
            raise ValueError(f"`window` reaches at least 1 frame; received {window}.")
        half = attn_kwargs.get("dim_head", 64) // 4 * 2  # of the channels of a head, an even number
        self.turned = half if rotary else 0
        self.window, self.embedding_dim = window, embedding_dim
        self.modulation = zero_linear(embedding_dim, dim) if embedding_dim else None
        attn_kwargs = {"flash": True} | attn_kwargs  # the same sums, through scaled_dot_product_attention

        def layer() -> nn.Module:
            attention = Attention(dim=dim, **attn_kwargs)
            if isinstance(attention.to_out, nn.Identity) and attention.to_v.out_features != dim:
                width = attention.to_v.out_features  # x-transformers projects several heads back, but not one
                raise ValueError(f"A single head must have `dim_head` {dim}, the channels; received {width}.")
            made = WithArguments(RMSNorm(dim), attention) if prenorm else WithArguments(attention)
            return Residual(made) if residual_attn else made

        self.temporal_attns = nn.ModuleList(layer() for _ in range(depth))
        self.space_time_attns = nn.ModuleList(layer() for _ in range(space_time_depth))
        self.proj_out = zero_linear(dim, dim)

    def over_time(self, x: Tensor, b: int, embedding: Tensor | None = None) -> Tensor:
        y = rows_of_time(x, b).permute(0, 3, 2, 1)  # (b t) c h w -> b (h w) t c
        if self.modulation is not None:
            y = y + self.modulation(embedding).to(y.dtype)[:, None, None]
        y = y.flatten(0, 1)  # b (h w) t c -> (b h w) t c
        frames = torch.arange(y.shape[1], device=y.device)
        arguments = self._positions(frames, len(frames))
        for attention in self.temporal_attns:
            y = attention(y, **arguments)
        if self.space_time_attns:
            y = y.unflatten(0, (b, -1)).transpose(1, 2).flatten(1, 2)  # (b h w) t c -> b (t h w) c
            tokens = frames.repeat_interleave(y.shape[1] // len(frames))
            arguments = self._positions(tokens, len(frames))
            for attention in self.space_time_attns:
                y = attention(y, **arguments)
            y = y.unflatten(1, (len(frames), -1)).transpose(1, 2).flatten(0, 1)  # b (t h w) c -> (b h w) t c
        return x + pixels_to_frames(self.proj_out(y), x)

    def _positions(self, frames: Tensor, length: int) -> dict:
        """What the attentions are told of tokens of these frames (n), in a clip of this length."""
        arguments = {}
        if self.turned and not frames.is_meta:  # where x-transformers cannot turn, and nothing is computed
            arguments["rotary_pos_emb"] = rotary_angles(frames, self.turned), 1.0
        if self.window is not None and length > self.window + 1:
            arguments["attn_mask"] = (frames[:, None] - frames).abs() <= self.window
        return arguments


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    zeros_(linear)
    return linear


def zeros_(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def rotary_angles(frames: Tensor, dim: int) -> Tensor:
    """Angles (1 t dim) by which pairs of channels are turned at frames (t), from 1 radian per frame down."""
    rates = 10_000.0 ** -(torch.arange(0, dim, 2, device=frames.device) / dim)
    return (frames[:, None] * rates).repeat_interleave(2, dim=-1)[None]


class WithArguments(nn.Sequential):
    """One module after the other; the last one is given the further arguments."""

    def forward(self, x: Tensor, **kwargs) -> Tensor:
        *before, last = self
        for module in before:
            x = module(x)
        return last(x, **kwargs)


class Residual(nn.Module):
    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, **kwargs) -> Tensor:
        return x + self.fn(x, **kwargs)


class EmbeddingAdapter(nn.Module):
    """A change to the embedding of timestep and text (n d), which starts as nothing.

    The frames of a clip tell more of each other than one tells of itself, so the features of a clip are those
    of an image with less noise than its timestep says; a frozen block that is told so makes more of them.
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.fn = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), zero_linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class TemporalDownsample(TemporalLayer):
    """Halves the frames, an even number of them: convolution with kernel 3 and stride 2.

    `init="nearest"` starts by keeping every second frame, the first included. `init="bilinear"` starts as
    the mean `¼ ½ ¼`, with the first frame continued before the clip, so that a still clip stays itself on
    every frame.
    """

    def __init__(
        self, dim: int, channel_last: bool = False, time_dim: int | None = None, init: str = "nearest"
    ):
        super().__init__(channel_last, time_dim)
        self.conv = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.continues = init == "bilinear"
        init_kernel_(self.conv, {"nearest": (0, 1, 0), "bilinear": (0.25, 0.5, 0.25)}, init)

    def over_time(self, x: Tensor, b: int) -> Tensor:
        frames = x.shape[0] // b
        if frames % 2:
            raise ValueError(f"Halving needs an even number of frames; received {frames}.")
        y, padding = rows_of_time(x, b), 1  # (b t) c h w -> b c t (h w)
        if self.continues:
            y, padding = torch.cat((y[:, :, :1], y), dim=2), 0
        kernel = kernel_over_time(self.conv)
        y = F.conv2d(y, kernel, self.conv.bias, stride=(2, 1), padding=(padding, 0))
        return frames_of_time(y, x)  # b c t/2 (h w) -> (b t/2) c h w


class TemporalUpsample(TemporalLayer):
    """Doubles the frames: transposed convolution with kernel 3 and stride 2.

    `init="nearest"` starts by showing each frame twice. `init="bilinear"` starts by putting the mean of two
    neighbours between them, with the last frame continued after the clip.
    """

    def __init__(
        self, dim: int, channel_last: bool = False, time_dim: int | None = None, init: str = "nearest"
    ):
        super().__init__(channel_last, time_dim)
        self.conv = nn.ConvTranspose1d(dim, dim, 3, stride=2, padding=1, output_padding=1)
        self.continues = init == "bilinear"
        init_kernel_(self.conv, {"nearest": (0, 1, 1), "bilinear": (0.5, 1, 0.5)}, init)

    def over_time(self, x: Tensor, b: int) -> Tensor:
        y, frames = rows_of_time(x, b), x.shape[0] // b  # (b t) c h w -> b c t (h w)
        if self.continues:
            y = torch.cat((y, y[:, :, -1:]), dim=2)
        kernel, bias = kernel_over_time(self.conv), self.conv.bias
        y = F.conv_transpose2d(y, kernel, bias, (2, 1), padding=(1, 0), output_padding=(1, 0))
        return frames_of_time(y[:, :, : 2 * frames], x)  # b c 2t (h w) -> (b 2t) c h w


def init_kernel_(conv: nn.Conv1d | nn.ConvTranspose1d, kernels: dict[str, tuple], init: str) -> None:
    """The same kernel over time for every channel, and nothing between channels."""
    if init not in kernels:
        raise ValueError(f"`init` is one of {', '.join(kernels)}; received {init!r}.")
    with torch.no_grad():
        kernel = torch.tensor(kernels[init], dtype=conv.weight.dtype, device=conv.weight.device)
        conv.weight.copy_(torch.eye(conv.in_channels, device=conv.weight.device)[:, :, None] * kernel)
        conv.bias.zero_()


def kernel_over_time(conv: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    """The kernel of a 2d convolution over rows of time; in other memory it would have them copied, too."""
    return conv.weight.unsqueeze(-1).contiguous(memory_format=torch.channels_last)


def rows_of_time(x: Tensor, b: int) -> Tensor:
    """`(b t) c h w -> b c t (h w)`, in channels-last memory, where this is a view."""
    return channels_last(x).flatten(2).unflatten(0, (b, -1)).transpose(1, 2)


def channels_last(x: Tensor) -> Tensor:
    """`n c h w` in channels-last memory."""
    if x.is_cpu and x.is_contiguous() and not x.requires_grad:  # there and back, it would take longer
        # Channels whose distance is a power of two push each other out of the cache; of padded ones, a copy
        # takes a quarter of the time.
        rows = F.pad(x.flatten(2), (0, 32))[..., : x.shape[2] * x.shape[3]]  # n c (h w)
        x = rows.mT.contiguous().unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def frames_of_time(x: Tensor, like: Tensor) -> Tensor:
    """`b c t (h w) -> (b t) c h w`, in the memory of `like`, which also tells h and w."""
    x = x.transpose(1, 2).flatten(0, 1).unflatten(2, like.shape[2:])
    return x.contiguous(memory_format=_memory(like))


def pixels_to_frames(x: Tensor, like: Tensor) -> Tensor:
    """`(b h w) t c -> (b t) c h w`, in the shape and the memory of `like`."""
    frames, c, h, w = like.shape
    x = x.unflatten(0, (-1, h, w)).permute(0, 3, 1, 2, 4)  # (b h w) t c -> b t h w c
    # Two steps, each of which torch has fast code for; in one it would copy number by number.
    return x.reshape(frames, h, w, c).permute(0, 3, 1, 2).contiguous(memory_format=_memory(like))


def _memory(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
