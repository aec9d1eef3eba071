"""Training settings and the command line options built from them."""

import argparse
import math
from dataclasses import dataclass, field, fields
from typing import TypeVar

from lumiere.training.optimizer import DECAY, faster_precision

METAVARS = {int: "N", float: "X", str: None}
ALIASES = {  # flags of version 0.1, accepted until 0.3
    "--batch": "batch_size",
    "--accumulation": "grad_accum",
    "--gradient-norm": "max_grad_norm",
    "--checkpointing": "gradient_checkpointing",
    "--kernel": "temporal_kernel",
    "--shortest": "min_frames",
    "--given": "cond_prob",
}
T = TypeVar("T")
CLIPS, FRESH, NOISE, STEPS, RUN = "clips", "fresh motion weights", "noise and loss", "steps", "run"


def option(
    default: T,
    group: str,
    help: str,
    least: float | None = None,
    choices: tuple[str, ...] | None = None,
    **limits: float,
) -> T:
    """Declares a setting with its command line option.

    Args:
        default: default value.
        group: heading in the help.
        help: help text.
        least: same as `least` in `limits`.
        choices: valid strings.
        **limits: inclusive bounds `least` and `most`, exclusive bounds `above` and `below`.
    """
    limits |= {} if least is None else {"least": least}
    told = {"group": group, "help": help, "limits": limits, "choices": choices}
    return field(default=default, metadata=told)


@dataclass(frozen=True)
class Settings:
    """Settings of a training run, one per command line option; the help texts describe them.

    Raises:
        ValueError: a value is out of range or not a valid choice.
    """

    model: str
    data: str
    out: str
    init: str | None = None

    size: int = option(
        0, CLIPS, "height and width in pixels of encoded clips; 0: the base model's own size", 0
    )
    frames: int = option(16, CLIPS, "frames per clip", 1)
    min_frames: int = option(
        0, CLIPS, "0: all clips have --frames; else each step draws a length from here to --frames", 0
    )
    fps: int = option(
        0, CLIPS, "frames per second to which video files are brought; 0: each clip's own rate", 0, most=60
    )
    stride: int = option(1, CLIPS, "largest temporal stride: clips play up to this many times as fast", 1)
    caption_dropout: float = option(
        0.1, CLIPS, "share of clips with an empty caption, for classifier-free guidance", 0, below=1
    )
    cond_prob: float = option(
        0.5, CLIPS, "share of clips with conditioning pixels; 0: no conditioning channels", 0, most=1
    )
    continued: float = option(
        0.2, CLIPS, "share of these conditioned on their first frames, up to half of the clip", 0, most=1
    )
    from_start: float = option(
        0.0, CLIPS, "share of clips cut at their first frame, which conditions them", 0, most=1
    )
    cond_noise: float = option(
        0.0, CLIPS, "largest standard deviation of the noise on conditioning latents", 0
    )

    factor: int = option(4, FRESH, "temporal downsampling factor of the coarsest level", 1)
    attention_depth: int = option(2, FRESH, "temporal attention layers per block", 1)
    space_time_depth: int = option(
        1, FRESH, "space-time attention layers per block, after the temporal ones", 0
    )
    temporal_kernel: int = option(15, FRESH, "frames per temporal convolution kernel, odd", 1)
    padding_mode: str = option(
        "zeros",
        FRESH,
        "padding of spatial convolutions; circular: the opposite edge",
        choices=("zeros", "circular"),
    )
    conditioned: bool = option(True, FRESH, "layers receive the timestep and text embedding")
    embedding_width: int = option(64, FRESH, "hidden channels of the embedding adapters; 0: none", 0)

    noise_correlation: float | None = option(
        None, NOISE, "between frames; fresh weights default to 0.9, others to their own", 0, below=1
    )
    shift: float = option(1.0, NOISE, "above 1: more noisy timesteps, where motion is decided", above=0)
    spread: float = option(
        1.0, NOISE, "below 1: timesteps closer to the median, shift / (1 + shift)", above=0
    )
    min_snr: float = option(0.0, NOISE, "above 0: Min-SNR loss weights with this gamma", 0)
    subject_weight: float = option(3.0, NOISE, "additional loss weight on the subject", 0)
    common_weight: float = option(1.0, NOISE, "below 1: weight of the error shared by all frames", 0)

    steps: int = option(20_000, STEPS, "optimizer steps; may be raised when a run is resumed", 1)
    batch_size: int = option(8, STEPS, "clips per step, over all processes", 1)
    grad_accum: int = option(1, STEPS, "forward passes per step and process, to save memory", 1)
    gradient_checkpointing: bool = option(
        False, STEPS, "recompute blocks in the backward pass: less memory, a third more time"
    )
    learning_rate: float = option(0.02, STEPS, "peak learning rate", 0)
    decay: float = option(
        DECAY, STEPS, "share of the steps over which the learning rate falls to zero", 0, most=1
    )
    warmup: int = option(100, STEPS, "steps over which the learning rate rises", 1)
    max_grad_norm: float = option(
        0.3, STEPS, "largest gradient norm; single clips can have a hundred times the usual one", above=0
    )
    ema: float = option(
        0.999, STEPS, "decay of the moving average of the weights, which is saved", 0, below=1
    )
    precision: str = option(
        faster_precision(),
        STEPS,
        "bf16: mixed precision; default: the faster one on this machine",
        choices=("no", "bf16"),
    )

    save_minutes: float = option(2.0, RUN, "minutes between checkpoints", 0)
    sample_steps: int = option(1000, RUN, "steps between sample clips of the first caption; 0: none", 0)
    workers: int = option(0, RUN, "data loading processes; a GPU needs some", 0)
    seed: int = option(0, RUN, "seed of fresh weights, clips, masks and noise", 0)

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            limits, choices = (entry.metadata.get(name) for name in ("limits", "choices"))
            if limits and value is not None and not _within(value, **limits):
                raise ValueError(f"{entry.name} must be {_in_words(**limits)}; received {value:g}.")
            if choices and value not in choices:
                raise ValueError(f"{entry.name} is one of {', '.join(choices)}; received {value}.")
        if self.min_frames > self.frames:
            raise ValueError(f"min_frames must be at most frames, {self.frames}; received {self.min_frames}.")


def unused(settings: Settings, encoded: bool) -> list[str]:
    """Returns a sentence for each option that has no effect beside the others.

    Args:
        settings: training settings.
        encoded: whether the data is a folder of latents.
    """
    changed = [each for each in fields(Settings) if "group" in each.metadata]
    changed = [each for each in changed if getattr(settings, each.name) != each.default]
    sentences = []
    if settings.init and (names := [flag(each.name) for each in changed if each.metadata["group"] == FRESH]):
        sentences.append(f"{', '.join(names)}: no effect with --init, whose layers stay as they are.")
    if encoded and (names := [flag(each.name) for each in changed if each.name in ("size", "fps")]):
        sentences.append(f"{', '.join(names)}: no effect on latents, which are encoded already.")
    return sentences


def flag(name: str) -> str:
    """Returns the command line option of a setting."""
    return f"--{name.replace('_', '-')}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each setting with a default to an argument parser, in groups."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for entry in fields(Settings):
        if not entry.metadata:
            continue
        group, told = entry.metadata["group"], entry.metadata["help"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        name, add = flag(entry.name), groups[group].add_argument
        told += " (%(default)s)" if entry.default is not None else ""
        kind: type = float if entry.default is None else type(entry.default)
        if kind is bool:
            add(name, action=argparse.BooleanOptionalAction, default=entry.default, help=told)
        else:
            choices = entry.metadata["choices"]
            add(name, default=entry.default, help=told, metavar=METAVARS[kind], type=kind, choices=choices)
    for old, name in ALIASES.items():
        kind = type(getattr(Settings, name))
        parse = _truth if kind is bool else kind
        parser.add_argument(old, dest=name, type=parse, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _truth(word: str) -> bool:
    return bool(int(word))


def _within(
    value: float,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> bool:
    return least <= value <= most and above < value < below  # False for NaN


def _in_words(**limits: float) -> str:
    if "least" in limits and "most" in limits:
        return "from {least:g} to {most:g}".format(**limits)
    words = {"least": "{:g} or more", "above": "above {:g}", "below": "below {:g}", "most": "at most {:g}"}
    return " and ".join(words[name].format(limits[name]) for name in words if name in limits)
