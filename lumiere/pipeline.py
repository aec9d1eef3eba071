"""From a request to the frames of a clip: encode, plan the parts, denoise each in one loop, decode."""

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
    """A space-time model with its text encoders and autoencoder, ready to make clips.

    Holds no state of a run: threads may generate at once. Whether the device should is not its affair.

    Attributes:
        sampling: settings that belong to the model and not to a request.
        notes: what was changed to fit the parts to each other, in sentences for whoever starts the program.
        device: where runs happen, if that is not where the autoencoder is.
        styler: what loaded the parts, for `restyle`.
        first_frame_prompt: rewrites a prompt for the first frame, which the base draws.
        autocast: whether the UNet multiplies in bfloat16 while its weights stay as they are.
        cost: of memory; measured when it is first needed, by default.
    """

    def __init__(
        self,
        lumiere: Lumiere,
        vae,
        reader: TextReader,
        scheduler_config: dict,
        limits: Limits,
        preview: Preview | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008, it is frozen
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
        """Loads a folder or hub id of the diffusers layout (SD 1.x, 2.x, XL) part by part, safetensors only.

        source: also an entry of the table of models, which then says the rest. motion: motion weights, of
        Lumiere or a public adapter, as a folder, file or hub id; those in `<source>/motion` unless given.
        fresh: untrained layers in their place: frames know little of each other. device: cuda, mps or cpu;
        the first there is unless given. dtype: float32 on the CPU, where a processor that can multiplies
        in bfloat16, else bfloat16 or float16. Raises OSError or ValueError in words.
        """
        if not isinstance(source, Model):
            source = Model(str(source), motion and str(motion), revision)
        return cls(**vars(assemble(source, device, dtype, fresh)))

    def restyle(self, style: Style) -> None:
        """Puts another style into the weights, in place: nothing may run meanwhile.

        Raises OSError and ValueError in words, before anything is changed.
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
        """Yields a `Progress` after each step, a `Result` last.

        On the CPU a seed gives the same bits whenever as many threads compute them.

        Args:
            request: what is asked for. Text to video begins with a first frame by the base where the motion
                weights take given pixels, unless `first_frame` is "none".
            stop: checked before every step. The clip predicted by the last finished step becomes the result;
                without a finished step there is none.
            given: pixels that the clip should have (see model/conditioning.py). Motion weights that were
                trained with such see them from the first step on; with all weights they are put into the
                predictions. Those that are given in all frames end up in the clip as they are. With a
                strength below 1 the clip starts from the given frames with noise (`Request.steps_run` steps).

        Raises:
            ValueError: at once, for what this model cannot do.
            GenerationError: on the way.
        """
        request = self.check(request, given).with_seed()
        return self._run(request, getattr(stop, "is_set", stop) or (lambda: False), given)

    def check(self, request: Request, given: Given | None = None) -> Request:
        """Returns the request when it can be made here and now; raises ValueError when not."""
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
        """Raises ValueError for a clip that would not fit; of small ones on the CPU it is not asked."""
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
        """What a step and decoding take at once."""
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
        give_back_memory()  # out here: the except block would keep the tensors alive
        raise GenerationError("the device ran out of memory: lower frames, height or width.")

    def _steps(
        self, request: Request, stopped: Callable[[], bool], given: Given | None
    ) -> Iterator[Progress | Result]:
        began, generator = time.monotonic(), torch.Generator().manual_seed(request.seed)
        cond = self.encode_given(given, whole=request.strength < 1) if given else None
        parts = self._plan(request, given)
        work = [frames for part in parts for frames in self._work(request, part)]
        done, clip = 0, None
        for part in parts:
            part_cond = with_context(cond, clip, part.frames)
            before = None if clip is None else clip[:, :, : part.frames.start]
            end, step = done + request.steps_run, None
            steps = self._denoise(request, part, part_cond, generator)
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
        self, request: Request, part: Part, cond: Cond | None, generator: torch.Generator
    ) -> Iterator[Step]:
        """The steps of one part: from noise or, below full strength, from the given latents with noise."""
        prompt = self.first_frame_prompt(request.prompt) if part.still else request.prompt
        schedule = self._schedule(request, generator)
        shape = (1, self.vae.config.latent_channels, part.length, *self._latent_size(request))
        noise = torch.randn(shape, generator=generator).to(self.device)  # by the CPU: the same on any device
        denoise = Denoiser(
            model=on_one_frame(self._base()) if part.still else self.lumiere,
            schedule=schedule,
            text=self.encode_prompt(request, prompt),
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
        """The frames of a part that the model sees at once."""
        positions, factor = self.lumiere.kwargs["attns"].get("positions"), self.lumiere.downsample_factor
        return windows_of(part.length, self.sampling.window, positions, factor)

    def _schedule(self, request: Request, generator: torch.Generator) -> Schedule:
        correlation, config = self.lumiere.noise_correlation, self.scheduler_config
        return Schedule(
            request.scheduler, config, request.steps, generator, correlation, last=request.steps_run
        )

    def _guidance_interval(self, request: Request) -> tuple[float, float]:
        """Lowest and highest timestep at which guidance counts."""
        low, high = self.sampling.guidance_interval if request.strength == 1 else (0.0, 1.0)
        timesteps = self.scheduler_config.get("num_train_timesteps", 1000)
        return low * timesteps, high * timesteps

    def _work(self, request: Request, part: Part) -> list[int]:
        """How many frames the model sees at each step of a part, in all windows and with all texts."""
        frames = sum(window.stop - window.start for window in self._windows(part))
        low, high = self._guidance_interval(request)
        return [
            frames * (2 if request.guidance != 1 and low <= timestep <= high else 1)
            for timestep in self._schedule(request, torch.Generator()).timesteps.tolist()
        ]

    def _base(self) -> nn.Module:
        """The text-to-image model alone, which comes to the device where parts take turns on it."""
        hook = getattr(self.lumiere, "_hf_hook", None)  # of accelerate, at work in calls of the whole only
        if hook is not None:
            hook.pre_forward(self.lumiere)
        return self.lumiere.model

    def unknown_words(self, prompt: str) -> list[str]:
        """The words that the model will not see: not in its vocabulary, or past the end of what it takes."""
        return self.reader.unknown_words(prompt)

    @torch.inference_mode()
    def encode_prompt(self, request: Request, prompt: str | None = None) -> Text:
        """One row, or with guidance two: of the negative prompt, then of the prompt (the request's own)."""
        prompt = request.prompt if prompt is None else prompt
        texts = [prompt] if request.guidance == 1 else [request.negative_prompt, prompt]
        return self.reader(texts, request.height, request.width)

    @torch.inference_mode()
    def encode_given(self, given: Given, whole: bool = False) -> Cond:
        """Scaled latents of given pixels. whole: of all frames, not only of those that have given pixels."""
        return encode(self.vae, given, self.device, whole)

    def _latent_size(self, request: Request) -> tuple[int, int]:
        """Height and width of a frame in latents."""
        pixels = pixels_of(self.vae)
        return request.height // pixels, request.width // pixels

    def frames_shown(self, request: Request, given: Given | None = None) -> int:
        """How many frames the model sees while it makes a clip: in all steps, windows and texts."""
        return sum(sum(self._work(request, part)) for part in self._plan(request, given))

    def seams(self, frames: int) -> list[int]:
        """The frames at which another segment or window begins, in a clip of which nothing is given."""
        parts = plan(Request("-", frames=frames), None, self.sampling, takes_cond=False)
        if len(parts) > 1:
            return [part.frames.stop for part in parts[:-1]]
        edges = {edge for window in self._windows(parts[0]) for edge in (window.start, window.stop)}
        return sorted(edges - {0, frames})

    def decode(self, latents: Tensor) -> np.ndarray:
        """Scaled latents (1 c t h w) -> uint8 (t h w c). Raises GenerationError as `vae.decode` does."""
        return decode(self.vae, latents)


def _joined(before: Tensor | None, made: Tensor) -> Tensor:
    """A clip `1 c t h w` with the frames before it, if there are any."""
    return made if before is None else torch.cat([before, made], dim=2)
