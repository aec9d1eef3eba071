"""From a request to the frames of a clip: encode prompt, noise, schedule, denoise, decode."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import codec, memory
from .assembly import assemble, cost_of
from .codec import GenerationError
from .conditioning import Given, blend, put_back
from .denoising import Denoising
from .drafts import LOOKS, generators
from .forecaster import Forecaster
from .inflate import Lumiere
from .lora import Styler
from .opener import Opener
from .prediction import BATCH_LATENTS, Predictor, rows_at_once
from .preview import LatentPreview, Preview, synthetic_pictures
from .request import Limits, Request
from .steady import steady
from .style import Style
from .table import Model
from .text import Text, TextReader
from .turns import Planner
from .windows import grow, joined


@dataclass(frozen=True)
class Progress:
    """One finished step. seconds: since the run began. preview(): predicted clip, small, uint8 (t h w c).

    length: frames of the clip so far, which the preview stands for; less than asked for while a clip grows.
    stills: whether it drew what a clip begins as: how long that took tells nothing of the other steps.
    """

    step: int
    steps: int
    seconds: float
    length: int
    preview: Callable[[], np.ndarray]
    stills: bool = False


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
    denoised again where motion is decided (revisions.py). drafts: of a clip or of its first part; one of them
    is gone on with (drafts.py). cost: of memory, measured when first asked for unless given.
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
        size = self._latents(request)
        latents = request.frames * size[0] * size[1]
        if self.device.type == "cpu" and latents <= BATCH_LATENTS:
            return
        _, made = self._planner.windows(request, given)
        frames = max(
            x.stop - x.start for window in made for x in self.predictor.parts(window.stop - window.start)
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
        codec.give_back_memory()  # out here: the except block would keep the tensors alive
        raise GenerationError("the device ran out of memory: lower frames, height or width.")

    def _steps(
        self, request: Request, stopped: Callable[[], bool], given: Given | None
    ) -> Iterator[Progress | Result]:
        began = time.monotonic()
        known = self.encode_given(given, whole=request.strength < 1) if given else None
        planner = self._planner
        begun, turns = planner.turns(request, given)
        clip = known[0][:, :, :begun] if begun else None
        denoising = Denoising(
            predict=self.predictor,
            planner=planner,
            forecaster=self.forecaster,
            opener=self.opener,
            shape=(self.vae.config.latent_channels, *self._latents(request)),
            text=self.encode_prompt(request),
            known=known,
            draws=list(generators(request.seed, turns[0].drafts)),
            stopped=stopped,
        )
        steps, done = sum(turn.steps for turn in turns), 0
        for turn in turns:
            window, end, draft = turn.window, done + turn.steps, None
            for number, draft in enumerate(denoising.turn(turn, clip)):
                done += 1
                preview = partial(self.preview, joined(clip, draft.clean, window))
                stills = turn.draws_stills and number == 0
                yield Progress(done, steps, time.monotonic() - began, window.stop, preview, stills)
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
        return codec.encode(self.vae, given, self.device, whole)

    def _latents(self, request: Request) -> tuple[int, int]:
        """Height and width of a frame in latents."""
        pixels = codec.pixels_of(self.vae)
        return request.height // pixels, request.width // pixels

    @property
    def _planner(self) -> Planner:
        told = (net.config.frames if net else 0 for net in (self.forecaster, self.opener))
        settings = self.growth, self.guided_above, self.revisions, self.drafts
        return Planner(self.scheduler_config, *settings, *told)

    @property
    def predictor(self) -> Predictor:
        """What calls the model at each step."""
        return Predictor(self.lumiere, self.device, self.dtype, self.window)

    def frames_shown(self, request: Request, given: Given | None = None) -> int:
        """Frames that the model sees at most while it makes a clip: in all steps, drafts and texts."""
        shown, texts = 0, 1 if request.guidance == 1 else 2
        for turn in self._planner.turns(request, given)[1]:
            frames = sum(part.stop - part.start for part in self.predictor.parts(turn.frames))
            first, more = turn.passes[0], turn.drafts - 1
            steps = turn.denoising_steps + more * (first.stop - first.start)
            shown += frames * (texts * steps + (LOOKS * turn.drafts if more else 0))
            shown += turn.draws_stills * turn.drafts * texts * turn.request.steps
        return shown

    def seams(self, frames: int) -> list[int]:
        """The frames at which something else begins to be denoised, in a clip of which nothing is given."""
        if self.growth is not None:
            return [turn.stop for turn in grow(frames, *self.growth)[:-1]]
        edges = {edge for part in self.predictor.parts(frames) for edge in (part.start, part.stop)}
        return sorted(edges - {0, frames})

    def decode(self, latents: Tensor) -> np.ndarray:
        """Scaled latents (1 c t h w) -> uint8 (t h w c). Raises GenerationError as `codec.decode` does."""
        return codec.decode(self.vae, latents)
