"""Temporal layers for an image UNet (Lumiere, arXiv 2401.12945, section 3.1 and figure 4).

Layers accept a clip `b c t h w`, or stacked frames `(b t) c h w` with `batch_size` (or with `time_dim`, the
number of frames, set at construction). With `channel_last=True`, channels are the last axis of both.
Parameter names match lumiere-pytorch, so that its checkpoints load.

In channels-last memory, `(b t) c h w` and `b c t (h w)` are views of the same data, and a temporal
convolution is a 2d convolution over the second view. Each layer therefore copies its input to channels-last
memory once. The output has the memory format of the input, for the sake of the base: on a CPU, group norm
over groups of few channels is up to forty times slower in channels-last memory.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available
from x_transformers.x_transformers import Attention, RMSNorm

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class TemporalLayer(nn.Module):
    """Base class that converts inputs to `(b t) c h w` and outputs back; subclasses implement `over_time`.

    Args:
        channel_last: whether channels are the last axis.
        time_dim: default number of frames of stacked inputs.
    """

    embedding_dim = 0  # width of the clip embedding that the layer takes, 0 for none

    def __init__(self, channel_last: bool = False, time_dim: int | None = None):
        super().__init__()
        self.channel_last = channel_last
        self.time_dim = time_dim

    def forward(self, x: Tensor, batch_size: int | None = None, embedding: Tensor | None = None) -> Tensor:
        """Applies the layer to a clip or to stacked frames.

        Args:
            x: clip `b c t h w` or stacked frames `(b t) c h w`.
            batch_size: number of clips b of stacked frames. Defaults to `len(x) / time_dim`.
            embedding: clip embedding `b d`, for layers with an `embedding_dim`.

        Returns:
            The output in the layout of x.

        Raises:
            ValueError: the shape of x, the batch size or the embedding does not fit.
        """
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
        """Maps `(b t) c h w` to `(b t') c h w`; layers with an `embedding_dim` also receive the embedding."""
        raise NotImplementedError


class ConvolutionInflationBlock(TemporalLayer):
    """Residual convolution block: 2d and temporal convolution, zero-initialised projection (figure 4b).

    Args:
        dim: channels.
        conv2d_kernel_size: odd size of the spatial kernel.
        conv1d_kernel_size: odd size of the temporal kernel.
        groups: groups of the group norms; must divide `dim`.
        channel_last: whether channels are the last axis.
        time_dim: default number of frames of stacked inputs.
        norm: "group" normalises the temporal features at each pixel, over the channels of a group and all
            frames, as in lumiere-pytorch up to 0.0.22. "rms" is the norm of lumiere-pytorch from 0.0.23 on.
            "clip" also normalises over all pixels. This preserves differences between pixels that are common
            to all frames, the only signal at high noise levels.
        embedding_dim: width of an embedding `b d` of timestep and text, which scales and shifts the temporal
            norm (FiLM, Perez et al. 2018, arXiv 1709.07871). The modulation starts at zero. The text
            determines the direction of motion before the pixels show it.
        padding_mode: padding of the 2d convolution, as in torch. "circular" suits worlds in which objects
            that leave at one edge enter at the opposite one.

    Raises:
        ValueError: a kernel size is even, `norm` is unknown, or `groups` does not divide `dim`.
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
        padding_mode: PaddingMode = "zeros",
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
        """Maps `(b t) c h w` to the same shape; `embedding` is `b d` for blocks with an `embedding_dim`."""
        conv, norm, _ = self.spatial_conv
        y = silu(norm(conv(channels_last(x))))
        y = rows_of_time(y, b)  # (b t) c h w -> b c t (h w)
        conv, norm, _ = self.temporal_conv
        assert isinstance(conv, nn.Conv1d)
        y = F.conv2d(y, kernel_over_time(conv), conv.bias, padding=(conv.kernel_size[0] // 2, 0))
        dtype = y.dtype
        # At least float32: bfloat16 is slow on a CPU, and less precise.
        y = y.permute(0, 2, 3, 1).to(torch.promote_types(dtype, torch.float32))  # b t (h w) c
        if isinstance(norm, nn.GroupNorm):
            y = group_norm_over_clip(norm, y) if self.norm == "clip" else group_norm_over_time(norm, y)
        else:
            y = norm(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.modulation is not None:
            scale, shift = self.modulation(embedding).to(y.dtype)[:, None, None].chunk(2, dim=-1)
            y = torch.addcmul(shift, y, 1 + scale)  # b t (h w) c
        y = silu(y).to(dtype).flatten(0, 1)  # b t (h w) c -> (b t) (h w) c
        assert self.proj_out.bias is not None
        return add_projection(x, y, self.proj_out.weight.squeeze(-1), self.proj_out.bias)


def add_projection(x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Adds a projection of rows to features, in their memory format and without copies.

    Args:
        x: features `n c h w`.
        rows: `n (h w) c`.
        weight: weight of the projection, `c c`.
        bias: bias of the projection, `c`.
    """
    weight = weight.expand(len(x), -1, -1)
    if x.is_contiguous():
        y = torch.baddbmm(x.flatten(2), weight, rows.mT).add_(bias[:, None])
        return y.unflatten(2, x.shape[2:])
    y = torch.baddbmm(x.permute(0, 2, 3, 1).flatten(1, 2), rows, weight.mT).add_(bias)
    return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def silu(x: Tensor) -> Tensor:
    """Applies SiLU, in place when gradients are disabled."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def group_norm_over_time(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Applies group norm to x `b t n c` over all frames, at each of n pixels.

    Sums are computed as products with ones, which take a tenth of the time of `sum` on a CPU.
    """
    b, t, n, c = x.shape
    rows, ones = x.flatten(2), x.new_ones(1, t)  # b t (n c)
    with without_autocast(x):  # autocast would round the factors
        sums = [ones @ rows, ones @ rows.square()]
    groups = (norm.num_groups, c // norm.num_groups)
    sums = [s.view(b, 1, n, *groups).sum(-1, keepdim=True) for s in sums]  # b 1 n g 1
    mean, square = (s / (t * groups[1]) for s in sums)
    rate = (square - mean.square()).clamp(min=0).add(norm.eps).rsqrt()
    weight, bias = (w.to(x.dtype).view(groups) for w in (norm.weight, norm.bias))
    scale = weight * rate  # b 1 n g k
    return torch.addcmul((bias - mean * scale).flatten(3), x, scale.flatten(3))


def group_norm_over_clip(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Applies group norm to x `b t n c` over all frames and pixels, in the dtype of x."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return F.group_norm(x.permute(0, 3, 1, 2), norm.num_groups, weight, bias, norm.eps).permute(0, 2, 3, 1)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Returns a context in which autocast is disabled on the device of x."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()


class AxisNorm(nn.Module):
    """Normalises `n c ...` to unit length along one axis, then scales by √c and a gain per channel."""

    def __init__(self, dim: int, axis: int):
        super().__init__()
        self.axis = axis
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `n c ...` to the same shape."""
        gain = self.gamma.view(-1, *(1,) * (x.ndim - 2)) * len(self.gamma) ** 0.5
        return F.normalize(x, dim=self.axis) * gain


class AttentionInflationBlock(TemporalLayer):
    """Residual attention block: `depth` temporal attentions, zero-initialised projection (figure 4c).

    Args:
        dim: channels.
        depth: number of temporal attentions.
        prenorm: whether RMS norm precedes each attention.
        residual_attn: whether each attention is residual.
        time_dim: default number of frames of stacked inputs.
        channel_last: whether channels are the last axis.
        rotary: encodes the distance between frames (RoPE, Su et al. 2021). Attention alone ignores the order
            of frames.
        window: maximum distance between frames that attend to each other. Defaults to no limit. With a window
            within the training clips, rotary attention meets no new distances in longer clips.
        space_time_depth: number of further attentions over all pixels of all frames in the window, not in the
            paper. An object seen at one place and time cannot be elsewhere at another time.
        embedding_dim: width of a clip embedding `b d`, projected and added to all frames. The projection
            starts at zero.
        attn_kwargs: arguments of x-transformers' `Attention` (`heads`, `dim_head`, ...).

    Raises:
        ValueError: `window` is below 1, or a single head has another width than `dim`.
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
        **attn_kwargs: Any,
    ):
        super().__init__(channel_last, time_dim)
        if window is not None and window < 1:
            raise ValueError(f"`window` reaches at least 1 frame; received {window}.")
        half = attn_kwargs.get("dim_head", 64) // 4 * 2  # half of a head's channels, rounded down to even
        self.turned = half if rotary else 0
        self.window, self.embedding_dim = window, embedding_dim
        self.modulation = zero_linear(embedding_dim, dim) if embedding_dim else None
        attn_kwargs = {"flash": True} | attn_kwargs  # scaled_dot_product_attention

        def layer() -> nn.Module:
            attention = Attention(dim=dim, **attn_kwargs)
            if isinstance(attention.to_out, nn.Identity) and attention.to_v.out_features != dim:
                width = attention.to_v.out_features  # x-transformers has no output projection for one head
                raise ValueError(f"A single head must have `dim_head` {dim}, the channels; received {width}.")
            made = WithArguments(RMSNorm(dim), attention) if prenorm else WithArguments(attention)
            return Residual(made) if residual_attn else made

        self.temporal_attns = nn.ModuleList(layer() for _ in range(depth))
        self.space_time_attns = nn.ModuleList(layer() for _ in range(space_time_depth))
        self.proj_out = zero_linear(dim, dim)

    def over_time(self, x: Tensor, b: int, embedding: Tensor | None = None) -> Tensor:
        """Maps `(b t) c h w` to the same shape; `embedding` is `b d` for blocks with an `embedding_dim`."""
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

    def _positions(self, frames: Tensor, length: int) -> dict[str, Tensor | tuple[Tensor, float]]:
        """Returns the attention arguments for tokens at frames `n` of a clip of `length` frames."""
        arguments: dict[str, Tensor | tuple[Tensor, float]] = {}
        if self.turned and not frames.is_meta:  # x-transformers cannot rotate meta tensors
            arguments["rotary_pos_emb"] = rotary_angles(frames, self.turned), 1.0
        if self.window is not None and length > self.window + 1:
            arguments["attn_mask"] = (frames[:, None] - frames).abs() <= self.window
        return arguments


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Returns a linear layer initialised to zero."""
    linear = nn.Linear(inputs, outputs)
    zeros_(linear)
    return linear


def zeros_(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
    """Sets the weight and bias of a layer to zero, in place."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def rotary_angles(frames: Tensor, dim: int) -> Tensor:
    """Returns rotation angles `1 t dim` of channel pairs at frames `t`, from 1 radian per frame down."""
    rates = 10_000.0 ** -(torch.arange(0, dim, 2, device=frames.device) / dim)
    return (frames[:, None] * rates).repeat_interleave(2, dim=-1)[None]


class WithArguments(nn.Sequential):
    """Sequential module that passes keyword arguments to its last module."""

    def forward(self, input: Tensor, **kwargs: Any) -> Tensor:
        """Runs the modules in order; `kwargs` go to the last one."""
        *before, last = self
        for module in before:
            input = module(input)
        return last(input, **kwargs)


class Residual(nn.Module):
    """Adds the input of a module to its output."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Returns `x + fn(x, **kwargs)`."""
        return x + self.fn(x, **kwargs)


class EmbeddingAdapter(nn.Module):
    """Zero-initialised residual MLP on the embedding of timestep and text `n d`.

    Frames of a clip share information, so clip features resemble the features of an image with less noise
    than the timestep indicates. The adapter changes the embedding accordingly, and frozen blocks use the
    features better.

    Args:
        dim: channels of the embedding.
        width: hidden channels.
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.fn = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), zero_linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps the embedding `n d` to the same shape."""
        return x + self.fn(x)


class TemporalDownsample(TemporalLayer):
    """Halves the number of frames, which must be even: convolution with kernel 3 and stride 2.

    Args:
        dim: channels.
        channel_last: whether channels are the last axis.
        time_dim: default number of frames of stacked inputs.
        init: "nearest" starts by keeping every second frame, including the first. "bilinear" starts as the
            mean `¼ ½ ¼` and repeats the first frame before the clip, which leaves a still clip unchanged.
    """

    def __init__(
        self, dim: int, channel_last: bool = False, time_dim: int | None = None, init: str = "nearest"
    ):
        super().__init__(channel_last, time_dim)
        self.conv = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.continues = init == "bilinear"
        init_kernel_(self.conv, {"nearest": (0, 1, 0), "bilinear": (0.25, 0.5, 0.25)}, init)

    def over_time(self, x: Tensor, b: int, embedding: Tensor | None = None) -> Tensor:
        """Maps `(b t) c h w` to `(b t/2) c h w`.

        Args:
            x: stacked frames.
            b: number of clips.
            embedding: not used.

        Raises:
            ValueError: t is odd.
        """
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
    """Doubles the number of frames: transposed convolution with kernel 3 and stride 2.

    Args:
        dim: channels.
        channel_last: whether channels are the last axis.
        time_dim: default number of frames of stacked inputs.
        init: "nearest" starts by repeating each frame. "bilinear" starts by inserting the mean of two
            neighbours and repeats the last frame after the clip.
    """

    def __init__(
        self, dim: int, channel_last: bool = False, time_dim: int | None = None, init: str = "nearest"
    ):
        super().__init__(channel_last, time_dim)
        self.conv = nn.ConvTranspose1d(dim, dim, 3, stride=2, padding=1, output_padding=1)
        self.continues = init == "bilinear"
        init_kernel_(self.conv, {"nearest": (0, 1, 1), "bilinear": (0.5, 1, 0.5)}, init)

    def over_time(self, x: Tensor, b: int, embedding: Tensor | None = None) -> Tensor:
        """Maps `(b t) c h w` to `(b 2t) c h w`."""
        y, frames = rows_of_time(x, b), x.shape[0] // b  # (b t) c h w -> b c t (h w)
        if self.continues:
            y = torch.cat((y, y[:, :, -1:]), dim=2)
        kernel, bias = kernel_over_time(self.conv), self.conv.bias
        y = F.conv_transpose2d(y, kernel, bias, (2, 1), padding=(1, 0), output_padding=(1, 0))
        return frames_of_time(y[:, :, : 2 * frames], x)  # b c 2t (h w) -> (b 2t) c h w


def init_kernel_(
    conv: nn.Conv1d | nn.ConvTranspose1d, kernels: dict[str, tuple[float, float, float]], init: str
) -> None:
    """Sets the same temporal kernel for every channel, without mixing channels, in place.

    Args:
        conv: temporal convolution with as many input as output channels.
        kernels: kernel by the name of the initialisation.
        init: name of the initialisation, a key of `kernels`.

    Raises:
        ValueError: `init` is unknown.
    """
    if init not in kernels:
        raise ValueError(f"`init` is one of {', '.join(kernels)}; received {init!r}.")
    with torch.no_grad():
        kernel = torch.tensor(kernels[init], dtype=conv.weight.dtype, device=conv.weight.device)
        conv.weight.copy_(torch.eye(conv.in_channels, device=conv.weight.device)[:, :, None] * kernel)
        if conv.bias is not None:
            conv.bias.zero_()


def kernel_over_time(conv: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    """Returns a 1d kernel as a 2d kernel in channels-last memory, which spares a copy of the features."""
    return conv.weight.unsqueeze(-1).contiguous(memory_format=torch.channels_last)


def rows_of_time(x: Tensor, b: int) -> Tensor:
    """Reshapes `(b t) c h w -> b c t (h w)`, a view in channels-last memory."""
    return channels_last(x).flatten(2).unflatten(0, (b, -1)).transpose(1, 2)


def channels_last(x: Tensor) -> Tensor:
    """Converts x `n c h w` to channels-last memory."""
    if x.is_cpu and x.is_contiguous() and not x.requires_grad:  # slower if a backward pass follows
        # Channels a power of two apart evict each other from the cache. With padding, the copy takes a
        # quarter of the time.
        rows = F.pad(x.flatten(2), (0, 32))[..., : x.shape[2] * x.shape[3]]  # n c (h w)
        x = rows.mT.contiguous().unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def frames_of_time(x: Tensor, like: Tensor) -> Tensor:
    """Reshapes `b c t (h w) -> (b t) c h w`, with height, width and memory format of `like`."""
    x = x.transpose(1, 2).flatten(0, 1).unflatten(2, like.shape[2:])
    return x.contiguous(memory_format=_memory(like))


def pixels_to_frames(x: Tensor, like: Tensor) -> Tensor:
    """Reshapes `(b h w) t c -> (b t) c h w`, with the shape and memory format of `like`."""
    frames, c, h, w = like.shape
    x = x.unflatten(0, (-1, h, w)).permute(0, 3, 1, 2, 4)  # (b h w) t c -> b t h w c
    # Two steps with fast kernels; a single permutation would copy element by element.
    return x.reshape(frames, h, w, c).permute(0, 3, 1, 2).contiguous(memory_format=_memory(like))


def _memory(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
