"""From a request to the frames of a clip: encode prompt, noise, schedule, denoise, decode."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from . import memory
from .allocator import give_back
from .assembly import assemble, cost_of
from .conditioning import Given, blend, channels, put_back, to_latents
from .drafts import LOOKS, Draft, generators, unrest
from .forecaster import Forecaster, with_what_stands_still
from .inflate import Lumiere
from .lora import Styler
from .opener import Opener
from .preview import LatentPreview, Preview, synthetic_pictures
from .request import Limits, Request
from .sampling import Sampler
from .steady import steady
from .stills import draw_still, guided
from .style import Style
from .table import Model
from .text import Text, TextReader
from .turns import Beginning, Planner, Turn
from .windows import going_on, grow, in_windows, joined, windows

BATCH_LATENTS = 2**16  # clips up to here are denoised twofold in one call: 16 frames of 64 x 64
WINDOW, OVERLAP = 128, 0.25  # frames denoised at once, and the share of them that two windows have in common
SLICE_PIXELS = 2**18  # decoded at once: 16 frames of 128 x 128, or one of 512 x 512


class GenerationError(RuntimeError):
    """A run that failed for a reason worth telling the person who asked; the message is one sentence."""


@dataclass(frozen=True)
class Progress:
    """One finished step. seconds: since the run began. preview(): predicted clip, small, uint8 (t h w c).

    length: frames of the clip so far, which the preview stands for; less than asked for while a clip grows.
    """

    step: int
    steps: int
    seconds: float
    length: int
    preview: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Result:
    """The clip: frames uint8 (t h w c), and the request that makes it again, seed included.

    steps: of all parts of the clip together. One that was stopped while it grew has fewer frames.
    """

    frames: np.ndarray
    request: Request
    steps: int
    steps_done: int
    stopped: bool
    seconds: float


class LumierePipeline:
    """A space-time model with its text encoders and autoencoder, ready to make clips.

    Holds no state of a run: threads may generate at once. Whether the device should is not its affair.

    window: frames denoised at once where a clip has more than the motion weights can tell apart, or for those
    that can tell any number apart, more than this. notes: what was changed to fit the parts to each other, in
    sentences for whoever starts the program. device: where runs happen, if that is not where the autoencoder
    is. styler: what loaded the parts, for `restyle`. forecaster: tells what a part that goes on begins as,
    instead of noise (forecaster.py). opener: tells what the first part of a clip begins as, from a still by
    the base (opener.py). guided_above: share of the timesteps, 0 to 1, above which guidance
    counts in a clip that begins as noise (Kynkäänniemi et al. 2024, arXiv 2404.07724): where motion is
    decided, and not where details are. growth: frames that are made at once, and how many before them they go
    on from, where longer clips are made part by part (`grow` in windows.py). flicker: variance of latents
    over time that is taken out where nothing moves (steady.py). revisions: how often what begins as noise is
    denoised again where motion is decided (revisions.py). drafts: of a clip that begins as noise, or of its
    first part; one of them is revised and finished (drafts.py). cost: of memory, measured when first asked
    for unless given.
    """

    def __init__(
        self,
        lumiere: Lumiere,
        vae,
        reader: TextReader,
        scheduler_config: dict,
        limits: Limits,
        preview: Preview | None = None,
        window: int | None = None,
        notes: tuple[str, ...] = (),
        device: torch.device | None = None,
        styler: Styler | None = None,
        forecaster: Forecaster | None = None,
        opener: Opener | None = None,
        guided_above: float = 0.0,
        growth: tuple[int, int] | None = None,
        flicker: float = 0.0,
        revisions: int = 0,
        drafts: int = 1,
        cost: memory.Cost | None = None,
    ):
        self.lumiere, self.vae, self.reader = lumiere, vae, reader
        self.scheduler_config, self.limits, self.notes = scheduler_config, limits, notes
        weight = next(vae.parameters())
        self.device, self.dtype = device or weight.device, weight.dtype
        self.window, self.styler, self._cost = window, styler, cost
        self.guided_above, self.growth, self.flicker = guided_above, growth, flicker
        self.revisions, self.drafts = revisions, drafts
        self.forecaster, self.opener = (net and net.to(self.device) for net in (forecaster, opener))
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
        the first there is unless given. dtype: float32 on the CPU, else bfloat16 or float16. Raises OSError
        or ValueError in words.
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

        given: pixels that the clip should have (see conditioning.py). Motion weights that were trained with
        such see them from the first step on; with all weights they are put into the predictions. Those that
        are given in all frames end up in the clip as they are. With a strength below 1 the clip begins as the
        given frames, all of them, with noise (`Request.steps_run` steps).

        A clip that grows does not know what comes: one whose last frame has given pixels, or that begins as
        another, is made at once.

        stop: looked at before every step. The clip predicted by the last finished step becomes the result;
        without a finished step there is none. Raises ValueError at once for what this model cannot do, and
        GenerationError on the way.
        """
        request = self.check(request, given).with_seed()
        return self._run(request, getattr(stop, "is_set", stop) or (lambda: False), given)

    def check(self, request: Request, given: Given | None = None) -> Request:
        """Returns the request when it can be made here and now; raises ValueError when not."""
        request.check(self.limits)
        shape = (request.frames, request.height, request.width)
        if given is not None and not given.frames.shape[:3] == given.mask.shape == shape:
            asked, received = (" x ".join(map(str, x)) for x in (shape, given.frames.shape[:3]))
            raise ValueError(f"given frames must be those asked for, {asked}: received {received}.")
        if request.strength < 1 and given is None:
            raise ValueError(f"strength {request.strength:g} needs a clip to begin with: received none.")
        self._check_memory(request, given)
        return request

    def _check_memory(self, request: Request, given: Given | None) -> None:
        """Raises ValueError for a clip that would not fit; of small ones on the CPU it is not asked."""
        size = request.height // self._pixels, request.width // self._pixels
        latents = request.frames * size[0] * size[1]
        if self.device.type == "cpu" and latents <= BATCH_LATENTS:
            return
        _, made = self._planner.windows(request, given)
        frames = max(x.stop - x.start for window in made for x in self.parts(window.stop - window.start))
        rows = 2 if request.guidance != 1 and frames * size[0] * size[1] <= BATCH_LATENTS else 1
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
        _give_back()  # out here: the except block would keep the tensors alive
        raise GenerationError("the device ran out of memory: lower frames, height or width.")

    def _steps(
        self, request: Request, stopped: Callable[[], bool], given: Given | None
    ) -> Iterator[Progress | Result]:
        began = time.monotonic()
        known = self.encode_given(given, whole=request.strength < 1) if given else None
        text = self.encode_prompt(request)
        begun, turns = self._planner.turns(request, given)
        clip = known[0][:, :, :begun] if begun else None
        steps, done = sum(turn.steps for turn in turns), 0
        draws = list(generators(request.seed, turns[0].drafts))
        for turn in turns:
            window, end, draft = turn.window, done + turn.steps, None
            for draft in self._denoised(turn, clip, known, text, draws, stopped):
                done += 1
                preview = partial(self.preview, joined(clip, draft.clean, window))
                yield Progress(done, steps, time.monotonic() - began, window.stop, preview)
            if draft is not None:
                made = steady(draft.sample if done == end else draft.clean, self.flicker)
                made = blend(made, *draft.known) if draft.known else made
                clip = joined(clip, made, window, turn.again)
            if done < end:
                break
        if done:
            frames = self.decode(clip)
            frames = put_back(frames, given) if given else frames
            yield Result(frames, request, steps, done, done < steps, time.monotonic() - began)

    def _denoised(
        self,
        turn: Turn,
        clip: Tensor | None,
        known: tuple[Tensor, Tensor] | None,
        text: Text,
        draws: list[torch.Generator],
        stopped: Callable[[], bool],
    ) -> Iterator[Draft]:
        """Yields the draft that there is after each step: the first of several while they are made together.

        Each pass begins with the clean clip of the one before it and new noise. clip: what there is before
        the turn. known: what is given of the whole.
        """
        guidance = turn.request.guidance
        drafts = []
        for draw in draws[: turn.drafts]:
            still = self._still(turn, text, draw, stopped) if turn.draws_stills else None
            if turn.draws_stills and still is None:
                return
            start = self._start(turn, clip, known, text, still)
            drafts.append(self._begin(turn, turn.passes[0], draw, *start))
        if turn.draws_stills:
            yield drafts[0]
        for number, part in enumerate(turn.passes):
            if number:
                drafts = [self._begin(turn, part, draws[0], drafts[0].clean, drafts[0].known)]
            timesteps = drafts[0].sampler.timesteps[: part.stop - part.start]
            for timestep in timesteps:
                if stopped():
                    return
                guided = timestep >= turn.guided_down_to or guidance <= 1
                told = (text, guidance) if guided else (text.last(), 1.0)
                for draft in drafts:
                    self._step(draft, timestep, *told)
                if len(drafts) > 1 and timestep == timesteps[-1]:
                    drafts = [self._best(drafts, text.last())]
                yield drafts[0]

    def unknown_words(self, prompt: str) -> list[str]:
        """The words that the model will not see: not in its vocabulary, or past the end of what it takes."""
        return self.reader.unknown_words(prompt)

    @torch.inference_mode()
    def encode_prompt(self, request: Request) -> Text:
        """One row, or with guidance two: of the negative prompt, then of the prompt."""
        texts = [request.prompt] if request.guidance == 1 else [request.negative_prompt, request.prompt]
        return self.reader(texts, request.height, request.width)

    @torch.inference_mode()
    def encode_given(self, given: Given, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Scaled latents, float32 (1 c t h w), and which of them are given, bool (t h w).

        whole: all frames are encoded, and not only those of which something is given.
        """
        mask = to_latents(torch.from_numpy(given.mask), self._pixels)
        shape = (len(mask), self.vae.config.latent_channels, *mask.shape[1:])
        latents = torch.zeros(shape, device=self.device)
        for frame in range(len(mask)) if whole else mask.flatten(1).any(1).nonzero().flatten().tolist():
            pixels = torch.from_numpy(given.frames[frame]).permute(2, 0, 1)[None]  # h w c -> 1 c h w
            pixels = (pixels / 127.5 - 1).to(self.device, self.dtype)
            mean = self.vae.encode(pixels).latent_dist.mean.float()
            latents[frame] = mean[0] * self.vae.config.scaling_factor
        return latents.transpose(0, 1)[None], mask.to(self.device)  # t c h w -> 1 c t h w

    def _sampler(self, request: Request, generator: torch.Generator, first: int = 0) -> Sampler:
        """One that runs the steps of the request from the numbered one on."""
        config, correlation = self.scheduler_config, self.lumiere.noise_correlation
        last = request.steps - first
        return Sampler(request.scheduler, config, request.steps, generator, correlation, last)

    @torch.inference_mode()
    def _still(
        self, turn: Turn, text: Text, generator: torch.Generator, stopped: Callable[[], bool]
    ) -> Tensor | None:
        """Clean latents (1 c 1 h w), by the base alone, of what is asked for at rest; None when stopped."""
        sampler, noise = self._sampler(turn.request, generator), self._noise(turn.request, 1, generator)
        text = text.with_last(self.opener.rest(text.last().states))
        return draw_still(self.lumiere.model, sampler, noise, text, turn.request.guidance, stopped)

    @torch.inference_mode()
    def _start(
        self,
        turn: Turn,
        clip: Tensor | None,
        known: tuple[Tensor, Tensor] | None,
        text: Text,
        still: Tensor | None,
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """What the frames of a turn begin as, clean latents or None for noise, and what of them is given.

        clip: the frames before. known: what is given of the whole clip. still: what the first of them follow.
        """
        match turn.beginning:
            case Beginning.FORECAST:
                before = clip
                told = self.forecaster.window(clip, turn.window, text.last().states)
            case Beginning.FROM_STILL:
                before = still
                told = self.opener.likeliest(still, text.last().states)[:, :, turn.window]
            case Beginning.FROM_FIRST:
                before = known[0][:, :, :1]
                told = self.opener.likeliest(before, text.last().states)
                told = joined(before, told, slice(1, None))[:, :, turn.window]
            case Beginning.GIVEN:
                return known[0], going_on(clip, turn.window, known)
            case Beginning.NOISE:
                return None, going_on(clip, turn.window, known)
        return told, with_what_stands_still(told, going_on(clip, turn.window, known, turn.again), before)

    def _begin(
        self,
        turn: Turn,
        part: slice,
        generator: torch.Generator,
        begins_as: Tensor | None,
        known: tuple[Tensor, Tensor] | None,
    ) -> Draft:
        """A draft of a window at the first of some steps: noise, or clean latents with noise."""
        sampler = self._sampler(turn.request, generator, part.start)
        noise = self._noise(turn.request, turn.frames, generator)
        return Draft(sampler, sampler.start(noise, begins_as), begins_as, known)

    def _best(self, drafts: list[Draft], text: Text) -> Draft:
        """The draft that the model would change least, told the prompt alone."""

        def unrest_of(draft: Draft) -> float:
            return unrest(
                draft,
                lambda *shown: self._predict(draft.sampler, *shown, text, 1.0, draft.known)[1],
                self._planner.timesteps,
            )

        return min(drafts, key=unrest_of)

    def _noise(self, request: Request, frames: int, generator: torch.Generator) -> Tensor:
        """Unit noise, float32 (1 c t h w), drawn on the CPU: it depends on the seed and the shape alone."""
        height, width = request.height // self._pixels, request.width // self._pixels
        shape = (1, self.vae.config.latent_channels, frames, height, width)
        return torch.randn(shape, generator=generator).to(self.device)

    # Around each step, because it must not span a yield: a generator may be resumed on another thread.
    @torch.inference_mode()
    def _step(
        self,
        draft: Draft,
        timestep: Tensor,
        text: Text,
        guidance: float,
    ) -> None:
        """Goes on with a draft by one step."""
        model_input = draft.sampler.model_input(draft.sample, timestep)
        output, draft.clean = self._predict(
            draft.sampler, model_input, timestep, text, guidance, draft.known, draft.clean
        )
        draft.sample = draft.sampler.step(output, timestep, draft.sample)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)  # so that time and stop mean this step, not one queued

    @torch.inference_mode()
    def _predict(
        self,
        sampler: Sampler,
        model_input: Tensor,
        timestep: Tensor,
        text: Text,
        guidance: float,
        known: tuple[Tensor, Tensor] | None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The model's output and the clean latents it stands for, with what is known of them put in.

        All float32 (1 c t h w). before: the clean latents that the step before predicted.
        """
        shown, before = model_input, before if self.lumiere.self_conditioned else None
        if self.lumiere.given_channels and (known or before is not None):
            nothing = torch.zeros_like(shown), torch.zeros_like(shown[0, 0], dtype=torch.bool)
            shown = torch.cat([shown, channels(*(known or nothing), before)], dim=1)
        output = in_windows(
            lambda x: self._guided(x, timestep, text, guidance), shown, self.parts(shown.shape[2])
        )
        clean = sampler.clean(output, model_input, timestep)
        if known:
            clean = blend(clean, *known)
            output = sampler.output(clean, model_input, timestep)
        return output, clean

    @property
    def _planner(self) -> Planner:
        told = (net.config.frames if net else 0 for net in (self.forecaster, self.opener))
        settings = self.growth, self.guided_above, self.revisions, self.drafts
        return Planner(self.scheduler_config, *settings, *told)

    def frames_shown(self, request: Request, given: Given | None = None) -> int:
        """Frames that the model sees at most while it makes a clip: in all steps, drafts and texts."""
        shown, texts = 0, 1 if request.guidance == 1 else 2
        for turn in self._planner.turns(request, given)[1]:
            frames = sum(part.stop - part.start for part in self.parts(turn.frames))
            first, more = turn.passes[0], turn.drafts - 1
            steps = turn.denoising_steps + more * (first.stop - first.start)
            shown += frames * (texts * steps + (LOOKS * turn.drafts if more else 0))
            shown += turn.draws_stills * turn.drafts * texts * turn.request.steps
        return shown

    def seams(self, frames: int) -> list[int]:
        """The frames at which something else begins to be denoised, in a clip of which nothing is given."""
        if self.growth is not None:
            return [turn.stop for turn in grow(frames, *self.growth)[:-1]]
        edges = {edge for part in self.parts(frames) for edge in (part.start, part.stop)}
        return sorted(edges - {0, frames})

    def parts(self, frames: int) -> list[slice]:
        """The frames denoised at once; adapters are shown all of a clip, if they have as many positions."""
        positions = self.lumiere.kwargs["attns"].get("positions")
        length = self.window or positions or WINDOW
        if positions:
            length = positions if frames <= positions else min(length, positions)
        return windows(frames, length, int(OVERLAP * length), self.limits.downsample_factor)

    def _guided(self, model_input: Tensor, timestep: Tensor, text: Text, guidance: float) -> Tensor:
        """The model's output, float32 (1 c t h w); classifier-free guidance when given two texts.

        A long clip is shown to the model twice rather than twofold: a batch saves less than a tenth of the
        time and takes twice the memory.
        """
        clip, timestep = model_input.to(self.dtype), timestep.to(self.device)
        at_once = len(text) if clip[0, 0].numel() <= BATCH_LATENTS else 1
        outputs = []
        for rows in text.split(at_once):
            clips = clip.expand(len(rows), -1, -1, -1, -1)  # 1 c t h w -> 1|2 c t h w
            output = self.lumiere(clips, timestep, return_dict=False, **rows.arguments)[0]
            outputs.append(output.float())
        return guided(torch.cat(outputs), guidance)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Scaled latents (1 c t h w) -> uint8 (t h w c), a few frames at a time, fewer where memory is short.

        Raises GenerationError when latents or frames hold values that are not numbers.
        """
        if not latents.isfinite().all():
            raise GenerationError(
                "the model's output is not a number: try less guidance or another scheduler."
            )
        stack = rearrange(latents, "1 c t h w -> t c h w") / self.vae.config.scaling_factor
        most = SLICE_PIXELS // (stack.shape[-2] * stack.shape[-1] * self._pixels**2)
        count = min(max(1, most), len(stack))
        slices, begin = [], 0
        while begin < len(stack):
            frames = self._decode_slice(stack[begin : begin + count])
            if frames is not None:
                slices.append(frames)
                begin += len(frames)
            elif count == 1:
                raise GenerationError(
                    "the device ran out of memory for a single frame: lower height or width."
                )
            else:
                count = (count + 1) // 2
                _give_back()
        return np.concatenate(slices)

    @torch.inference_mode()
    def _decode_slice(self, latents: Tensor) -> np.ndarray | None:
        """Latents (n c h w) -> uint8 (n h w c), or None when memory ran out."""
        try:
            images = self.vae.decode(latents.to(self.dtype), return_dict=False)[0].float()
            if self.dtype != torch.float32 and not images.isfinite().all():
                # Some autoencoders overflow in half precision. A copy: other runs must not see a changed one.
                images = copy.deepcopy(self.vae).float().decode(latents.float(), return_dict=False)[0]
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            return None
        if not images.isfinite().all():
            raise GenerationError("the decoder's output is not a number: try another seed.")
        images = (images / 2 + 0.5).clamp(0, 1).mul(255).round().byte()
        return rearrange(images, "n c h w -> n h w c").cpu().numpy()

    @property
    def _pixels(self) -> int:
        """Pixels along one side of a latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)


def _give_back() -> None:
    """Returns the memory of freed tensors to device and system: in pieces, it may not hold the next ones."""
    torch.cuda.empty_cache()
    give_back()
