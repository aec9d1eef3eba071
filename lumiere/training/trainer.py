"""Trains the motion weights of a frozen base model on latents of clips.

A run may be interrupted at any moment. Starting it again with the same settings resumes from the last
checkpoint.
"""

import copy
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lumiere.errors import GenerationError
from lumiere.events import Result
from lumiere.loading.components import load_base, load_model
from lumiere.loading.layout import check, locate, locate_motion, read_limits
from lumiere.media.video import write_clip
from lumiere.model.animatediff import load_weights, schedule_for
from lumiere.model.conditioning import channels
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_files import read_json
from lumiere.model.motion_weights import save_motion
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.sampling.noise import correlated
from lumiere.training.config import Settings
from lumiere.training.latent_dataset import CAPTIONS, LATENTS, Batch, LatentClips, draw_length
from lumiere.training.loss import min_snr, noise_and_target, noise_levels, scale_common, weighted_error
from lumiere.training.loss_plot import plot_losses
from lumiere.training.optimizer import MatrixOptimizer, plain_attention, relative_rate
from lumiere.training.text_cache import TextCache, cache_texts
from lumiere.training.video_folder import Size, encode_clips

CHECKPOINT, METRICS, MOTION = "checkpoint.pt", "metrics.jsonl", "motion"
PLOT, SAMPLES = "loss.png", "samples"
NOISE_CORRELATION = 0.9  # of fresh weights: the base turns noise shared by frames into shared content
RECENT = 100  # steps in the mean loss of the metadata


def train(settings: Settings) -> Iterator[dict[str, Any]]:
    """Trains the motion weights and yields the metrics of each finished step.

    Closing the generator early is as safe as killing the process.

    Args:
        settings: training settings.

    Raises:
        ValueError: settings, clips and base model do not fit each other, or the loss is not finite.
        OSError: a file is missing or damaged, or cannot be written.
    """
    trainer = Trainer(settings, Accelerator(mixed_precision=settings.precision))
    trainer.resume()
    saved = time.monotonic()
    while trainer.step < settings.steps:
        metrics = trainer.advance()
        if trainer.step == settings.steps or time.monotonic() - saved >= 60 * settings.save_minutes:
            trainer.save()
            saved = time.monotonic()
        if settings.sample_steps and trainer.step % settings.sample_steps == 0:
            trainer.sample()
        yield metrics
    trainer.accelerator.end_training()  # releases the other processes


class Trainer:
    """The state of a training run: base model, motion weights with their moving average, optimizer and clips.

    Args:
        settings: training settings.
        accelerator: distributes the batch over processes.

    Raises:
        ValueError: settings, clips and base model do not fit each other.
        OSError: a file is missing or damaged.
    """

    def __init__(self, settings: Settings, accelerator: Accelerator):
        self.settings, self.accelerator, self.out = settings, accelerator, Path(settings.out)
        self.step = 0
        self.losses: deque[float] = deque(maxlen=RECENT)
        parts = accelerator.num_processes * settings.grad_accum
        if settings.batch_size % parts:
            raise ValueError(
                f"The batch must divide into {accelerator.num_processes} processes x {settings.grad_accum} "
                f"passes; received {settings.batch_size} clips."
            )
        folder = locate(settings.model)
        check(folder)
        latents = self._latents(folder)
        self.clips = LatentClips(latents)
        self.captions = self._captions(folder, latents)
        self.lumiere = self._new_lumiere(folder).to(accelerator.device)
        schedule = read_json(folder / "scheduler" / "scheduler_config.json") | schedule_for(self.lumiere)
        self.scheduler = DDIMScheduler.from_config(schedule)
        if settings.gradient_checkpointing:
            self.lumiere.enable_gradient_checkpointing()
        self.averaged = copy.deepcopy(self.lumiere).requires_grad_(False)  # copies only the motion weights
        self.optimizer = MatrixOptimizer(self.lumiere.parameters())
        self.model = accelerator.prepare(self.lumiere)

    def advance(self) -> dict[str, Any]:
        """Runs one optimizer step and returns its metrics.

        Raises:
            ValueError: the loss or the gradient is not finite.
        """
        began, s = time.monotonic(), self.settings
        frames = length_of(s, self.step, self.lumiere.downsample_factor)
        rate = s.learning_rate * relative_rate(self.step, s.steps, s.warmup, s.decay)
        loss = self._gradients()
        norm = self.accelerator.clip_grad_norm_(self.lumiere.parameters(), s.max_grad_norm)
        for name, value in {"loss": loss, "gradient": float(norm)}.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"The {name} of step {self.step + 1} is not a number: lower the learning rate of "
                    f"{s.learning_rate:g}; the checkpoint before it is kept."
                )
        self.optimizer.step(rate)
        self.step += 1
        self._average(min(s.ema, self.step / (self.step + 10)))
        self.losses.append(loss)
        metrics = {
            "step": self.step,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "frames": frames,
            "seconds": time.monotonic() - began,
        }
        if self.accelerator.is_main_process:
            with open(self.out / METRICS, "a", encoding="utf-8") as lines:
                lines.write(json.dumps(metrics) + "\n")
        return metrics

    def save(self) -> None:
        """Writes the checkpoint, the averaged motion weights and the loss plot, each file atomically.

        Raises:
            OSError: a file cannot be written.
        """
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "motion": self.lumiere.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.out / f"{CHECKPOINT}.part"
        try:
            with open(part, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            save_motion(self.averaged, self.out / MOTION, self.facts())  # first: the checkpoint marks it done
            os.replace(part, self.out / CHECKPOINT)
            lines = _metrics_until(self.out / METRICS, self.step)
            steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
            plot_losses(steps, losses, self.out / PLOT)
        except (OSError, RuntimeError) as error:  # a full disk raises either, depending on the writer
            raise OSError(f"cannot save the step {self.step} in {self.out}: {error}.") from error

    def sample(self) -> None:
        """Writes a clip of the first caption, from the averaged weights and always the same noise.

        A failure is printed on stderr, and training continues.
        """
        if not self.accelerator.is_main_process:
            return
        try:
            height, width = self._size
            prompt, frames = self.clips.texts[0][0], self.settings.frames
            request = Request(prompt, frames=frames, height=height, width=width, seed=0)
            *_, result = self._pipeline.generate(request)
            assert isinstance(result, Result) and result.request.fps is not None  # the pipeline fills it in
            (self.out / SAMPLES).mkdir(exist_ok=True)
            write_clip(self.out / SAMPLES / f"{self.step:07}.mp4", result.frames, result.request.fps)
        except (GenerationError, OSError, ValueError) as error:
            print(f"no clip of step {self.step}: {error}", file=sys.stderr)

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Height and width of the clips in pixels."""
        config = read_json(locate(self.settings.model) / "vae" / "config.json")
        height, width = (2 ** (len(config["block_out_channels"]) - 1) * side for side in self.clips.size)
        return height, width

    @cached_property
    def _pipeline(self) -> LumierePipeline:
        """Pipeline with the averaged motion weights."""
        folder = locate(self.settings.model)
        base = load_base(folder, self.averaged.dtype, self.averaged.model).to(self.averaged.device)
        return LumierePipeline(base, self.averaged, folder=folder)

    def resume(self) -> None:
        """Restores the checkpoint in `out`, if any, and drops the metrics of later steps.

        Raises:
            OSError: the checkpoint is damaged.
            ValueError: the checkpoint belongs to another model or temporal downsampling factor.
        """
        file = self.out / CHECKPOINT
        self.out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # damaged files raise many kinds of errors
                raise OSError(
                    f"cannot read {file} ({type(error).__name__}): remove it to begin anew."
                ) from error
            try:
                self.lumiere.load_state_dict(state["motion"])
                self.averaged.load_state_dict(state["averaged"])
            except RuntimeError:
                raise ValueError(
                    f"The checkpoint in {self.out} belongs to another model or factor: name another folder."
                ) from None
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
        lines = _metrics_until(self.out / METRICS, self.step)
        self.losses.extend(line["loss"] for line in lines)
        if self.accelerator.is_main_process:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self.out / f"{METRICS}.part").write_text(text, "utf-8")
            os.replace(self.out / f"{METRICS}.part", self.out / METRICS)
        self.accelerator.wait_for_everyone()

    def facts(self) -> dict[str, Any]:
        """Returns the metadata stored with the motion weights: training data, progress and settings."""
        s = self.settings
        names = (
            "frames min_frames batch_size learning_rate decay ema shift spread min_snr caption_dropout "
            "cond_prob continued from_start cond_noise subject_weight common_weight precision"
        )
        return {
            "base": Path(s.model).name if Path(s.model).is_dir() else s.model,
            "data": Path(s.data).name,
            "clips": len(self.clips),
            "clips_seen": self.step * s.batch_size,
            "steps": self.step,
            "steps_planned": s.steps,
            "loss": sum(self.losses) / max(1, len(self.losses)),
            "seed": s.seed,
        } | {name: getattr(s, name) for name in names.split()}

    def _latents(self, folder: Path) -> Path:
        """Returns the folder of latents; encodes a folder of video files first."""
        s, data = self.settings, Path(self.settings.data)
        if (data / CAPTIONS).exists() or (data / LATENTS).exists() or not data.is_dir():
            return data
        cache = self.out / "clips"
        with self.accelerator.main_process_first():
            if self.accelerator.is_main_process:
                limits = read_limits(folder, 1)
                size = Size(s.frames, s.size or limits.default_height, s.size or limits.default_width, s.fps)
                vae = load_model(folder, "vae", torch.float32).to(self.accelerator.device)
                encode_clips(data, cache, vae, size, lambda words: print(words, file=sys.stderr))
        return cache

    def _captions(self, folder: Path, latents: Path) -> TextCache:
        """Encodes all captions and the empty one, cached beside the latents if that folder is writable."""
        where = latents if os.access(latents, os.W_OK) else self.out
        texts = {"", *(text for several in self.clips.texts for text in several)}
        with self.accelerator.main_process_first():
            return cache_texts(where, texts, folder, self._size, self.accelerator.device)

    def _new_lumiere(self, folder: Path) -> Lumiere:
        s = self.settings
        base: UNet2DConditionModel = load_model(folder, "unet", torch.float32)
        if base.config.in_channels != self.clips.channels:
            raise ValueError(
                f"The base model takes latents of {base.config.in_channels} channels; "
                f"those in {s.data} have {self.clips.channels}."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(s.seed)
            lumiere = load_weights(base, locate_motion(s.init)) if s.init else self._fresh(base)
        if s.cond_prob and not lumiere.cond_channels:
            lumiere.add_cond_channels(self.clips.channels + 1)
        if s.noise_correlation is not None:
            lumiere.noise_correlation = s.noise_correlation
        for name, frames in (("frames", s.frames), ("min_frames", s.min_frames)):
            if frames % lumiere.downsample_factor:
                raise ValueError(
                    f"{name} must be a multiple of {lumiere.downsample_factor}; received {frames}."
                )
        return lumiere

    def _fresh(self, base: UNet2DConditionModel) -> Lumiere:
        s = self.settings
        reach = max(1, s.frames // s.factor - 1)  # largest distance between frames of a training clip
        attention: dict[str, int] = {"depth": s.attention_depth, "space_time_depth": s.space_time_depth}
        attention |= {"rotary": True, "window": reach}
        convolution: dict[str, Any] = {
            "conv1d_kernel_size": s.temporal_kernel,
            "padding_mode": s.padding_mode,
        }
        return Lumiere.from_unet(
            base,
            s.factor,
            at_input=True,
            conditioned=bool(s.conditioned),
            conv_inflation_kwargs=convolution | {"norm": "clip"},
            attn_inflation_kwargs=attention,
            cond_channels=self.clips.channels + 1 if s.cond_prob else 0,
            embedding_width=s.embedding_width,
            noise_correlation=NOISE_CORRELATION,
        )

    def _gradients(self) -> float:
        """Accumulates the gradients of the batch; returns its loss, averaged over all processes."""
        total = torch.zeros((), device=self.accelerator.device)
        *others, last = next(self._batches)
        for batch in others:
            with self.accelerator.no_sync(self.model):
                total += self._pass(batch)
        total += self._pass(last)
        return self.accelerator.reduce(total, "mean").item()

    @property
    def _passes(self) -> list[range]:
        """Clip numbers of each forward and backward pass of this process."""
        s, processes = self.settings, self.accelerator.num_processes
        share = s.batch_size // (processes * s.grad_accum)
        parts = range(self.accelerator.process_index, processes * s.grad_accum, processes)
        return [range(part * share, (part + 1) * share) for part in parts]

    @cached_property
    def _batches(self) -> Iterator[list[Batch]]:
        """Yields, for each step, one batch per pass; `workers` processes prefetch them."""
        settings = self.settings if self.lumiere.cond_channels else replace(self.settings, cond_prob=0.0)
        draws = _Draws(self.clips, self._passes, settings, self.lumiere.downsample_factor)
        return iter(
            DataLoader(
                draws,
                batch_size=None,  # `_Draws` returns whole batches
                sampler=count(self.step),
                num_workers=self.settings.workers,
                generator=torch.Generator(),  # the default draws a seed from the global generator
            )
        )

    def _pass(self, batch: Batch) -> Tensor:
        """Runs forward and backward for some clips of a step; returns their part of the loss."""
        s, device = self.settings, self.accelerator.device
        latents, noise, subject = (x.to(device) for x in (batch.latents, batch.noise, batch.subject))
        noise = correlated(noise, self.lumiere.noise_correlation)
        times = noise_levels(batch.times, s.shift, s.spread)
        timesteps = (times * self.scheduler.config.num_train_timesteps).long().to(device)
        noisy, target = noise_and_target(self.scheduler, latents, noise, timesteps)
        if self.lumiere.cond_channels:
            noisy = torch.cat([noisy, channels(batch.cond.to(device), batch.cond_mask.to(device))], dim=1)
        text = self.captions(batch.texts, device)
        count = min_snr(self.scheduler, timesteps, s.min_snr) if s.min_snr else None
        with plain_attention(device):  # backward included: gradient checkpointing recomputes blocks
            predicted = self.model(noisy, timesteps, return_dict=False, **text.arguments)[0]
            if s.common_weight != 1:
                predicted, target = (scale_common(x.float(), s.common_weight) for x in (predicted, target))
            loss = weighted_error(predicted, target, 1 + s.subject_weight * subject, count) / s.grad_accum
            self.accelerator.backward(loss)
        return loss.detach()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        ours: list[Tensor] = list(self.averaged.parameters())
        theirs: list[Tensor] = list(self.lumiere.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)


@dataclass(frozen=True)
class _Draws(Dataset[list[Batch]]):
    """The batches of one process by step: one for each pass."""

    clips: LatentClips
    passes: list[range]
    settings: Settings
    factor: int

    def __getitem__(self, step: int) -> list[Batch]:
        frames = length_of(self.settings, step, self.factor)
        settings = replace(self.settings, frames=frames, min_frames=0)
        return [self.clips.draw(step, clips, settings) for clips in self.passes]


def length_of(settings: Settings, step: int, factor: int) -> int:
    """Returns the number of frames of all clips of a step.

    Args:
        settings: training settings.
        step: training step, from 0.
        factor: temporal downsampling factor; lengths are `min_frames` plus multiples of it.
    """
    min_frames = settings.min_frames or settings.frames
    return draw_length(range(min_frames, settings.frames + 1, factor), step, settings.seed)


def _metrics_until(file: Path, step: int) -> list[dict[str, Any]]:
    """Reads the metrics up to a step. A killed run leaves later steps, which will repeat, or half a line."""
    lines = []
    for text in file.read_text("utf-8").splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if line["step"] <= step:
            lines.append(line)
    return lines


def show(settings: Settings) -> None:
    """Trains with a progress bar that shows the remaining time and the smoothed loss.

    Args:
        settings: training settings.

    Raises:
        ValueError: see `train`.
        OSError: see `train`.
    """
    with ExitStack() as stack:
        bar = None
        for metrics in train(settings):
            if bar is None:  # created late: the first metrics give the initial step of a resumed run
                quiet, mean = not PartialState().is_main_process, metrics["loss"]
                bar = tqdm(total=settings.steps, initial=metrics["step"] - 1, unit="step", disable=quiet)
                stack.enter_context(bar)
            mean += 0.02 * (metrics["loss"] - mean)
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            bar.update()
    if bar is None:
        print(f"{settings.out} has had its {settings.steps} steps; --steps may be raised.", file=sys.stderr)
