"""Inflates a frozen text-to-image UNet with temporal layers (Lumiere, arXiv 2401.12945, section 3.1)."""

import copy
import inspect
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

from lumiere.model.hooks import Call, Output, attach, change_first, detach, in_call, this_call
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
    unwrapped,
)

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.configuration_utils import FrozenDict


class Lumiere(nn.Module):
    """Wraps a frozen text-to-image UNet so that it denoises whole clips (Lumiere, section 3.1).

    The base stays usable on its own, keeps its state dict, and may be shared by several wrappers.
    `parameters()`, `state_dict()` and `train()` cover only the motion weights: `convs`, `attns`,
    `downsamples`, `upsamples`, and the optional input columns and embedding adapters. `to()` also moves the
    base.

    The constructor accepts any UNet. It passes one image, `1 channels image_size image_size`, through the
    base to find the widths and the order of the named modules. Its arguments and state dict keys match
    lumiere-pytorch, whose checkpoints load without the base's weights (prefix `model.`). Use `from_unet` for
    diffusers UNets: it needs no module names, and accepts clips of any size.

    Args:
        model: the base UNet.
        image_size: height and width of every clip and of the image for the dry run. None allows any size.
        unet_time_kwarg: name of the timestep argument of the base.
        conv_module_names: modules followed by a convolution block, in any order.
        attn_module_names: modules followed by an attention block.
        downsample_module_names: modules followed by a temporal downsampler.
        upsample_module_names: modules followed by a temporal upsampler, as many as downsamplers.
        channels: input channels of the base.
        conv_inflation_kwargs: arguments of `conv_klass`.
        attn_inflation_kwargs: arguments of `attn_klass`.
        downsample_kwargs: arguments of `downsample_klass`.
        upsample_kwargs: arguments of `upsample_klass`.
        conv_klass: class of the convolution blocks.
        attn_klass: class of the attention blocks.
        downsample_klass: class of the temporal downsamplers.
        upsample_klass: class of the temporal upsamplers.
        places: locations of the layers. Defaults to the modules named above, found in a dry run.
        per_clip: whether the base embeds conditioning once per clip instead of once per frame.
        cond_channels: number of channels of the video that hold conditioning pixels and their mask (see
            conditioning.py). They add input columns to a convolution of the base, which start at zero and are
            motion weights. A video without these channels is unconditioned.
        input_module_name: the convolution extended for `cond_channels`.
        dry_run_kwargs: other required arguments of the base, with one row.
        embedding_width: hidden channels of the `EmbeddingAdapter` between the embedding of timestep and text
            and each residual layer of a diffusers UNet. The adapters are motion weights. Defaults to 0, no
            adapters.
        noise_correlation: correlation of the noise between frames in training and sampling, from 0 to below
            1. The model stores it for the scheduler (see sampling/schedulers.py).

    Raises:
        ValueError: an argument does not fit the base.
    """

    model: nn.Module
    convs: nn.ModuleList
    attns: nn.ModuleList
    downsamples: nn.ModuleList
    upsamples: nn.ModuleList

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
        conv_inflation_kwargs: dict[str, Any] | None = None,
        attn_inflation_kwargs: dict[str, Any] | None = None,
        downsample_kwargs: dict[str, Any] | None = None,
        upsample_kwargs: dict[str, Any] | None = None,
        conv_klass: type[nn.Module] = ConvolutionInflationBlock,
        attn_klass: type[nn.Module] = AttentionInflationBlock,
        downsample_klass: type[nn.Module] = TemporalDownsample,
        upsample_klass: type[nn.Module] = TemporalUpsample,
        places: Places | None = None,
        per_clip: bool = False,
        cond_channels: int = 0,
        input_module_name: str = "conv_in",
        dry_run_kwargs: dict[str, Any] | None = None,
        embedding_width: int = 0,
        noise_correlation: float = 0.0,
    ):
        super().__init__()
        if not 0 <= noise_correlation < 1:
            raise ValueError(f"`noise_correlation` is 0 up to below 1; received {noise_correlation:g}.")
        self.noise_correlation = noise_correlation
        self.__dict__["model"] = model.eval().requires_grad_(False)  # not a submodule: the base is shared
        kwargs = (conv_inflation_kwargs, attn_inflation_kwargs, downsample_kwargs, upsample_kwargs)
        self.kwargs = {kind: given or {} for kind, given in zip(KINDS, kwargs, strict=True)}
        dry_run = None
        if places is None:
            if image_size is None:
                raise ValueError("`image_size` must be in pixels to find named modules; received None.")
            named = (conv_module_names, attn_module_names, downsample_module_names, upsample_module_names)
            names = dict(zip(KINDS, named, strict=True))
            last = {kind: given.get("channel_last", False) for kind, given in self.kwargs.items()}
            image = torch.zeros(1, channels, image_size, image_size, device=self.device, dtype=self.dtype)
            time = torch.ones(1, device=self.device, dtype=self.dtype)
            dry_run = image, {unet_time_kwarg: time} | (dry_run_kwargs or {})
            places = find_places(model, names, last, *dry_run)
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
            self.cond_channels, self.input_module_name = cond_channels, input_module_name
            self.conv_in = self._cond_columns().to(self.dtype) if cond_channels else None
            self.embedding_width = embedding_width
            adapted = places.embeddings.values() if embedding_width else ()
            adapters = (EmbeddingAdapter(width, embedding_width) for width in adapted)
            self.embeddings = nn.ModuleList(adapters).to(self.dtype)
        self.conditioned = any(getattr(layer, "embedding_dim", 0) for layer in (*self.convs, *self.attns))
        if self.conditioned and not hasattr(model, "get_time_embed"):
            raise ValueError(f"`embedding_dim` takes a UNet of diffusers; received a {type(model).__name__}.")
        self._attach()
        if dry_run is not None:
            self._try(*dry_run)

    @classmethod
    def from_unet(
        cls,
        unet: "UNet2DConditionModel",
        factor: int = 4,
        *,
        places: Places | None = None,
        at_input: bool = False,
        conditioned: bool = False,
        **kwargs: Any,
    ) -> "Lumiere":
        """Inflates a `UNet2DConditionModel` of diffusers.

        Args:
            unet: the base UNet.
            factor: temporal downsampling factor of the coarsest level, a power of two up to 2 ** (number of
                spatial downsamplers).
            places: locations of the layers and of temporal resampling. Replaces `factor` and `at_input`.
            at_input: whether a convolution block follows the first layer of the base.
            conditioned: whether convolution and attention blocks receive timestep and text.
            kwargs: arguments of the constructor. Attention has one head per 64 channels by default.

        Returns:
            The inflated UNet.

        Raises:
            ValueError: an argument does not fit the UNet.
        """
        places = places or unet_places(unet, factor, at_input)
        if kwargs.get("attn_klass", AttentionInflationBlock) is AttentionInflationBlock:
            width = next(iter(places.attns.values()))
            heads = {"heads": max(1, width // 64), "dim_head": width // max(1, width // 64)}
            kwargs["attn_inflation_kwargs"] = heads | (kwargs.get("attn_inflation_kwargs") or {})
        if conditioned:
            text = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
            embedding = {"embedding_dim": unet.time_embedding.linear_2.out_features + text}
            for name in ("conv_inflation_kwargs", "attn_inflation_kwargs"):
                kwargs[name] = embedding | (kwargs.get(name) or {})
        kwargs |= {"unet_time_kwarg": "timestep", "channels": unet.config.in_channels}
        return cls(unet, image_size=None, conv_module_names=(), places=places, per_clip=True, **kwargs)

    def forward(self, video: Tensor, *args: Any, **kwargs: Any) -> Output:
        """Denoises clips; other arguments are passed to the base.

        Residuals of a ControlNet and features of a T2I-Adapter have one row per clip or one per frame. Levels
        with fewer frames than the clip receive every k-th row.

        Args:
            video: noisy clips `b c t h w`. Conditioning channels follow the channels of the base.
            args: positional arguments of the base after the sample.
            kwargs: keyword arguments of the base. The timestep is a number or one per clip. Other
                conditioning (text `b n d`) has one row per clip, or one per frame in the order `(b t)`.

        Returns:
            The output type of the base: a tensor `b c t h w`, a tuple, or an object with `.sample`.

        Raises:
            ValueError: the number of frames is not a multiple of `downsample_factor`, or rows do not fit.
        """
        b, _, t, _, _ = self._check(video)
        if len(args) >= len(self._input_names):
            most = len(self._input_names) - 1
            raise ValueError(f"The base takes {most} arguments after the video; received {len(args)}.")
        kwargs |= zip(self._input_names[1:], args, strict=False)
        kwargs, rows = self._conditioning(kwargs, b, t)
        images = video.transpose(1, 2).flatten(0, 1)  # b c t h w -> (b t) c h w
        cond = images[:, self.channels :] if images.shape[1] > self.channels else None
        if not torch.compiler.is_compiling():
            self._follow_modules()
        call = Call(self, self._token, b, rows, cond)
        if self.conditioned:
            with in_call(call):
                call = call._replace(embedding=self._embedding(images, kwargs, b))
        with in_call(call):
            output = self.model(images[:, : self.channels].contiguous(), **kwargs)
        return change_first(output, lambda x: x.unflatten(0, (b, t)).transpose(1, 2).contiguous())

    def add_cond_channels(self, count: int) -> None:
        """Adds conditioning channels to the input (see `cond_channels`), initially without effect.

        Args:
            count: number of channels.

        Raises:
            ValueError: the model already has conditioning channels.
        """
        if self.cond_channels:
            raise ValueError(f"There are {self.cond_channels} conditioning channels already.")
        self.cond_channels = count
        self.conv_in = self._cond_columns().to(self.device, self.dtype)
        self._detach()
        self._attach()

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike[str], unet: "UNet2DConditionModel", revision: str | None = None
    ) -> "Lumiere":
        """Inflates a UNet of diffusers with saved motion weights, see `motion_hub.from_pretrained`."""
        from lumiere.model import motion_hub  # imported late: it imports this module

        return motion_hub.from_pretrained(unet, source, revision)

    def save_pretrained(
        self, folder: str | PathLike[str], base: str = "BASE", facts: dict[str, Any] | None = None
    ) -> None:
        """Saves the motion weights with a model card, see `motion_hub.save_pretrained`."""
        from lumiere.model import motion_hub

        motion_hub.save_pretrained(self, folder, base, facts)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the motion weights with a model card, see `motion_hub.push_to_hub`."""
        from lumiere.model import motion_hub

        return motion_hub.push_to_hub(self, repo_id, **options)

    def enable_gradient_checkpointing(self) -> None:
        """Recomputes the blocks of the base, with their temporal layers, in the backward pass to save memory.

        The base must support gradient checkpointing, as diffusers UNets do. All wrappers of a shared base are
        affected.
        """

        def run_again(module: nn.Module, *args: Any) -> Output:
            call = this_call()  # backward runs outside the call, on a GPU even in another thread
            return checkpoint(
                module, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), in_call(call))
            )

        self._unet.enable_gradient_checkpointing(run_again)

    @property
    def config(self) -> "FrozenDict":
        """Config of the base."""
        return self._unet.config

    @property
    def positions(self) -> int | None:
        """Number of positional embeddings of an AnimateDiff adapter, None for clips of any length."""
        return self.kwargs["attns"].get("positions")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the base computes. Layerwise casting of diffusers stores weights in another one."""
        dtype = getattr(self.model, "dtype", None)
        return dtype if isinstance(dtype, torch.dtype) else next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the base."""
        return next(self.model.parameters()).device

    @property
    def _unet(self) -> "UNet2DConditionModel":
        """The base, where only UNets of diffusers have the attribute."""
        return cast("UNet2DConditionModel", self.model)

    def _check(self, video: Tensor) -> torch.Size:
        widths = {self.channels, self.channels + self.cond_channels}
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

    def _try(self, image: Tensor, inputs: dict[str, Any]) -> None:
        """Runs the shortest clip, which fails if features with different frame counts meet."""
        clip = image.unsqueeze(2).expand(-1, -1, self.downsample_factor, -1, -1)
        try:
            with torch.no_grad():
                self(clip, **inputs)
        except (RuntimeError, ValueError) as error:
            frames = f"a clip of {clip.shape[2]} frames does not pass"
            raise ValueError(f"The layers do not fit together at these places; {frames}: {error}") from error

    def _conditioning(self, kwargs: dict[str, Any], b: int, t: int) -> tuple[dict[str, Any], int]:
        """Expands all conditioning to the same number of rows, b or b t; also returns that number."""
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
            # Bases require one timestep per image; with `per_clip`, a hook drops the repeated ones.
            kwargs[self.unet_time_kwarg] = to_rows(kwargs[self.unet_time_kwarg], b, b * t)
        return kwargs | residuals, rows

    def _embedding(self, images: Tensor, kwargs: dict[str, Any], b: int) -> Tensor:
        """Returns one embedding `b d` per clip: the timestep embedding and the mean text state.

        The base's own text embedding is not used: for a still image, the direction of motion matters little.
        Both vectors are scaled to length 2, at which Muon updates the modulation about as fast as the
        features.
        """
        unet, text = self._unet, kwargs["encoder_hidden_states"]
        time = unet.time_embedding(unet.get_time_embed(images, kwargs[self.unet_time_kwarg]))
        embedding = torch.cat([2 * F.normalize(x.float(), dim=-1) for x in (time, text.mean(1))], dim=-1)
        return embedding.to(time.dtype).unflatten(0, (b, -1)).mean(1)  # one row per clip, or one per frame

    def _cond_columns(self) -> nn.Conv2d:
        conv: Any = unwrapped(self.model.get_submodule(self.input_module_name))  # Any: of any base
        shape = (conv.kernel_size, conv.stride, conv.padding)
        columns = nn.Conv2d(self.cond_channels, conv.out_channels, *shape, bias=False)
        nn.init.zeros_(columns.weight)
        return columns

    def _attach(self) -> None:
        self._token = object()
        inputs = inspect.signature(self.model.forward).parameters.values()
        self._input_names = [x.name for x in inputs if x.kind is x.POSITIONAL_OR_KEYWORD]
        self._hooked, handles = attach(self, self._token)
        self._detach = weakref.finalize(self, detach, handles)

    def _follow_modules(self) -> None:
        """Attaches the layers again if peft has wrapped or unwrapped modules that they follow."""
        if any(self.model.get_submodule(name) is not module() for name, module in self._hooked.items()):
            self._detach()
            self._attach()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Lumiere":
        self.model._apply(fn, recurse)  # to(), half() and cuda() all call _apply
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict) -> "Lumiere":
        """Copies the motion weights and shares the base, for example for an exponential moving average."""
        twin = type(self).__new__(type(self))
        memo |= {id(self): twin, id(self.model): self.model}
        twin.__dict__ |= copy.deepcopy(self.__dict__, memo)
        twin._attach()
        return twin
