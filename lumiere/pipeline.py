"""The pipeline from a request to frames: encodes prompts and pixels, plans parts, denoises and decodes.

Requests are validated in request.py, models are loaded in `lumiere.loading`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lumiere.errors import GenerationError
from lumiere.events import Progress, Result
from lumiere.loading.assembly import assemble, cost_of
from lumiere.loading.first_frame import FirstFramePrompt
from lumiere.loading.lora import Styler
from lumiere.loading.registry import Model
from lumiere.loading.styles import Style
from lumiere.loading.text_encoder import TextReader
from lumiere.model.conditioning import Cond, Given, blend, put_back, with_context
from lumiere.model.lumiere import Lumiere
from lumiere.model.text import Text
from lumiere.request import Limits, Request
from lumiere.sampling import memory
from lumiere.sampling.deflicker import steady
from lumiere.sampling.denoiser import BATCH_LATENTS, Denoiser, on_one_frame, rows_at_once
from lumiere.sampling.latent_preview import LatentPreview, Preview, synthetic_pictures
from lumiere.sampling.loop import Step, sample
from lumiere.sampling.schedulers import Schedule
from lumiere.sampling.segments import Part, plan
from lumiere.sampling.settings import Sampling
from lumiere.sampling.temporal_windows import windows_of
from lumiere.sampling.vae import decode, encode, give_back_memory, pixels_of


class LumierePipeline:
    """Text-to-video pipeline: inflated UNet, text encoders, VAE and sampling settings.

    The pipeline keeps no state between runs, and threads may call it concurrently. Callers decide whether a
    device should run several clips at once.

    Args:
        lumiere: the inflated UNet.
        vae: the autoencoder.
        reader: the text encoders.
        scheduler_config: scheduler config of the model.
        limits: limits of requests.
        preview: decoder of previews. Defaults to a linear map fitted to `vae`.
        sampling: sampling settings of the model.
        notes: changes made to fit the components to each other, as messages for the operator.
        device: device of the runs. Defaults to the device of `vae`.
        styler: loader of the components, for `restyle`.
        first_frame_prompt: rewrites the prompt for a first frame drawn by the base.
        autocast: whether the UNet multiplies in bfloat16 and keeps the dtype of its weights.
        cost: memory cost. Defaults to a measurement at the first use.
    """

    def __init__(
        self,
        lumiere: Lumiere,
        vae,
        reader: TextReader,
        scheduler_config: dict,
        limits: Limits,
        preview: Preview | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008, frozen
        notes: tuple[str, ...] = (),
        device: torch.device | None = None,
        styler: Styler | None = None,
        first_frame_prompt: Callable[[str], str] = FirstFramePrompt({}),  # noqa: B008, as above
        autocast: bool = False,
        cost: memory.Cost | None = None,
    ):
        self.lumiere, self.vae, self.reader = lumiere, vae, reader
        self.scheduler_config, self.limits, self.notes = scheduler_config, limits, notes
        weight = next(vae.parameters())
        self.device, self.dtype = device or weight.device, weight.dtype
        self.sampling, self.styler, self._cost = sampling, styler, cost
        self.first_frame_prompt, self.autocast = first_frame_prompt, autocast
        self.preview = (preview or LatentPreview.fit(vae, synthetic_pictures())).to(self.device)

    @classmethod
    def from_pretrained(
        cls,
        source: "str | Path | Model",
        motion: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        fresh: bool = False,
    ) -> "LumierePipeline":
        """Loads a Stable Diffusion model (1.x, 2.x, XL) in diffusers' layout, from safetensors only.

        Args:
            source: folder, hub id, or `Model` of the registry, which also determines the motion weights and
                the revision.
            motion: folder, file or hub id of motion weights, Lumiere's or a public adapter. Defaults to
                `<source>/motion`.
            device: cuda, mps or cpu. Defaults to the first available.
            dtype: dtype of the weights. Defaults to bfloat16 or float16, and on the CPU to float32. CPUs with
                bfloat16 support then multiply in bfloat16.
            revision: revision of the hub id.
            fresh: use untrained temporal layers, whose frames are almost independent.

        Returns:
            The pipeline.

        Raises:
            OSError: files are missing or unreadable.
            ValueError: the components or arguments do not fit.
        """
        if not isinstance(source, Model):
            source = Model(str(source), motion and str(motion), revision)
        return cls(**vars(assemble(source, device, dtype, fresh)))

    def restyle(self, style: Style) -> None:
        """Loads another style into the weights, in place. No clip may be running.

        Args:
            style: the style.

        Raises:
            OSError: files are missing or unreadable. The weights are unchanged.
            ValueError: the style does not fit the model. The weights are unchanged.
        """
        styler = Styler(self.styler.folder, style)
        parts = {"unet": self.lumiere.model} | self.reader.parts
        states = {name: styler.load(name, self.dtype).state_dict() for name in parts}
        for name, part in parts.items():
            part.load_state_dict(states[name])
        self.styler = styler

    def generate(
        self,
        request: Request,
        stop: threading.Event | Callable[[], bool] | None = None,
        given: Given | None = None,
    ) -> Iterator[Progress | Result]:
        """Yields a `Progress` after each step, and the `Result` last.

        On the CPU, a seed gives identical bits for the same number of threads.

        Args:
            request: the requested clip. Text-to-video starts with a first frame by the base if the motion
                weights take conditioning channels, except with `first_frame="none"`.
            stop: checked before every step. The last predicted clip becomes the result. A run stopped before
                its first step has no result.
            given: conditioning frames and mask (see model/conditioning.py). They replace predictions, and
                motion weights trained with conditioning channels receive them at every step. Pixels
                conditioned in all frames are restored exactly. With a strength below 1, the clip starts from
                these frames with noise (`Request.steps_run` steps).

        Raises:
            ValueError: the model does not support the request. Raised by the call, before iteration.
            GenerationError: the run failed.
        """
        request = self.check(request, given).with_seed()
        return self._run(request, getattr(stop, "is_set", stop) or (lambda: False), given)

    def check(self, request: Request, given: Given | None = None) -> Request:
        """Checks that the model supports a request and that memory is available.

        Args:
            request: the requested clip.
            given: conditioning frames and mask, or None.

        Returns:
            The request.

        Raises:
            ValueError: the request is not supported or does not fit into memory.
        """
        request.check(self.limits)
        shape = (request.frames, request.height, request.width)
        for what, has in (("frames", given.frames.shape[:3]), ("masks", given.mask.shape)) if given else ():
            if has != shape:
                asked, received = (" x ".join(map(str, x)) for x in (shape, has))
                raise ValueError(f"given {what} must be those asked for, {asked}: received {received}.")
        if request.strength < 1 and given is None:
            raise ValueError(f"strength {request.strength:g} needs a clip to begin with: received none.")
        self._check_memory(request, given)
        return request

    def _check_memory(self, request: Request, given: Given | None) -> None:
        """Raises ValueError if a clip does not fit into memory; skips small clips on the CPU."""
        size = self._latent_size(request)
        latents = request.frames * size[0] * size[1]
        if self.device.type == "cpu" and latents <= BATCH_LATENTS:
            return
        frames = max(
            window.stop - window.start
            for part in self._plan(request, given)
            for window in self._windows(part)
        )
        rows = rows_at_once(1 if request.guidance == 1 else 2, frames * size[0] * size[1])
        memory.check(self.cost.of(rows, frames, *size), self.device)

    @cached_property
    def cost(self) -> memory.Cost:
        """Memory cost of a step and of decoding, measured at the first use."""
        return self._cost or cost_of(self.lumiere, self.vae, self.reader, self.limits)

    def _run(
        self, request: Request, stopped: Callable[[], bool], given: Given | None
    ) -> Iterator[Progress | Result]:
        try:
            yield from self._steps(request, stopped, given)
            return
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
        give_back_memory()  # outside the except block, which would keep the tensors alive
        raise GenerationError("the device ran out of memory: lower frames, height or width.")

    def _steps(
        self, request: Request, stopped: Callable[[], bool], given: Given | None
    ) -> Iterator[Progress | Result]:
        began, generator = time.monotonic(), torch.Generator().manual_seed(request.seed)
        cond = self.encode_given(given, whole=request.strength < 1) if given else None
        parts = self._plan(request, given)
        work = [frames for part in parts for frames in self._work(request, part)]
        text, done, clip = None, 0, None
        for part in parts:
            if part.still:
                part_text = self.encode_prompt(request, self.first_frame_prompt(request.prompt))
            else:
                part_text = text = text or self.encode_prompt(request)  # once for all segments
            part_cond = with_context(cond, clip, part.frames)
            before = None if clip is None else clip[:, :, : part.frames.start]
            end, step = done + request.steps_run, None
            steps = self._denoise(request, part, part_text, part_cond, generator)
            while done < end and not stopped():
                step, done = next(steps), done + 1
                share, seconds = sum(work[:done]) / sum(work), time.monotonic() - began
                preview = partial(self.preview, _joined(before, step.pred_x0))
                yield Progress(done, len(work), share, seconds, part.frames.stop, preview)
            if step is not None:
                made = steady(step.x if done == end else step.pred_x0, self.sampling.flicker)
                clip = _joined(before, blend(made, *part_cond) if part_cond else made)
            if done < end:
                break
        if clip is not None:
            frames = self.decode(clip)
            frames = put_back(frames, given) if given else frames
            yield Result(frames, request, len(work), done, done < len(work), time.monotonic() - began)

    def _denoise(
        self, request: Request, part: Part, text: Text, cond: Cond | None, generator: torch.Generator
    ) -> Iterator[Step]:
        """Yields the steps of one part. It starts from noise, or from noised latents below full strength."""
        schedule = self._schedule(request, generator)
        shape = (1, self.vae.config.latent_channels, part.length, *self._latent_size(request))
        noise = torch.randn(shape, generator=generator).to(self.device)  # on the CPU: the same on any device
        denoise = Denoiser(
            model=on_one_frame(self._base()) if part.still else self.lumiere,
            schedule=schedule,
            text=text,
            guidance=request.guidance,
            interval=self._guidance_interval(request),
            windows=self._windows(part),
            cond=cond,
            cond_channels=self.lumiere.given_channels > 0,
            device=self.device,
            dtype=self.dtype,
            autocast=self.autocast,
        )
        start = cond.latents if request.strength < 1 else None
        yield from sample(denoise, schedule, schedule.start(noise, start))

    def _plan(self, request: Request, given: Given | None) -> list[Part]:
        return plan(request, given, self.sampling, self.lumiere.given_channels > 0)

    def _windows(self, part: Part) -> list[slice]:
        """Returns the temporal windows of a part."""
        positions, factor = self.lumiere.kwargs["attns"].get("positions"), self.lumiere.downsample_factor
        return windows_of(part.length, self.sampling.window, positions, factor)

    def _schedule(self, request: Request, generator: torch.Generator) -> Schedule:
        correlation, config = self.lumiere.noise_correlation, self.scheduler_config
        return Schedule(
            request.scheduler, config, request.steps, generator, correlation, last=request.steps_run
        )

    def _guidance_interval(self, request: Request) -> tuple[float, float]:
        """Returns the lowest and highest guided timestep."""
        low, high = self.sampling.guidance_interval if request.strength == 1 else (0.0, 1.0)
        timesteps = self.scheduler_config.get("num_train_timesteps", 1000)
        return low * timesteps, high * timesteps

    def _work(self, request: Request, part: Part) -> list[int]:
        """Returns the frames processed at each step of a part, over all windows and texts."""
        frames = sum(window.stop - window.start for window in self._windows(part))
        low, high = self._guidance_interval(request)
        return [
            frames * (2 if request.guidance != 1 and low <= timestep <= high else 1)
            for timestep in self._schedule(request, torch.Generator()).timesteps.tolist()
        ]

    def _base(self) -> nn.Module:
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
        return self.reader.unknown_words(prompt)

    @torch.inference_mode()
    def encode_prompt(self, request: Request, prompt: str | None = None) -> Text:
        """Encodes the prompt, preceded by the negative prompt with guidance.

        Args:
            request: provides prompts, guidance and size.
            prompt: replaces the prompt of the request.

        Returns:
            One row, or two with guidance.
        """
        prompt = request.prompt if prompt is None else prompt
        texts = [prompt] if request.guidance == 1 else [request.negative_prompt, prompt]
        return self.reader(texts, request.height, request.width)

    @torch.inference_mode()
    def encode_given(self, given: Given, whole: bool = False) -> Cond:
        """Encodes conditioning frames to scaled latents.

        Args:
            given: conditioning frames and mask.
            whole: whether to encode all frames, including frames without conditioning pixels.
        """
        return encode(self.vae, given, self.device, whole)

    def _latent_size(self, request: Request) -> tuple[int, int]:
        """Returns height and width of a frame in latents."""
        pixels = pixels_of(self.vae)
        return request.height // pixels, request.width // pixels

    def frames_shown(self, request: Request, given: Given | None = None) -> int:
        """Returns the number of frames processed for a clip, over all steps, windows and texts.

        Args:
            request: the requested clip.
            given: conditioning frames and mask, or None.
        """
        return sum(sum(self._work(request, part)) for part in self._plan(request, given))

    def seams(self, frames: int) -> list[int]:
        """Returns the frames at which a segment or window starts or ends, in an unconditioned clip.

        Args:
            frames: length of the clip.
        """
        parts = plan(Request("-", frames=frames), None, self.sampling, takes_cond=False)
        if len(parts) > 1:
            return [part.frames.stop for part in parts[:-1]]
        edges = {edge for window in self._windows(parts[0]) for edge in (window.start, window.stop)}
        return sorted(edges - {0, frames})

    def decode(self, latents: Tensor) -> np.ndarray:
        """Decodes latents to frames.

        Args:
            latents: scaled latents `1 c t h w`.

        Returns:
            uint8 `t h w c`.

        Raises:
            GenerationError: latents or frames contain NaN or inf, or memory is too short for one frame.
        """
        return decode(self.vae, latents)


def _joined(before: Tensor | None, made: Tensor) -> Tensor:
    """Prepends the frames before a part, if any, to its latents `1 c t h w`."""
    return made if before is None else torch.cat([before, made], dim=2)
