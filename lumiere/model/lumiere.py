"""A frozen text-to-image UNet with temporal layers between its blocks (Lumiere, arXiv 2401.12945, 3.1)."""

import copy
import inspect
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

from lumiere.model.hooks import Call, attach, change_first, in_call, this_call
from lumiere.model.layers import (
    AttentionInflationBlock,
    ConvolutionInflationBlock,
    EmbeddingAdapter,
    TemporalDownsample,
    TemporalUpsample,
)
from lumiere.model.placement import (
    KINDS,
    Places,
    check_rows,
    find_places,
    fit_residuals,
    to_rows,
    unet_places,
)


class Lumiere(nn.Module):
    """A text-to-image UNet that denoises whole clips.

    The base is frozen and shared: it stays usable on its own, keeps its state dict, and may carry several
    wrappers. What `parameters()`, `state_dict()` and `train()` see are the motion weights: `convs`, `attns`,
    `downsamples` and `upsamples`. `to()` moves the base as well.

    Layers follow the modules named, whatever the order of the names; one image of `channels` x `image_size` x
    `image_size`, the size of all clips then, is sent through the base to find widths and order.
    `unet_time_kwarg` is the base's name for the timestep; what else it cannot do without is in
    `dry_run_kwargs`, with one row. Arguments and keys of the state dict are those of lumiere-pytorch:
    checkpoints of its wrapper fit once the base's weights, under `model.`, are left out. `from_unet` needs
    none of this: it takes clips of any size, knows the `places`, and that its base can embed conditioning
    once `per_clip` instead of once per frame. Raises ValueError for what does not fit the base.

    With `given_channels` the model also sees given pixels and their mask (see conditioning.py), as further
    channels of the video: the convolution `input_module_name` grows by columns that start at zero and are
    motion weights. A video without them is one of which nothing is given.

    With `embedding_width`, on a UNet of diffusers, each residual layer of the base sees the embedding of
    timestep and text through an `EmbeddingAdapter` of this many hidden channels, which are motion weights.

    `noise_correlation` is a fact for those who draw noise (see sampling/schedulers.py), not used here: how
    much the noise of one frame has in common with that of another, in training as in sampling.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: int | None,
        unet_time_kwarg: str,
        conv_module_names: Sequence[str],
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
        dry_run_kwargs: dict | None = None,
        embedding_width: int = 0,
        noise_correlation: float = 0.0,
    ):
        super().__init__()
        if not 0 <= noise_correlation < 1:
            raise ValueError(f"`noise_correlation` is 0 up to below 1; received {noise_correlation:g}.")
        self.noise_correlation = noise_correlation
        self.__dict__["model"] = model.eval().requires_grad_(False)  # not a submodule: shared, not owned
        kwargs = (conv_inflation_kwargs, attn_inflation_kwargs, downsample_kwargs, upsample_kwargs)
        self.kwargs = {kind: given or {} for kind, given in zip(KINDS, kwargs, strict=True)}
        known = places is not None
        if not known:
            names = (conv_module_names, attn_module_names, downsample_module_names, upsample_module_names)
            names = dict(zip(KINDS, names, strict=True))
            last = {kind: given.get("channel_last", False) for kind, given in self.kwargs.items()}
            like = {"device": self.device, "dtype": self.dtype}
            image = torch.zeros(1, channels, image_size, image_size, **like)
            inputs = {unet_time_kwarg: torch.ones(1, **like)} | (dry_run_kwargs or {})
            places = find_places(model, names, last, image, inputs)
            if not any(names.values()):
                raise ValueError("No module is named for a layer to follow: there is nothing to train.")
        ups, downs = len(places.upsamples), len(places.downsamples)
        if ups != downs:
            raise ValueError(f"Up- and downsamplers in time are equally many; received {ups} and {downs}.")
        self.places, self.unet_time_kwarg = places, unet_time_kwarg
        self.channels, self.image_size, self.per_clip = channels, image_size, per_clip
        self.downsample_factor = 2**downs
        classes = (conv_klass, attn_klass, downsample_klass, upsample_klass)
        with torch.device(self.device):
            for kind, klass in zip(KINDS, classes, strict=True):
                widths = getattr(places, kind).values()
                layers = nn.ModuleList(klass(dim=width, **self.kwargs[kind]) for width in widths)
                setattr(self, kind, layers.to(self.dtype))
            self.given_channels, self.input_module_name = given_channels, input_module_name
            self.conv_in = self._given_columns().to(self.dtype) if given_channels else None
            self.embedding_width = embedding_width
            widths = places.embeddings.values() if embedding_width else ()
            adapters = (EmbeddingAdapter(width, embedding_width) for width in widths)
            self.embeddings = nn.ModuleList(adapters).to(self.dtype)
        self.conditioned = any(getattr(layer, "embedding_dim", 0) for layer in (*self.convs, *self.attns))
        if self.conditioned and not hasattr(model, "get_time_embed"):
            raise ValueError(f"`embedding_dim` takes a UNet of diffusers; received a {type(model).__name__}.")
        self._attach()
        if not known:
            self._try(image, inputs)

    @classmethod
    def from_unet(
        cls,
        unet: nn.Module,
        factor: int = 4,
        *,
        places: Places | None = None,
        at_input: bool = False,
        conditioned: bool = False,
        **kwargs,
    ) -> "Lumiere":
        """Inflates a `UNet2DConditionModel` of diffusers; its coarsest level has `factor` times fewer frames.

        `factor` is a power of two, at most 2 ** (number of spatial downsamplers). `kwargs` are those of the
        constructor; attention has one head per 64 channels unless `attn_inflation_kwargs` says otherwise.
        With `at_input` a convolution over time follows the first layer of the base, too. With `places` given,
        these tell where layers go and how time is resampled, and `factor` and `at_input` are not used.
        With `conditioned`, convolutions and attentions are told timestep and text.
        """
        places = places or unet_places(unet, factor, at_input)
        if kwargs.get("attn_klass", AttentionInflationBlock) is AttentionInflationBlock:
            width = next(iter(places.attns.values()))
            heads = {"heads": max(1, width // 64), "dim_head": width // max(1, width // 64)}
            kwargs["attn_inflation_kwargs"] = heads | (kwargs.get("attn_inflation_kwargs") or {})
        if conditioned:
            text = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
            width = {"embedding_dim": unet.time_embedding.linear_2.out_features + text}
            for name in ("conv_inflation_kwargs", "attn_inflation_kwargs"):
                kwargs[name] = width | (kwargs.get(name) or {})
        kwargs |= {"unet_time_kwarg": "timestep", "channels": unet.config.in_channels}
        return cls(unet, image_size=None, conv_module_names=(), places=places, per_clip=True, **kwargs)

    def forward(self, video: Tensor, *args, **kwargs):
        """`b c t h w -> b c t h w`; further arguments are those of the base. Given channels come after c.

        The timestep is a number or one per clip; other conditioning (text `b n d`) has one row per clip, or
        one per frame in the order `(b t)`. The result is what the base returns: a tensor, a tuple, an object
        with `.sample`. Raises ValueError when the frames cannot be divided by `downsample_factor` or rows do
        not fit.

        Residuals of a ControlNet, or features of a T2I-Adapter, have one row per clip or one per frame, too:
        where there are fewer frames than in the clip, every k-th of them is added.
        """
        b, _, t, _, _ = self._check(video)
        if len(args) >= len(self._input_names):
            most = len(self._input_names) - 1
            raise ValueError(f"The base takes {most} arguments after the video; received {len(args)}.")
        kwargs |= zip(self._input_names[1:], args, strict=False)
        kwargs, rows = self._conditioning(kwargs, b, t)
        images = video.transpose(1, 2).flatten(0, 1)  # b c t h w -> (b t) c h w
        given = images[:, self.channels :] if images.shape[1] > self.channels else None
        call = Call(self, self._token, b, rows, given)
        if self.conditioned:
            with in_call(call):
                call = call._replace(embedding=self._embedding(images, kwargs, b))
        with in_call(call):
            output = self.model(images[:, : self.channels].contiguous(), **kwargs)
        return change_first(output, lambda x: x.unflatten(0, (b, t)).transpose(1, 2).contiguous())

    def add_given_channels(self, count: int) -> None:
        """Widens the input for given pixels, as `given_channels` does, at first without effect."""
        if self.given_channels:
            raise ValueError(f"There are {self.given_channels} given channels already.")
        self.given_channels = count
        self.conv_in = self._given_columns().to(self.device, self.dtype)
        self._detach()
        self._attach()

    def enable_gradient_checkpointing(self) -> None:
        """Trades time for memory in training: the base's blocks run again, layers included, going backward.

        For bases that offer it, as those of diffusers do; a base shared with other wrappers does so for all.
        """

        def run_again(module: nn.Module, *args):
            call = this_call()  # a backward pass runs outside of it, on a GPU even in another thread
            again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), in_call(call))}
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
        if self.image_size and video.shape[3:] != (self.image_size, self.image_size):
            received = f"{video.shape[3]} x {video.shape[4]}"
            raise ValueError(f"Frames are {self.image_size} x {self.image_size} here; received {received}.")
        return video.shape

    def _try(self, image: Tensor, inputs: dict) -> None:
        """Sends the shortest clip through, which fails where frames of different levels of time meet."""
        clip = image.unsqueeze(2).expand(-1, -1, self.downsample_factor, -1, -1)
        try:
            with torch.no_grad():
                self(clip, **inputs)
        except (RuntimeError, ValueError) as error:
            frames = f"a clip of {clip.shape[2]} frames does not pass"
            raise ValueError(f"The layers do not fit together at these places; {frames}: {error}") from error

    def _conditioning(self, kwargs: dict, b: int, t: int) -> tuple[dict, int]:
        """Brings all conditioning to one number of rows, b (per clip) or b t (per frame); returns it too."""
        residuals = fit_residuals(self.places, kwargs, b, t)
        kwargs = {name: value for name, value in kwargs.items() if name not in residuals}
        time = kwargs.get(self.unet_time_kwarg)
        if isinstance(time, Tensor) and time.numel() == 1:
            kwargs[self.unet_time_kwarg] = time.reshape(1).expand(b)
        rows = b if self.per_clip else b * t
        for name, value in kwargs.items():
            tensors = [x for x in tree_leaves(value) if isinstance(x, Tensor)]
            check_rows(name, tensors, b, t)
            rows = max([rows, *(x.shape[0] for x in tensors if x.ndim > 0)])
        kwargs = tree_map_only(Tensor, partial(to_rows, batch_size=b, rows=rows), kwargs)
        if isinstance(time, Tensor):
            # Every base wants as many timesteps as images; one that embeds them per clip drops the rest.
            kwargs[self.unet_time_kwarg] = to_rows(kwargs[self.unet_time_kwarg], b, b * t)
        return kwargs | residuals, rows

    def _embedding(self, images: Tensor, kwargs: dict, b: int) -> Tensor:
        """What layers are told of each clip, (b d): the embedding of timestep, the mean of text.

        Not what the base makes of the text for its own blocks: for a still it matters little whether a thing
        goes left or right. Each has the length 2, at which Muon moves a modulation about as fast as features.
        """
        unet, text = self.model, kwargs["encoder_hidden_states"]
        time = unet.time_embedding(unet.get_time_embed(images, kwargs[self.unet_time_kwarg]))
        told = torch.cat([2 * F.normalize(x.float(), dim=-1) for x in (time, text.mean(1))], dim=-1)
        return told.to(time.dtype).unflatten(0, (b, -1)).mean(1)  # one row per clip, or one per frame

    def _given_columns(self) -> nn.Conv2d:
        conv = self.model.get_submodule(self.input_module_name)
        shape = (conv.kernel_size, conv.stride, conv.padding)
        columns = nn.Conv2d(self.given_channels, conv.out_channels, *shape, bias=False)
        nn.init.zeros_(columns.weight)
        return columns

    def _attach(self) -> None:
        self._token = object()
        inputs = inspect.signature(self.model.forward).parameters.values()
        self._input_names = [x.name for x in inputs if x.kind is x.POSITIONAL_OR_KEYWORD]
        handles = attach(self, self._token)
        self._detach = weakref.finalize(self, lambda: [handle.remove() for handle in handles])

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
