"""Training settings and the command line options built from them."""

import argparse
import math
from dataclasses import dataclass, field, fields

from lumiere.training.optimizer import DECAY, faster_precision

CLIPS, FRESH, NOISE, STEPS, RUN = "clips", "fresh motion weights", "noise and loss", "steps", "the run"


def option(
    default,
    group: str,
    help: str,
    least: float | None = None,
    choices: tuple[str, ...] | None = None,
    **limits: float,
):
    """Declares a setting with its command line option.

    Args:
        default: default value.
        group: heading in the help.
        help: help text.
        least: same as `least` in `limits`.
        choices: valid strings.
        limits: inclusive bounds `least` and `most`, exclusive bounds `above` and `below`.
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

    size: int = option(0, CLIPS, "pixels along the sides of clips that are encoded; the base's own if 0", 0)
    frames: int = option(16, CLIPS, "length of the clips seen", 1)
    shortest: int = option(0, CLIPS, "if above 0, lengths from this to --frames, another for each step", 0)
    stride: int = option(1, CLIPS, "clips are also seen this many times as fast, at most", 1)
    caption_dropout: float = option(
        0.1, CLIPS, "share of clips shown without text, which guidance needs", 0, below=1
    )
    given: float = option(
        0.5, CLIPS, "share of clips of which a part is given; 0 for weights that take no such", 0, most=1
    )
    continued: float = option(
        0.2, CLIPS, "share of those of which the first frames are given, up to half of them", 0, most=1
    )
    from_start: float = option(
        0.0, CLIPS, "share of clips seen from their first frame on, which is what is given of them", 0, most=1
    )
    cond_noise: float = option(
        0.0, CLIPS, "noise on given latents, at most, as a standard deviation: sampling gives made ones", 0
    )

    factor: int = option(4, FRESH, "frames are this many times fewer on the coarsest level", 1)
    attention_depth: int = option(2, FRESH, "attention layers over time at each place", 1)
    space_time_depth: int = option(1, FRESH, "such layers over all pixels and frames, after those", 0)
    kernel: int = option(15, FRESH, "frames that convolutions see: far ones agree sooner if many", 1)
    padding_mode: str = option(
        "zeros",
        FRESH,
        "what convolutions see beyond an edge; circular: the opposite edge",
        choices=("zeros", "circular"),
    )
    conditioned: int = option(1, FRESH, "whether layers are told timestep and text: 1 or 0", 0, most=1)
    embedding_width: int = option(64, FRESH, "hidden channels of adapters of the embedding; 0 for none", 0)

    noise_correlation: float | None = option(
        None, NOISE, "between frames; for fresh weights 0.9 unless given, for others their own", 0, below=1
    )
    shift: float = option(
        1.0, NOISE, "above 1, noisy timesteps, where motion is decided, are seen more often", above=0
    )
    spread: float = option(
        1.0, NOISE, "below 1, timesteps keep nearer to the median, which is shift / (1 + shift)", above=0
    )
    min_snr: float = option(
        0.0, NOISE, "if above 0, no timestep counts for more than one of this ratio of signal to noise", 0
    )
    subject_weight: float = option(3.0, NOISE, "how much more the loss counts where the subject is", 0)
    common_weight: float = option(
        1.0, NOISE, "below 1, an error that all frames of a clip share counts less than how they differ", 0
    )

    steps: int = option(20_000, STEPS, "of the optimiser in all; may be raised for a run that is resumed", 1)
    batch: int = option(8, STEPS, "clips per step, in all processes together", 1)
    accumulation: int = option(1, STEPS, "passes in which a process does its part, to save memory", 1)
    checkpointing: int = option(
        0, STEPS, "1 to compute blocks again going backward: less memory, a third more time", 0, most=1
    )
    learning_rate: float = option(0.02, STEPS, "at its peak", 0)
    decay: float = option(
        DECAY, STEPS, "share of the steps, at the end, over which it falls to zero", 0, most=1
    )
    warmup: int = option(100, STEPS, "steps in which the learning rate rises", 1)
    gradient_norm: float = option(
        0.3, STEPS, "at most; single clips can have a hundred times the usual one", above=0
    )
    ema: float = option(
        0.999, STEPS, "decay of the moving average of the weights, which is the result", 0, below=1
    )
    precision: str = option(
        faster_precision(),
        STEPS,
        "bf16 for half precision, or no; what is faster here",
        choices=("no", "bf16"),
    )

    save_minutes: float = option(2.0, RUN, "between checkpoints", 0)
    sample_steps: int = option(1000, RUN, "between clips that are made of the first caption; 0 for none", 0)
    workers: int = option(0, RUN, "processes that draw clips ahead: some for a GPU, which waits else", 0)
    seed: int = option(0, RUN, "of fresh weights and all that is drawn", 0)

    def __post_init__(self):
        for entry in fields(self):
            value = getattr(self, entry.name)
            limits, choices = (entry.metadata.get(name) for name in ("limits", "choices"))
            if limits and value is not None and not _within(value, **limits):
                raise ValueError(f"{entry.name} must be {_in_words(**limits)}; received {value:g}.")
            if choices and value not in choices:
                raise ValueError(f"{entry.name} is one of {', '.join(choices)}; received {value}.")
        if self.shortest > self.frames:
            raise ValueError(f"shortest must be at most frames, {self.frames}; received {self.shortest}.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each setting with a default to an argument parser, in groups."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for entry in fields(Settings):
        if not entry.metadata:
            continue
        group, told = entry.metadata["group"], entry.metadata["help"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        kind = float if entry.default is None else type(entry.default)
        groups[group].add_argument(
            f"--{entry.name.replace('_', '-')}",
            type=kind,
            default=entry.default,
            choices=entry.metadata["choices"],
            metavar={int: "N", float: "X", str: None}[kind],
            help=told + (" (%(default)s)" if entry.default is not None else ""),
        )


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
