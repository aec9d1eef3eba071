"""The pipeline from a request to frames: encodes prompts and pixels, plans parts, denoises and decodes.

Requests are validated in request.py, models are loaded in `lumiere.loading`.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumiere.errors import GenerationError
from lumiere.events import Progress, Result
from lumiere.loading.loaded_model import LoadedModel
from lumiere.model.conditioning import Cond, Given, blend, put_back, with_context
from lumiere.model.text import Text
from lumiere.prompts import spacing
from lumiere.request import Request, required
from lumiere.sampling import memory
from lumiere.sampling.denoiser import BATCH_LATENTS, Denoiser, Looped, on_one_frame, rows_at_once
from lumiere.sampling.loop import Denoise, Step, sample
from lumiere.sampling.noise import reinitialized, rescheduled, steady
from lumiere.sampling.plan import Part, Plan
from lumiere.sampling.temporal_windows import window_and_stride
from lumiere.sampling.vae import OUTPUT_TYPES, LumiereOutput, decode, give_back_memory


class LumierePipeline(LoadedModel):
    """Text-to-video pipeline: a base pipeline of diffusers, and its UNet inflated with temporal layers.

    The pipeline keeps no state between runs, and threads may call it concurrently, except with other options
    of an AnimateDiff adapter than the running clip has (`LoadedModel.adapt`). Callers decide whether a device
    should run several clips at once. The constructor takes the arguments of `LoadedModel`.
    """

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        *,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable[["LumierePipeline", int, Tensor, dict], object] | None = None,
        output_type: str = "pil",
        given: Given | None = None,
        **settings: Any,
    ) -> LumiereOutput:
        """Generates clips with the argument names of diffusers. The model determines the defaults.

        Args:
            prompt: one prompt, or one for each clip.
            negative_prompt: negative prompt of all clips.
            num_frames: frames of each clip.
            num_inference_steps: denoising steps.
            guidance_scale: scale of classifier-free guidance; 1 disables it.
            generator: CPU generator of all noise. Defaults to a random seed.
            callback_on_step_end: called with the pipeline, the number of the step, its timestep and
                `{"latents": …}` after each step. Its return value is ignored.
            output_type: "pil" for a list of images per clip, "np" for float32 `b t h w c` from 0 to 1, "pt"
                for a tensor `b t c h w`.
            given: conditioning frames and mask, see `generate`.
            settings: other fields of a `Request`, such as height, width, scheduler or seed.

        Returns:
            An object with the clips in `frames`.

        Raises:
            ValueError: the model does not support the request.
            GenerationError: the run failed.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}: received {output_type}.")
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"generator must be on the CPU: received one on {generator.device.type}.")
        settings |= {"frames": num_frames, "steps": num_inference_steps, "guidance": guidance_scale}
        prompts = [prompt] if isinstance(prompt, str) else prompt
        requests = [self.check(Request(text, negative_prompt, **settings), given) for text in prompts]
        on_step = callback_on_step_end and partial(callback_on_step_end, self)
        clips: list[np.ndarray] = []
        for request in requests:
            events = self._run(request.with_seed(), lambda: False, given, generator, on_step)
            clips += [event.frames for event in events if isinstance(event, Result)]
        return LumiereOutput.of(clips, output_type)

    def generate(
        self,
        request: Request,
        stop: threading.Event | Callable[[], bool] | None = None,
        given: Given | None = None,
    ) -> Iterator[Progress | Result]:
        """Yields a `Progress` after each step, and the `Result` last.

        On the CPU, a seed gives identical bits for the same number of threads.

        Args:
            request: the requested clip. Fields that are None take the defaults of the model.
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
            The request, with the model's defaults.

        Raises:
            ValueError: the request is not supported or does not fit into memory.
        """
        self._check_unet()
        request = self._filled(request).check(self.limits)
        shape = (request.frames, request.height, request.width)
        for what, has in (("frames", given.frames.shape[:3]), ("masks", given.mask.shape)) if given else ():
            if has != shape:
                asked, received = (" x ".join(map(str, x)) for x in (shape, has))
                raise ValueError(f"given {what} must be those asked for, {asked}: received {received}.")
        if request.strength < 1 and given is None:
            raise ValueError(f"strength {request.strength:g} needs a clip to begin with: received none.")
        self._check_text(request)
        self._check_memory(request, given)
        return request

    def _filled(self, request: Request) -> Request:
        """Returns a request with the model's defaults, as a loop if the operator makes every clip one."""
        request = request.filled(self.defaults)
        if request.loop or self.sampling.loop:  # a fixed first frame would show at the seam
            request = replace(request, loop=True, first_frame="none")
        return request

    def _check_text(self, request: Request) -> None:
        """Raises ValueError if the text encoder or the temporal layers do not support the prompts."""
        most = self.text_encoder.max_clip_skip
        if request.clip_skip > most:
            valid = f"from 0 to {most}" if most else "0, as the text encoder was trained with the base"
            raise ValueError(f"clip_skip of this model must be {valid}: received {request.clip_skip}.")
        in_time = spacing(request.prompt) or spacing(request.negative_prompt)
        if in_time and self.lumiere.conditioned:
            raise ValueError(
                "prompts in time need motion weights without text: these average it over all frames."
            )

    def _check_memory(self, request: Request, given: Given | None) -> None:
        """Raises ValueError if a clip does not fit into memory; skips small clips on the CPU."""
        size = self._latent_size(request)
        latents = (request.frames or 0) * size[0] * size[1]
        if self.device.type == "cpu" and latents <= BATCH_LATENTS:
            return
        frames = self._plan(request, given).longest_window
        rows = rows_at_once(1 if request.guidance == 1 else 2, frames * size[0] * size[1])
        memory.check(self.cost.of(rows, frames, *size), self.device)

    def _run(self, request: Request, *options: Any) -> Iterator[Progress | Result]:
        try:
            yield from self._steps(request, *options)
            return
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
        give_back_memory()  # outside the except block, which would keep the tensors alive
        raise GenerationError("the device ran out of memory: lower frames, height or width.")

    def _steps(
        self,
        request: Request,
        stopped: Callable[[], bool],
        given: Given | None,
        generator: torch.Generator | None = None,
        on_step: Callable[[int, Tensor, dict], object] | None = None,
    ) -> Iterator[Progress | Result]:
        began, generator = time.monotonic(), generator or torch.Generator().manual_seed(request.seed or 0)
        self.adapt(request)
        cond = self.encode_given(given, whole=request.strength < 1) if given else None
        plan = self._plan(request, given)
        parts, work = plan.parts, list(map(plan.work, plan.parts))
        shown = list(accumulate(chain.from_iterable(work)))  # frames processed up to each step
        text, done = None, 0
        clip: Tensor | None = None
        for part, steps_of_part in zip(parts, map(len, work), strict=True):
            if part.still:
                part_text = self.encode_prompt(request, still=True)
            else:
                text = text or self.encode_prompt(request)  # once for all segments
                part_text = text.at(part.frames)
            part_cond = with_context(cond, clip, part.frames)
            before = None if clip is None else clip[:, :, : part.frames.start]
            end, step = done + steps_of_part, None
            steps = self._denoise(plan, part, part_text, part_cond, generator)
            while done < end and not stopped():
                step, done = next(steps), done + 1
                if on_step:
                    on_step(done - 1, step.timestep, {"latents": step.x})
                share, seconds = shown[done - 1] / shown[-1], time.monotonic() - began
                preview = partial(self.preview, _joined(before, step.pred_x0))
                yield Progress(done, len(shown), share, seconds, part.frames.stop, preview)
            if step is not None:
                made = steady(step.x if done == end else step.pred_x0, self.sampling.flicker, request.loop)
                clip = _joined(before, blend(made, *part_cond) if part_cond else made)
            if done < end:
                break
        if clip is not None:
            frames = self.decode(clip)
            frames = put_back(frames, given) if given else frames
            yield Result(frames, request, len(shown), done, done < len(shown), time.monotonic() - began)

    def _denoise(
        self, plan: Plan, part: Part, text: Text, cond: Cond | None, generator: torch.Generator
    ) -> Iterator[Step]:
        """Yields the steps of one part. It starts from noise, or from noised latents below full strength."""
        shape = (1, self.vae.config.latent_channels, part.length, *self._latent_size(plan.request))
        noise = first = self._noise(plan, shape, generator)
        latents = cond.latents if cond and plan.request.strength < 1 else None
        for number in range(plan.passes(part)):
            schedule = plan.schedule(generator)
            if number > 0:
                assert latents is not None, "the clip of the pass before"
                fresh = torch.randn(shape, generator=generator).to(self.device)
                noise, latents = reinitialized(schedule.noised(latents, first), fresh), None
            denoiser = Denoiser(
                model=on_one_frame(self._image_unet()) if part.still else self.lumiere,
                schedule=schedule,
                text=text,
                guidance=required(plan.request.guidance),
                interval=plan.guidance_interval,
                windows=plan.windows(part),
                cond=cond,
                cond_channels=self.lumiere.cond_channels > 0,
                device=self.device,
                dtype=self.lumiere.dtype,
                autocast=self.autocast,
            )
            denoise: Denoise = denoiser
            if plan.request.loop and not part.still:
                denoise = Looped(denoiser, part.length, self.lumiere.downsample_factor)
            for step in sample(denoise, schedule, schedule.start(noise, latents)):
                yield step
            latents = step.x

    def _noise(self, plan: Plan, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Returns unit noise, drawn on the CPU: the same on any device."""
        noise = torch.randn(shape, generator=generator)
        if plan.sampling.free_noise:
            noise = rescheduled(noise, *window_and_stride(plan.sampling, self.lumiere.positions), generator)
        return noise.to(self.device)

    def _plan(self, request: Request, given: Given | None) -> Plan:
        return Plan(request, given, self.sampling_of(request), self.lumiere, self.scheduler_config)

    def frames_shown(self, request: Request, given: Given | None = None) -> int:
        """Returns the number of frames processed for a clip, over all steps, windows and texts.

        Args:
            request: the requested clip.
            given: conditioning frames and mask, or None.
        """
        request = self._filled(request)
        plan = self._plan(request, given)
        return sum(chain.from_iterable(map(plan.work, plan.parts)))

    def seams(self, frames: int) -> list[int]:
        """Returns the frames at which a segment or window starts or ends, in an unconditioned clip.

        Args:
            frames: length of the clip.
        """
        return self._plan(Request("-", frames=frames), None).seams

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
