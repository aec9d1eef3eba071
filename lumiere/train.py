"""python -m lumiere.train --model assets/models/paper-world --data CLIPS --out RUN

Trains the motion weights of a frozen base model on latents of clips. A run that was stopped, at any moment
and by anything, goes on from its last checkpoint when the same command is given again.
"""

import argparse
import copy
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from diffusers import DDIMScheduler
from torch import Tensor
from tqdm import tqdm

from lumiere.adapters import SCHEDULE, is_adapter, load_weights
from lumiere.allocator import keep_freed_memory
from lumiere.clipfolder import Size, encode_clips
from lumiere.conditioning import channels
from lumiere.curves import plot_losses
from lumiere.data import CAPTIONS, LATENTS, LatentClips
from lumiere.folder import PREVIEW, check, locate, locate_motion, read_json, read_limits
from lumiere.inflate import Lumiere
from lumiere.loading import load_model
from lumiere.lora import Styler
from lumiere.motion import save_motion
from lumiere.optimizer import MatrixOptimizer, relative_rate
from lumiere.pipeline import GenerationError, LumierePipeline
from lumiere.preview import LatentPreview
from lumiere.request import Request
from lumiere.sampling import correlated
from lumiere.style import Style
from lumiere.text import Text, TextReader
from lumiere.video import write_clip

PRECISIONS = ("no", "bf16")
CHECKPOINT, METRICS, MOTION = "checkpoint.pt", "metrics.jsonl", "motion"
PLOT, SAMPLES = "loss.png", "samples"
NOISE_CORRELATION = 0.9  # of fresh weights: what frames share, the base makes the same of in each of them
RECENT = 100  # steps, whose mean loss is told


def faster_precision() -> str:
    """Half precision, but for processors that do not multiply in it: there it is up to twice as slow."""
    cpu = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if torch.accelerator.is_available() or cpu else "no"


def option(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """One training: the options of the command line. Raises ValueError in words for values that cannot be."""

    model: str
    data: str
    out: str
    init: str | None = None
    size: int = option(0, "pixels along the sides of clips that are encoded; the base's own unless given")
    stride: int = option(1, "clips are also seen this many times as fast, at most")
    factor: int = option(4, "temporal downsample factor of fresh motion weights")
    frames: int = option(16, "length of the clips seen")
    steps: int = option(20_000, "of the optimiser in all; may be raised for a run that is resumed")
    attention_depth: int = option(2, "attention layers at each place of fresh motion weights")
    space_time_depth: int = option(1, "such layers over all pixels and frames, after those over time")
    kernel: int = option(15, "frames that fresh convolutions over time see: far ones agree sooner if many")
    conditioned: int = option(1, "whether fresh layers are told timestep and text: 1 or 0")
    embedding_width: int = option(64, "hidden channels of the adapters of the embedding; 0 for none")
    noise_correlation: float | None = option(
        None, "between frames, 0 up to below 1; for fresh weights 0.9 unless given, for others their own"
    )
    batch: int = option(8, "clips per step, in all processes together")
    accumulation: int = option(1, "passes into which a process divides its part of a step, to save memory")
    learning_rate: float = option(0.02, "at its peak; it falls to zero over the last third of the steps")
    warmup: int = option(100, "steps in which the learning rate rises")
    gradient_norm: float = option(0.3, "at most; single clips can have a hundred times the usual one")
    precision: str = option(faster_precision(), "bf16 for half precision, or no; what is faster here")
    ema: float = option(0.999, "decay of the moving average of the weights, which is the result")
    shift: float = option(1.0, "above 1, noisy timesteps, where motion is decided, are seen more often")
    caption_dropout: float = option(0.1, "share of clips shown without text, which guidance needs")
    given: float = option(0.5, "share of clips of which a part is given; 0 for weights that take no such")
    subject_weight: float = option(3.0, "how much more the loss counts where the subject is")
    save_minutes: float = option(2.0, "between checkpoints")
    sample_steps: int = option(1000, "between clips that are made of the first caption; 0 for none")
    seed: int = option(0, "of fresh weights and all that is drawn")

    def __post_init__(self):
        for name in (
            "frames",
            "steps",
            "stride",
            "batch",
            "accumulation",
            "warmup",
            "factor",
            "attention_depth",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; received {getattr(self, name)}.")
        if not 0 <= self.given <= 1:
            raise ValueError(f"given must be from 0 to 1; received {self.given:g}.")
        for name in ("ema", "caption_dropout", "noise_correlation"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise ValueError(f"{name} must be 0 or more and below 1; received {getattr(self, name):g}.")
        for name in (
            "learning_rate",
            "subject_weight",
            "save_minutes",
            "sample_steps",
            "seed",
            "embedding_width",
            "space_time_depth",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more; received {getattr(self, name):g}.")
        if self.conditioned not in (0, 1):
            raise ValueError(f"conditioned is 1 or 0; received {self.conditioned}.")
        for name in ("shift", "gradient_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0; received {getattr(self, name):g}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}; received {self.precision}.")


def train(settings: Settings) -> Iterator[dict]:
    """Yields the metrics of every step, after it is done. Abandoning it is as safe as killing the process.

    Raises ValueError or OSError in words.
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
    trainer.accelerator.end_training()  # lets go of the other processes


class Trainer:
    """A base model, its motion weights with their moving average, and the clips."""

    def __init__(self, settings: Settings, accelerator: Accelerator):
        self.settings, self.accelerator, self.out = settings, accelerator, Path(settings.out)
        self.step, self.losses = 0, deque(maxlen=RECENT)
        parts = accelerator.num_processes * settings.accumulation
        if settings.batch % parts:
            raise ValueError(
                f"The batch must divide into {accelerator.num_processes} processes x {settings.accumulation} "
                f"passes; received {settings.batch} clips."
            )
        folder = locate(settings.model)
        check(folder)
        self.clips = LatentClips(self._latents(folder))
        self.reader = TextReader.load(Styler(folder, Style()), torch.float32).to(accelerator.device)
        self.lumiere = self._new_lumiere(folder).to(accelerator.device)
        self.schedule = read_json(folder / "scheduler" / "scheduler_config.json")
        if is_adapter(self.lumiere):
            self.schedule |= SCHEDULE
        self.scheduler = DDIMScheduler.from_config(self.schedule)
        self.averaged = copy.deepcopy(self.lumiere).requires_grad_(False)  # of the motion weights alone
        self.optimizer = MatrixOptimizer(self.lumiere.parameters())
        self.model = accelerator.prepare(self.lumiere)

    def advance(self) -> dict:
        """One step of the optimiser; returns its metrics."""
        began, s = time.monotonic(), self.settings
        rate = s.learning_rate * relative_rate(self.step, s.steps, s.warmup)
        loss = self._gradients()
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss of step {self.step + 1} is not a number: lower the learning rate of "
                f"{s.learning_rate:g}; the checkpoint before it is kept."
            )
        norm = self.accelerator.clip_grad_norm_(self.lumiere.parameters(), s.gradient_norm)
        self.optimizer.step(rate)
        self.step += 1
        self._average(min(s.ema, self.step / (self.step + 10)))
        self.losses.append(loss)
        metrics = {
            "step": self.step,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "seconds": time.monotonic() - began,
        }
        if self.accelerator.is_main_process:
            with open(self.out / METRICS, "a", encoding="utf-8") as lines:
                lines.write(json.dumps(metrics) + "\n")
        return metrics

    def save(self) -> None:
        """Checkpoint and averaged motion weights; each file appears whole or not at all. Raises OSError."""
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
            os.replace(part, self.out / CHECKPOINT)
            save_motion(self.averaged, self.out / MOTION, self.facts())
            lines = _metrics_until(self.out / METRICS, self.step)
            plot_losses(*zip(*((line["step"], line["loss"]) for line in lines), strict=True), self.out / PLOT)
        except (OSError, RuntimeError) as error:  # a full disk is either, depending on who writes
            raise OSError(f"cannot save the step {self.step} in {self.out}: {error}.") from error

    def sample(self) -> None:
        """Writes a clip of the first caption, by the averaged weights and always from the same noise.

        One that cannot be made or written is told of, and training goes on.
        """
        if not self.accelerator.is_main_process:
            return
        try:
            height, width = (side * self._pixels for side in self.clips.size)
            size = {"frames": self.settings.frames, "height": height, "width": width}
            *_, result = self._pipeline.generate(Request(self.clips.texts[0][0], seed=0, **size))
            (self.out / SAMPLES).mkdir(exist_ok=True)
            write_clip(self.out / SAMPLES / f"{self.step:07}.mp4", result.frames, result.request.fps)
        except (GenerationError, OSError, ValueError) as error:
            print(f"no clip of step {self.step}: {error}", file=sys.stderr)

    @cached_property
    def _pixels(self) -> int:
        """Along one side of a latent."""
        config = read_json(locate(self.settings.model) / "vae" / "config.json")
        return 2 ** (len(config["block_out_channels"]) - 1)

    @cached_property
    def _pipeline(self) -> LumierePipeline:
        """Of the averaged weights, as they are."""
        folder = locate(self.settings.model)
        return LumierePipeline(
            self.averaged,
            load_model(folder, "vae", torch.float32).to(self.accelerator.device),
            self.reader,
            self.schedule,
            read_limits(folder, self.averaged.downsample_factor),
            LatentPreview.load(folder / PREVIEW) if (folder / PREVIEW).is_file() else None,
        )

    def resume(self) -> None:
        """Goes back to the checkpoint in `out`, when there is one; later lines of the metrics are dropped."""
        file = self.out / CHECKPOINT
        self.out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # of many kinds, as what is in a damaged file
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

    def facts(self) -> dict:
        """What is told about the motion weights beside them."""
        s = self.settings
        names = "frames batch learning_rate ema shift caption_dropout given subject_weight precision".split()
        return {
            "base": Path(s.model).name if Path(s.model).is_dir() else s.model,
            "data": Path(s.data).name,
            "clips": len(self.clips),
            "clips_seen": self.step * s.batch,
            "steps": self.step,
            "steps_planned": s.steps,
            "loss": sum(self.losses) / max(1, len(self.losses)),
            "seed": s.seed,
        } | {name: getattr(s, name) for name in names}

    def _latents(self, folder: Path) -> Path:
        """The folder of latents: the one given, or that into which the clips of the one given are encoded."""
        s, data = self.settings, Path(self.settings.data)
        if (data / CAPTIONS).exists() or (data / LATENTS).exists() or not data.is_dir():
            return data
        cache = self.out / "clips"
        with self.accelerator.main_process_first():
            if self.accelerator.is_main_process:
                limits = read_limits(folder, 1)
                size = Size(s.frames, s.size or limits.default_height, s.size or limits.default_width)
                vae = load_model(folder, "vae", torch.float32).to(self.accelerator.device)
                encode_clips(data, cache, vae, size, lambda words: print(words, file=sys.stderr))
        return cache

    def _new_lumiere(self, folder: Path) -> Lumiere:
        s = self.settings
        base = load_model(folder, "unet", torch.float32)
        if base.config.in_channels != self.clips.channels:
            raise ValueError(
                f"The base model takes latents of {base.config.in_channels} channels; "
                f"those in {s.data} have {self.clips.channels}."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(s.seed)
            lumiere = load_weights(base, locate_motion(s.init)) if s.init else self._fresh(base)
        if s.noise_correlation is not None:
            lumiere.noise_correlation = s.noise_correlation
        if s.frames % lumiere.downsample_factor:
            raise ValueError(
                f"Frames must be a multiple of {lumiere.downsample_factor}; received {s.frames}."
            )
        return lumiere

    def _fresh(self, base) -> Lumiere:
        s = self.settings
        reach = max(1, s.frames // s.factor - 1)  # no two frames of a training clip are further apart
        attention = {"depth": s.attention_depth, "space_time_depth": s.space_time_depth}
        attention |= {"rotary": True, "window": reach}
        convolution = {"conv1d_kernel_size": s.kernel, "norm": "clip"}
        return Lumiere.from_unet(
            base,
            s.factor,
            at_input=True,
            conditioned=bool(s.conditioned),
            conv_inflation_kwargs=convolution,
            attn_inflation_kwargs=attention,
            given_channels=self.clips.channels + 1 if s.given else 0,
            embedding_width=s.embedding_width,
            noise_correlation=NOISE_CORRELATION,
        )

    def _gradients(self) -> float:
        """Adds up the gradients of the whole batch; returns its loss, the mean over all processes."""
        s, total = self.settings, torch.zeros((), device=self.accelerator.device)
        share = s.batch // (self.accelerator.num_processes * s.accumulation)
        for part in range(s.accumulation):
            first = (part * self.accelerator.num_processes + self.accelerator.process_index) * share
            if part + 1 < s.accumulation:
                with self.accelerator.no_sync(self.model):
                    total += self._pass(range(first, first + share))
            else:
                total += self._pass(range(first, first + share))
        return self.accelerator.reduce(total, "mean").item()

    def _pass(self, clips: range) -> Tensor:
        """Forward and backward for some clips of the batch; returns their part of the loss."""
        s, device = self.settings, self.accelerator.device
        shown = s.given if self.lumiere.given_channels else 0.0
        batch = self.clips.draw(
            self.step, clips, s.batch, s.frames, s.seed, s.caption_dropout, shown, s.stride
        )
        clean, noise, subject = (x.to(device) for x in (batch.latents, batch.noise, batch.subject))
        noise = correlated(noise, self.lumiere.noise_correlation)
        times = s.shift * batch.times / (1 + (s.shift - 1) * batch.times)
        timesteps = (times * self.scheduler.config.num_train_timesteps).long().to(device)
        noisy, target = noise_and_target(self.scheduler, clean, noise, timesteps)
        if self.lumiere.given_channels:
            noisy = torch.cat([noisy, channels(clean, batch.given.to(device))], dim=1)
        text = self._encode(batch.texts)
        predicted = self.model(noisy, timesteps, return_dict=False, **text.arguments)[0]
        loss = weighted_error(predicted, target, 1 + s.subject_weight * subject) / s.accumulation
        self.accelerator.backward(loss)
        return loss.detach()

    def _encode(self, texts: list[str]) -> Text:
        return self.reader(texts, *(side * self._pixels for side in self.clips.size))

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        ours, theirs = list(self.averaged.parameters()), list(self.lumiere.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)


def noise_and_target(scheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """What the model is shown and should answer, at timesteps (b,), for clean and noise `b ...`."""
    kind = scheduler.config.prediction_type
    if kind not in ("v_prediction", "epsilon"):
        raise ValueError(f"The base model should predict v_prediction or epsilon; its config says {kind}.")
    target = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, timesteps)
    return scheduler.add_noise(clean, noise, timesteps), target


def weighted_error(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over the clips (the first axis) of the weighted mean squared error of each.

    Each clip is weighted within itself, so that the mean over parts of a batch is that of the whole.
    """
    error = (weight * (predicted.float() - target).square()).flatten(1).mean(1)
    return (error / weight.flatten(1).mean(1)).mean()


def _metrics_until(file: Path, step: int) -> list[dict]:
    """The lines of earlier steps, each once: a killed run leaves steps that are repeated, or half a line."""
    lines = []
    for text in file.read_text("utf-8").splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if line["step"] <= step:
            lines.append(line)
    return lines


EXAMPLES = """examples:
  python -m lumiere.train --model assets/models/paper-world --data data/clips --out runs/motion
  accelerate launch --num_processes 2 -m lumiere.train --model assets/models/paper-world \\
      --data data/clips --out runs/motion --batch 8 --steps 50000
"""


def parser() -> argparse.ArgumentParser:
    text = argparse.ArgumentParser(
        prog="python -m lumiere.train",
        description="Trains the motion weights of a frozen text-to-image model on clips.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = text.add_argument
    add("--model", required=True, help="base model: folder in the diffusers layout, or hub id")
    add("--data", required=True, help="clips with metadata.jsonl or .txt files, or latents (see data.py)")
    add("--out", required=True, help="folder of the run: checkpoint, metrics, and motion/, the result")
    add("--init", metavar="FOLDER", help="motion weights to start from, instead of fresh ones")
    for entry in fields(Settings)[4:]:
        kind = float if entry.default is None else type(entry.default)
        add(
            f"--{entry.name.replace('_', '-')}",
            type=kind,
            default=entry.default,
            choices=PRECISIONS if entry.name == "precision" else None,
            metavar={int: "N", float: "X", str: None}[kind],
            help=entry.metadata["help"] + (" (%(default)s)" if entry.default is not None else ""),
        )
    return text


def main(arguments: list[str] | None = None) -> int:
    """Trains under a progress bar and returns the exit status; what goes wrong is one sentence on stderr."""
    options = parser().parse_args(arguments)
    keep_freed_memory()
    try:
        show(Settings(**vars(options)))
    except (ValueError, OSError) as failure:
        print(failure, file=sys.stderr)
        return 2 if isinstance(failure, ValueError) else 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def show(settings: Settings) -> None:
    """Trains under a progress bar, which tells the time left and the loss, smoothed."""
    with ExitStack() as stack:
        bar = None
        for metrics in train(settings):
            if bar is None:  # only now: what was done before a resumed run is part of it
                quiet, mean = not PartialState().is_main_process, metrics["loss"]
                bar = tqdm(total=settings.steps, initial=metrics["step"] - 1, unit="step", disable=quiet)
                stack.enter_context(bar)
            mean += 0.02 * (metrics["loss"] - mean)
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            bar.update()
    if bar is None:
        print(f"{settings.out} has had its {settings.steps} steps; --steps may be raised.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
