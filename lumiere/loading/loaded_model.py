"""A loaded model: base pipeline, temporal layers, text encoder and preview, and where they are."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from lumiere.errors import GenerationError
from lumiere.loading import assembly, components
from lumiere.loading.assembly import Adapter, find_preview, own_config, replaced
from lumiere.loading.components import BasePipeline, best_dtype, find_device
from lumiere.loading.layout import model_limits
from lumiere.loading.lora import Styler
from lumiere.loading.registry import Model, entry, narrowed, own
from lumiere.loading.styles import Style
from lumiere.loading.text_encoder import FirstFramePrompt, TextEncoder
from lumiere.model.animatediff import schedule_for
from lumiere.model.conditioning import Cond, Given
from lumiere.model.layers import AttentionInflationBlock
from lumiere.model.lumiere import Lumiere
from lumiere.model.text import Text
from lumiere.prompts import keyframes, spacing
from lumiere.request import ADAPTER_OPTIONS, Request, required
from lumiere.sampling import memory
from lumiere.sampling.latent_preview import LatentPreview, synthetic_pictures
from lumiere.sampling.settings import STORAGE, Sampling, Speed
from lumiere.sampling.vae import encode, pixels_of

if TYPE_CHECKING:
    from typing_extensions import Self

TRAINED = 16  # frames of the clips that most motion weights were trained on


class LoadedModel:
    """A base pipeline of diffusers, and its UNet inflated with temporal layers, on a device.

    Components, LoRAs and schedulers belong to `base` and may be changed there, except for the UNet.

    Args:
        base: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`.
        lumiere: `base.unet` with temporal layers.
        model: defaults of requests, sampling settings and scheduler entries. Its `style` is not applied.
        folder: model folder with a preview autoencoder, prompts of first frames and weights for `restyle`.
        device: device of the runs. Defaults to the device of `base`.
        autocast: whether the UNet multiplies in bfloat16 and keeps the dtype of its weights.

    Raises:
        ValueError: `lumiere` does not wrap `base.unet`, or the operator's limits are too low.
    """

    def __init__(
        self,
        base: BasePipeline,
        lumiere: Lumiere,
        model: Model | None = None,
        *,
        folder: Path | None = None,
        device: torch.device | None = None,
        autocast: bool = False,
    ):
        self.base, self.lumiere, self.autocast = base, lumiere.eval(), autocast
        self.model = model or Model(str(folder or "custom"))
        self.sampling, self.device = self.model.sampling, device or base.vae.device
        self.text_encoder, self.styler = TextEncoder(base), Styler(base, folder)
        self.adapter = Adapter(lumiere)
        self.first_frame_prompt = FirstFramePrompt.load(folder) if folder else FirstFramePrompt({})
        self._cast = False  # see `enable_layerwise_casting`
        self._check_unet()
        limits = model_limits(base.unet.config, base.vae.config, lumiere.downsample_factor)
        self.limits = narrowed(replace(limits, adapter=self.adapter.exists), self.model)
        preview, notes = find_preview(
            self.model.preview, folder, base.vae.config.latent_channels, lumiere.dtype
        )
        self.preview = (preview or LatentPreview.fit(base.vae, synthetic_pictures())).to(self.device)
        self.notes = replaced(own_config(base.scheduler), self._schedule_overrides) + notes

    @classmethod
    def from_pretrained(
        cls,
        source: "str | Path | Model",
        motion: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        fresh: bool = False,
        vae: str | Path | None = None,
    ) -> "Self":
        """Loads a Stable Diffusion model (1.x, 2.x, XL) in diffusers' layout, from safetensors only.

        Args:
            source: name in the registry, folder, hub id, or `Model`, which also determines the motion weights
                and the revision.
            motion: folder, file or hub id of motion weights, Lumiere's or a public adapter. Defaults to
                `<source>/motion`.
            device: cuda, mps or cpu. Defaults to the first available.
            dtype: dtype of the weights. Defaults to bfloat16 or float16, and on the CPU to float32. CPUs with
                bfloat16 support then multiply in bfloat16.
            revision: revision of the hub id.
            fresh: use untrained temporal layers, whose frames are almost independent.
            vae: folder, file or hub id of a VAE in the place of the base's own, see `components.load_vae`.

        Returns:
            The pipeline.

        Raises:
            OSError: files are missing or unreadable.
            ValueError: the components or arguments do not fit.
        """
        model = source if isinstance(source, Model) else entry(str(source), str(motion) if motion else None)
        model = replace(model, revision=revision or model.revision, vae=str(vae) if vae else model.vae)
        device = find_device(device)
        autocast = dtype is None and device.type == "cpu" and components.multiplies_in_bf16()
        base, lumiere, folder = assembly.load(model, dtype or best_dtype(device), fresh)
        rest = torch.device("cpu") if model.offload or model.speed.group_offload else device
        pipeline = cls(base, lumiere, model, folder=folder, device=rest, autocast=autocast).to(rest)
        pipeline.styler.own = assembly.domain_adapter(model)
        pipeline.restyle(model.style)
        pipeline.adapter.apply(model.cameras, model.sampling, frames=pipeline.limits.max_frames)
        pipeline._speed_up(model.speed)
        if model.offload:
            pipeline.enable_model_cpu_offload(device)
        elif model.speed.group_offload:
            pipeline.enable_group_offload(device)
        return pipeline

    def _speed_up(self, speed: Speed) -> None:
        if speed.channels_last:
            self.enable_channels_last()
        if speed.storage:
            self.enable_layerwise_casting(getattr(torch, STORAGE[speed.storage]))
        if speed.compile:
            self.enable_compile()

    @property
    def vae(self) -> AutoencoderKL:
        """The autoencoder of the base."""
        return self.base.vae

    @property
    def style(self) -> Style:
        """The current style of the base."""
        return self.styler.style

    @property
    def defaults(self) -> dict:
        """Default values for the fields of a request."""
        return own(self.model, self.limits)

    @property
    def scheduler_config(self) -> dict:
        """Scheduler config of the base, with the entries that the motion weights need."""
        return own_config(self.base.scheduler) | self._schedule_overrides

    @property
    def _schedule_overrides(self) -> dict:
        return schedule_for(self.lumiere) | dict(self.model.schedule)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "Self":
        """Moves base, temporal layers and preview to a device.

        Args:
            device: cuda, mps or cpu.
            dtype: dtype of the weights. Defaults to their own.

        Returns:
            The pipeline.
        """
        self.device = find_device(device)
        for module in self._modules:
            nn.Module.to(module, device=self.device, dtype=dtype)
        self.preview.to(device=self.device, dtype=dtype)
        return self

    @property
    def _modules(self) -> list[nn.Module]:
        """Modules in the order of their calls. `lumiere` moves the UNet with its own layers."""
        return [*self._encoders, self.lumiere, self.vae]

    @property
    def _encoders(self) -> list[nn.Module]:
        return [encoder for encoder, _ in components.text_encoders(self.base).values()]

    def enable_compile(self, **options: Any) -> None:
        """Compiles the transformer blocks of the base and of the temporal layers at their first call.

        Regional compilation takes a fraction of the time that the whole UNet would.

        Args:
            options: arguments of `torch.compile`, such as `backend` or `dynamic`.
        """
        self.cost = self.cost  # measured before: fake tensors would be compiled, too
        for model in (self.base.unet, self.lumiere):
            for block in model.modules():
                if isinstance(block, BasicTransformerBlock | AttentionInflationBlock):
                    block.compile(**options)

    def enable_layerwise_casting(self, storage_dtype: torch.dtype = torch.float8_e4m3fn) -> None:
        """Stores weights of UNet and text encoders in another dtype; each layer is cast while it runs.

        Norms, embeddings of tokens and the VAE keep their dtype. Load LoRAs before.

        Args:
            storage_dtype: dtype at rest, for example `torch.float8_e4m3fn`.
        """
        self.cost = self.cost  # measured before there are hooks
        dtype = self.lumiere.dtype
        self.base.unet.enable_layerwise_casting(storage_dtype, dtype)
        kept = ("norm", "pos_embed")
        # Convolutions over time run as matrix products and read their weights without a call of the layer.
        apply_layerwise_casting(self.lumiere, storage_dtype, dtype, kept, (nn.Conv1d, nn.ConvTranspose1d))
        for encoder in self._encoders:
            apply_layerwise_casting(encoder, storage_dtype, dtype, kept, (nn.Embedding,))
        self._cast = True

    def enable_channels_last(self) -> None:
        """Stores the weights of convolutions with the channels last, which is faster on most devices."""
        for model in (self.lumiere, self.vae):  # `lumiere` converts the UNet with its own layers
            nn.Module.to(model, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in stubs

    def enable_model_cpu_offload(self, device: str | torch.device | None = None) -> None:
        """Keeps all modules on the CPU and moves each to a device when it is called.

        Args:
            device: cuda, mps or cpu. Defaults to the first available.
        """
        device, moved = find_device(device), memory.weight_bytes(self.lumiere, self.base.unet)
        self.cost = replace(self.cost, moved=moved)  # hooks would put fake tensors in the place of weights
        self.to("cpu")
        memory.take_turns(self._modules, device)
        self.device = device
        self.preview.to(device)

    def enable_group_offload(
        self, device: str | torch.device | None = None, use_stream: bool = False
    ) -> None:
        """Keeps all weights on the CPU and moves each layer to a device while it runs.

        Layers are the leaves of the modules: blocks would not move the parts of the UNet that temporal layers
        call before it (`time_embedding`).

        Args:
            device: cuda, mps or cpu. Defaults to the first available.
            use_stream: whether the next layer is copied while one runs, on CUDA.
        """
        device = find_device(device)
        self.cost = self.cost  # measured before there are hooks
        self.to("cpu")
        for module in (*self._modules, self.base.unet):
            apply_group_offloading(module, device, offload_type="leaf_level", use_stream=use_stream)
        self.device = device
        self.preview.to(device)

    def restyle(self, style: Style) -> None:
        """Applies another style to the base, in place. No clip may be running.

        Args:
            style: the style.

        Raises:
            OSError: files are missing or unreadable. The weights are unchanged.
            ValueError: the style does not fit the model, or has another LoRA after
                `enable_layerwise_casting`. The weights are unchanged.
        """
        if self._cast and set(dict(style.loras)) - set(dict(self.style.loras)):
            raise ValueError("weights in another storage take no further LoRA: give LoRAs at loading.")
        with self.text_encoder.lock, torch.no_grad():
            self.notes += self.styler.apply(style)

    def adapt(self, request: Request) -> None:
        """Applies the options of an AnimateDiff adapter that a clip has. No other clip may be running.

        Args:
            request: the requested clip, with the model's defaults.

        Raises:
            GenerationError: a MotionLoRA is missing or damaged, or does not fit.
        """
        options = self.cameras_of(request), self.sampling_of(request), required(request.frames)
        try:
            self.adapter.apply(*options)
        except (OSError, ValueError) as error:
            raise GenerationError("the camera moves of this clip cannot be loaded.") from error

    def sampling_of(self, request: Request) -> Sampling:
        """Returns the sampling settings of a clip: the model's, with the options that the request sets."""
        options = {name: getattr(request, name) for name in ADAPTER_OPTIONS}
        return replace(self.sampling, **{name: x for name, x in options.items() if x is not None})

    def cameras_of(self, request: Request) -> tuple[tuple[str, float], ...]:
        """Returns the MotionLoRAs of a clip and their weights; they default to the model's."""
        if request.cameras is None:
            return self.model.cameras
        return tuple((self.model.moves[name], weight) for name, weight in request.cameras)

    def enable_vae_slicing(self) -> None:
        """Decodes one frame at a time, with less memory."""
        self.vae.enable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encodes and decodes large frames in overlapping tiles, with less memory."""
        self.vae.enable_tiling()

    def _check_unet(self) -> None:
        if self.base.unet is not self.lumiere.model:
            raise ValueError(
                "base.unet is not the UNet that the temporal layers are in: build a new LumierePipeline with "
                "Lumiere.from_unet or load_motion of that UNet."
            )
        if hasattr(self.base.unet, "_hf_hook"):
            raise ValueError(
                "base.enable_model_cpu_offload moves the UNet without its temporal layers: call "
                "enable_model_cpu_offload of the LumierePipeline instead."
            )

    @cached_property
    @torch.inference_mode()
    def cost(self) -> memory.Cost:
        """Memory cost of a step and of decoding at the default size, measured at the first use."""
        height, width = self.limits.default_height, self.limits.default_width
        text = self.text_encoder(["a"], height, width, self.base.text_encoder.device)
        size = self._latent_size(Request("-", height=height, width=width))
        return memory.measure(self.lumiere, self.vae, text, 1, size)

    def _latent_size(self, request: Request) -> tuple[int, int]:
        """Returns height and width of a frame in latents."""
        assert request.height and request.width, "filled with the model's defaults"
        pixels = pixels_of(self.vae)
        return request.height // pixels, request.width // pixels

    def _image_unet(self) -> nn.Module:
        """Returns the text-to-image model, moved to the device if components are offloaded."""
        hook = getattr(self.lumiere, "_hf_hook", None)  # accelerate calls it for whole models only
        if hook is not None:
            hook.pre_forward(self.lumiere)
        return self.lumiere.model

    def unknown_words(self, prompt: str) -> list[str]:
        """Returns the words that the text encoder ignores: unknown tokens, or text beyond the maximum length.

        Args:
            prompt: any prompt.
        """
        return self.text_encoder.unknown_words(prompt)

    def close_keys(self, request: Request) -> str | None:
        """Returns a note for the user if keys of a prompt are closer than a temporal window, else None.

        Args:
            request: the requested clip.
        """
        length = self.sampling.window or self.lumiere.positions or TRAINED
        closest = min(filter(None, map(spacing, (request.prompt, request.negative_prompt))), default=length)
        if closest >= length:
            return None
        return (
            f"Keys of the prompt are {closest} frames apart. These motion weights keep about {length} frames "
            "alike, so that closer keys have little effect."
        )

    @torch.inference_mode()
    def encode_prompt(self, request: Request, still: bool = False) -> Text:
        """Encodes the prompt, preceded by the negative prompt with guidance.

        Args:
            request: provides prompts, guidance, size and, for prompts in time, frames.
            still: whether to encode the prompts of the first frame.

        Returns:
            One row, or two with guidance.
        """
        request = request.filled(self.defaults)
        assert request.frames and request.height and request.width
        prompts = [request.prompt] if request.guidance == 1 else [request.negative_prompt, request.prompt]
        timelines = [keyframes(prompt) for prompt in prompts]
        if still:
            timelines = [keys[:1] for keys in timelines]
            timelines[-1] = [(0, self.first_frame_prompt(timelines[-1][0][1]))]
        texts = [text for keys in timelines for _, text in keys]
        size = request.height, request.width
        encoded = self.text_encoder(texts, *size, self.device, clip_skip=request.clip_skip)
        if len(texts) == len(prompts):
            return encoded
        return encoded.in_time([[frame for frame, _ in keys] for keys in timelines], request.frames)

    @torch.inference_mode()
    def encode_given(self, given: Given, whole: bool = False) -> Cond:
        """Encodes conditioning frames to scaled latents.

        Args:
            given: conditioning frames and mask.
            whole: whether to encode all frames, including frames without conditioning pixels.
        """
        return encode(self.vae, given, self.device, whole)
