"""A frozen text-to-image UNet with temporal layers between its blocks (Lumiere, arXiv 2401.12945, 3.1)."""

import copy
import inspect
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

from lumiere.layers import (
    AttentionInflationBlock,
    ConvolutionInflationBlock,
    TemporalDownsample,
    TemporalUpsample,
)
from lumiere.places import KINDS, Places, find_places, unet_places


class Lumiere(nn.Module):
    """A text-to-image UNet that denoises whole clips.

    The base is frozen and shared: it stays usable on its own, keeps its state dict, and may carry several
    wrappers. What `parameters()`, `state_dict()` and `train()` see are the motion weights: `convs`, `attns`,
    `downsamples` and `upsamples`. `to()` moves the base as well.

    Layers follow the modules named, whatever the order of the names; one image of `channels` x `image_size` x
    `image_size` is sent through the base to find widths and order. `unet_time_kwarg` is the base's name for
    the timestep. `from_unet` needs none of this: it knows the `places`, and that its base can embed
    conditioning once `per_clip` instead of once per frame.

    With `given_channels` the model also sees given pixels and their mask (see conditioning.py), as further
    channels of the video: the convolution `input_module_name` grows by columns that start at zero and are
    motion weights. A video without them is one of which nothing is given.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        unet_time_kwarg: str,
        image_size: int = 64,
        conv_module_names: Sequence[str] = (),
        attn_module_names: Sequence[str] = (),
        downsample_module_names: Sequence[str] = (),
        upsample_module_names: Sequence[str] = (),
        channels: int = 3,
        conv_inflation_kwargs: dict | None = None,
        attn_inflation_kwargs: dict | None = None,
        downsample_kwargs: dict | None = None,
        upsample_kwargs: dict | None = None,
        conv_klass: type[nn.Module] = ConvolutionInflationBlock,
        attn_klass: type[nn.Module] = AttentionInflationBlock,
        downsample_klass: type[nn.Module] = TemporalDownsample,
        upsample_klass: type[nn.Module] = TemporalUpsample,
        places: Places | None = None,
        per_clip: bool = False,
        given_channels: int = 0,
        input_module_name: str = "conv_in",
    ):
        super().__init__()
        self.__dict__["model"] = model.eval().requires_grad_(False)  # not a submodule: shared, not owned
        kwargs = (conv_inflation_kwargs, attn_inflation_kwargs, downsample_kwargs, upsample_kwargs)
        self.kwargs = {kind: given or {} for kind, given in zip(KINDS, kwargs, strict=True)}
        if places is None:
            names = (conv_module_names, attn_module_names, downsample_module_names, upsample_module_names)
            names = dict(zip(KINDS, names, strict=True))
            last = {kind: given.get("channel_last", False) for kind, given in self.kwargs.items()}
            image = torch.zeros(1, channels, image_size, image_size, device=self.device, dtype=self.dtype)
            time = {unet_time_kwarg: torch.ones(1, device=self.device)}
            places = find_places(model, names, last, image, time)
        ups, downs = len(places.upsamples), len(places.downsamples)
        if ups != downs:
            raise ValueError(f"Up- and downsamplers in time are equally many; received {ups} and {downs}.")
        self.places, self.unet_time_kwarg = places, unet_time_kwarg
        self.channels, self.per_clip = channels, per_clip
        self.downsample_factor = 2**downs
        classes = (conv_klass, attn_klass, downsample_klass, upsample_klass)
        with torch.device(self.device):
            for kind, klass in zip(KINDS, classes, strict=True):
                widths = getattr(places, kind).values()
                layers = nn.ModuleList(klass(dim=width, **self.kwargs[kind]) for width in widths)
                setattr(self, kind, layers.to(self.dtype))
            self.given_channels, self.input_module_name = given_channels, input_module_name
            self.conv_in = self._given_columns().to(self.dtype) if given_channels else None
        self._attach()

    @classmethod
    def from_unet(cls, unet: nn.Module, factor: int = 4, **kwargs) -> "Lumiere":
        """Inflates a `UNet2DConditionModel` of diffusers; its coarsest level has `factor` times fewer frames.

        `factor` is a power of two, at most 2 ** (number of spatial downsamplers). `kwargs` are those of the
        constructor; attention has one head per 64 channels unless `attn_inflation_kwargs` says otherwise.
        """
        places = unet_places(unet, factor)
        width = next(iter(places.attns.values()))
        heads = {"heads": max(1, width // 64), "dim_head": width // max(1, width // 64)}
        kwargs["attn_inflation_kwargs"] = heads | (kwargs.get("attn_inflation_kwargs") or {})
        kwargs |= {"unet_time_kwarg": "timestep", "channels": unet.config.in_channels}
        return cls(unet, places=places, per_clip=True, **kwargs)

    def forward(self, video: Tensor, *args, **kwargs):
        """`b c t h w -> b c t h w`; further arguments are those of the base. Given channels come after c.

        The timestep is a number or one per clip; other conditioning (text `b n d`) has one row per clip, or
        one per frame in the order `(b t)`. The result is what the base returns: a tensor, a tuple, an object
        with `.sample`. Raises ValueError when the frames cannot be divided by `downsample_factor` or rows do
        not fit.
        """
        b, _, t, _, _ = self._check(video)
        kwargs |= zip(self._input_names[1:], args, strict=False)
        kwargs, rows = self._conditioning(kwargs, b, t)
        images = video.transpose(1, 2).flatten(0, 1)  # b c t h w -> (b t) c h w
        given = images[:, self.channels :] if images.shape[1] > self.channels else None
        with _in_call(_Call(self, self._token, b, rows, given)):
            output = self.model(images[:, : self.channels].contiguous(), **kwargs)
        return _change_first(output, lambda x: x.unflatten(0, (b, t)).transpose(1, 2).contiguous())

    def enable_gradient_checkpointing(self) -> None:
        """Trades time for memory in training: the base's blocks run again, layers included, going backward.

        For bases that offer it, as those of diffusers do; a base shared with other wrappers does so for all.
        """

        def run_again(module: nn.Module, *args):
            call = _thread.call  # a backward pass runs outside of the call, on a GPU even in another thread
            again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _in_call(call))}
            return checkpoint(module, *args, **again)

        self.model.enable_gradient_checkpointing(run_again)

    @property
    def config(self):
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _check(self, video: Tensor) -> torch.Size:
        widths = {self.channels, self.channels + self.given_channels}
        if video.ndim != 5 or video.shape[1] not in widths:
            channels = " or ".join(map(str, sorted(widths)))
            expected = f"clips x {channels} channels x frames x height x width"
            raise ValueError(f"A video is {expected}; received {' x '.join(map(str, video.shape))}.")
        frames, factor = video.shape[2], self.downsample_factor
        if frames % factor or frames == 0:
            below = max(frames // factor, 1) * factor
            nearest = f"{below} and {below + factor}"
            raise ValueError(f"Frames must be a multiple of {factor}, as {nearest} are; received {frames}.")
        return video.shape

    def _conditioning(self, kwargs: dict, b: int, t: int) -> tuple[dict, int]:
        """Brings all conditioning to one number of rows, b (per clip) or b t (per frame); returns it too."""
        time = kwargs.get(self.unet_time_kwarg)
        if isinstance(time, Tensor) and time.numel() == 1:
            kwargs[self.unet_time_kwarg] = time.reshape(1).expand(b)
        rows = b if self.per_clip else b * t
        for name, value in kwargs.items():
            for x in tree_leaves(value):
                if isinstance(x, Tensor) and x.ndim > 0:
                    if x.shape[0] not in (b, b * t):
                        wanted = f"{b} rows (one per clip) or {b * t} (one per frame)"
                        raise ValueError(f"`{name}` must have {wanted}; received {x.shape[0]}.")
                    rows = max(rows, x.shape[0])
        kwargs = tree_map_only(Tensor, partial(_to_rows, batch_size=b, rows=rows), kwargs)
        if isinstance(time, Tensor):
            # Every base wants as many timesteps as images; one that embeds them per clip drops the rest.
            kwargs[self.unet_time_kwarg] = _to_rows(kwargs[self.unet_time_kwarg], b, b * t)
        return kwargs, rows

    def _given_columns(self) -> nn.Conv2d:
        conv = self.model.get_submodule(self.input_module_name)
        shape = (conv.kernel_size, conv.stride, conv.padding)
        columns = nn.Conv2d(self.given_channels, conv.out_channels, *shape, bias=False)
        nn.init.zeros_(columns.weight)
        return columns

    def _attach(self) -> None:
        """Hooks onto the base. They hold no reference to the wrapper, and go when it goes."""
        self._token = object()
        self._input_names = list(inspect.signature(self.model.forward).parameters)
        handles = []
        for kind in KINDS:
            for index, name in enumerate(getattr(self.places, kind)):
                hook = partial(_insert, token=self._token, kind=kind, index=index)
                handles.append(self.model.get_submodule(name).register_forward_hook(hook))
        if self.given_channels:
            entrance = self.model.get_submodule(self.input_module_name)
            handles.append(entrance.register_forward_hook(partial(_show_given, token=self._token)))
        for name in self.places.conditioned:
            hook = partial(_match, token=self._token)
            handles.append(self.model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True))
        if self.per_clip:
            hook = partial(_timesteps_per_clip, token=self._token)
            handles.append(self.model.time_proj.register_forward_pre_hook(hook))
        weakref.finalize(self, lambda: [handle.remove() for handle in handles])

    def _apply(self, fn, recurse=True):
        self.model._apply(fn, recurse)  # what to(), half(), cuda() ... come down to
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict) -> "Lumiere":
        """Motion weights of its own on the same base, for instance for a moving average."""
        twin = type(self).__new__(type(self))
        memo |= {id(self): twin, id(self.model): self.model}
        twin.__dict__ |= copy.deepcopy(self.__dict__, memo)
        twin._attach()
        return twin


class _Call(NamedTuple):
    lumiere: Lumiere
    token: object
    batch_size: int
    rows: int  # of conditioning: one per clip or one per frame
    given: Tensor | None  # given channels, (b t) c h w


class _Thread(threading.local):
    """The call that this thread is in.

    State of a call cannot live on the base, which other wrappers and threads use at the same time, nor on the
    wrapper. Hooks act only inside a call of the wrapper they belong to, in the thread of that call. How many
    frames there are at a level is no state: it is the rows of the features over the clips. (torch.compile
    follows a thread-local, but not a context variable.)
    """

    call: _Call | None = None


_thread = _Thread()


@contextmanager
def _in_call(call: _Call | None) -> Iterator[None]:
    before, _thread.call = _thread.call, call
    try:
        yield
    finally:
        _thread.call = before


def _current(token: object) -> _Call | None:
    call = _thread.call
    return call if call is not None and call.token is token else None


def _insert(module: nn.Module, args: tuple, output, *, token: object, kind: str, index: int):
    if call := _current(token):
        layer = getattr(call.lumiere, kind)[index]
        return _change_first(output, lambda x: layer(x, batch_size=call.batch_size))


def _show_given(module: nn.Module, args: tuple, output: Tensor, *, token: object):
    if (call := _current(token)) and call.given is not None:
        return output + call.lumiere.conv_in(call.given)


def _match(module: nn.Module, args: tuple, kwargs: dict, *, token: object):
    if (call := _current(token)) and args:
        features, *conditioning = args
        fit = partial(_to_rows, batch_size=call.batch_size, rows=features.shape[0])
        conditioning, kwargs = tree_map_only(Tensor, fit, (conditioning, kwargs))
        return (features, *conditioning), kwargs


def _timesteps_per_clip(module: nn.Module, args: tuple, *, token: object):
    if call := _current(token):
        return (_to_rows(args[0], call.batch_size, call.rows),)


def _to_rows(x: Tensor, batch_size: int, rows: int) -> Tensor:
    """Repeats the row of a clip for its frames, or keeps every k-th frame, as nearest resampling does."""
    have = x.shape[0] if x.ndim else rows
    if have == rows or have % batch_size:
        return x
    return x.repeat_interleave(rows // have, dim=0) if have < rows else x[:: have // rows]


def _change_first(output, change):
    """Applies `change` to the tensor, the first of a tuple, or the `sample` of an output of diffusers."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return type(output)(sample=change(output.sample))
