"""Evaluates the embedded model: judges clips from their pixels and prints figures beside their thresholds.

Every record is saved immediately (records.py), so an interrupted evaluation resumes.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from tqdm import tqdm

from lumiere.events import Progress, Result
from lumiere.loading.layout import locate
from lumiere.loading.registry import DEFAULT
from lumiere.model.conditioning import Given
from lumiere.paperworld.evaluate.figures import Figure, pairs, per_motion
from lumiere.paperworld.evaluate.grid import GRID, SHEET, write_grid, write_sheet
from lumiere.paperworld.evaluate.measures import digest
from lumiere.paperworld.evaluate.records import Record, Records
from lumiere.paperworld.evaluate.rows import CHOOSING_SEED, ROWS, SEED, scene_of
from lumiere.paperworld.evaluate.studio import ClipSource, Setting
from lumiere.paperworld.judge.judge import COLUMNS, accuracy
from lumiere.paperworld.training.autoencoder import to_tensor
from lumiere.paperworld.training.model_folder import EMBEDDED
from lumiere.paperworld.world.captions import canonical
from lumiere.paperworld.world.scene import MOTIONS
from lumiere.pipeline import LumierePipeline
from lumiere.request import FIRST_FRAMES, Request
from lumiere.runtime import model_cache
from lumiere.sampling.settings import SAMPLING_VERSION

INTERRUPTED = 130
V = TypeVar("V")
FIXED = (  # (prompt, frames, seed) of the clips that detect a change of sampling
    ("a red ball bouncing over green hills", 16, 1),
    ("a blue moon rising in the forest", 16, 2),
    ("a yellow star spinning at night", 32, 3),
)


class Studio:
    """Generates clips with one model, one base seed and fixed settings.

    Args:
        model: model folder or hub id. Defaults to the embedded model.
        seed: base seed; the clip of prompt `index` uses `seed + index`.
        **settings: `Request` fields; None selects the model's default.
    """

    def __init__(self, model: str | None = None, seed: int = SEED, **settings: Setting):
        self.folder, self.seed = locate(model or EMBEDDED), seed
        entry = replace(model_cache.entry(DEFAULT), source=str(self.folder))
        self.pipeline = LumierePipeline.from_pretrained(entry)
        limits = self.pipeline.limits
        own = {name: value for name, value in settings.items() if value is not None}
        size = {"height": limits.default_height, "width": limits.default_width}
        self._usual = Request("-", **entry.usual | size | own).check(limits)
        self.name = " ".join([model or DEFAULT, *(f"{name}={value}" for name, value in own.items())])

    def request(self, prompt: str, frames: int, index: int, **settings: Setting) -> Request:
        """Returns the `Request` of a prompt.

        Args:
            prompt: text prompt.
            frames: clip length.
            index: prompt number, added to the seed.
            **settings: `Request` fields that override the fixed ones.

        Raises:
            ValueError: a field is out of range.
        """
        changed: dict[str, Any] = {"prompt": prompt, "frames": frames, "seed": self.seed + index} | settings
        return replace(self._usual, **changed)

    def make(
        self,
        prompt: str,
        frames: int,
        index: int,
        given: Given | None = None,
        whole: bool = False,
        **settings: Setting,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Generates a clip.

        Args:
            prompt: text prompt.
            frames: clip length.
            index: prompt number, added to the seed.
            given: conditioning frames and mask. Defaults to none.
            whole: denoise all frames at once instead of in segments.
            **settings: `Request` fields that override the fixed ones.

        Returns:
            The frames and the preview of the last step, `t h w c` each.
        """
        request, pipeline = self.request(prompt, frames, index, **settings), copy.copy(self.pipeline)
        if whole:
            pipeline.sampling = replace(pipeline.sampling, segment=None)
        *_, last, result = pipeline.generate(request, given=given)
        assert isinstance(last, Progress) and isinstance(result, Result)
        preview = last.preview()
        assert preview is not None, "the pipeline makes a preview of every step"
        return result.frames, preview

    def clip(
        self,
        prompt: str,
        frames: int,
        index: int,
        given: Given | None = None,
        whole: bool = False,
        **settings: Setting,
    ) -> NDArray[np.uint8]:
        """Returns only the frames of `make`, which has the same arguments."""
        return self.make(prompt, frames, index, given, whole, **settings)[0]

    @torch.inference_mode()
    def through_autoencoder(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Encodes and decodes frames `t h w c` with the VAE."""
        vae: AutoencoderKL = self.pipeline.vae
        scaled = vae.encode(to_tensor(frames)).latent_dist.mean * vae.config.scaling_factor  # t c h w
        return self.pipeline.decode(scaled.transpose(0, 1)[None])  # t c h w -> 1 c t h w


def fixed_clips(studio: ClipSource) -> list[list[int]]:
    """Returns the digests of the `FIXED` clips."""
    return [digest(studio.clip(prompt, frames, 0, seed=seed)) for prompt, frames, seed in FIXED]


def measure(studio: ClipSource, records: Records, name: str, numbers: range) -> list[Record]:
    """Returns the records of a row in prompt order and measures missing records.

    Args:
        studio: generates the clips.
        records: the stored records.
        name: key of `ROWS`.
        numbers: prompt numbers; rows of long clips use a fraction of it (`Row.part`).
    """
    row, kept_as = ROWS[name], ROWS[name].kept_as or name
    numbers = numbers[: max(1, min(row.prompts, round(row.part * len(numbers))))]
    done = records.of(kept_as, numbers)
    with tqdm(
        total=len(numbers), initial=len(done), unit="prompt", desc=name, leave=False, disable=None
    ) as bar:
        for index in numbers:
            if index not in done:
                records.add(kept_as, index, row.record(studio, index))
                bar.update()
    return list(records.of(kept_as, numbers).values())


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `evaluate` to a parser."""
    add = parser.add_argument
    add("--model", help="folder or hub id (the embedded model)")
    rows = f"of {', '.join(ROWS)}; all unless given"
    add("--rows", type=_rows, default=list(ROWS), metavar="ROW,…", help=rows)
    clips = "prompts a row; with 30 all rows take half an hour (%(default)s)"
    add("--clips", type=int, default=300, metavar="N", help=clips)
    add("--first", type=int, default=0, metavar="N", help="number of the first (%(default)s)")
    seed = f"of scenes and noise (%(default)s); choose settings with {CHOOSING_SEED}"
    add("--seed", type=int, default=SEED, metavar="N", help=seed)
    kept = "file of records, to go on from (%(default)s)"
    add("--results", default="runs/evaluate.json", metavar="FILE", help=kept)
    add("--steps", type=int, metavar="N", help="denoising steps (the model's own)")
    add("--guidance", type=float, metavar="X", help="guidance (the model's own)")
    add("--scheduler", metavar="NAME", help="scheduler (the model's own)")
    first_frame = "none: from noise with the rest, base: drawn by the base (none)"
    add("--first-frame", choices=FIRST_FRAMES, help=first_frame)
    grid = f"only write {GRID[0] * GRID[1]} clips as a moving picture"
    add("--grid", metavar="FILE.webp", help=grid)
    sheet = f"only write frames of {SHEET} clips as one picture, a contact sheet"
    add("--sheet", metavar="FILE.png", help=sheet)
    add("--frames", type=int, default=80, metavar="N", help="of --grid and --sheet (%(default)s)")
    remember = "only keep the fixed clips of this version, and drop the records of others"
    add("--remember", action="store_true", help=remember)


def run_evaluate(args: argparse.Namespace) -> int:
    """Prints the tables row by row.

    Args:
        args: parsed arguments of `add_evaluate_arguments`.

    Returns:
        Exit status: 0; 1 if a file cannot be read or the sampling changed; 2 for invalid arguments; 130 if
        interrupted.
    """
    for name, least, most in (("clips", 1, 10**6), ("first", 0, 10**6), ("seed", 0, 2**31)):
        if not least <= getattr(args, name) <= most:
            print(f"--{name} must be {least} to {most}: received {getattr(args, name)}.", file=sys.stderr)
            return 2
    settings = {name: getattr(args, name) for name in ("steps", "guidance", "scheduler", "first_frame")}
    try:
        studio = Studio(args.model, args.seed, **settings)
        if args.grid or args.sheet:
            return draw_clips(studio, args)
        records = Records(args.results, studio.name, args.seed)
        accept = records.remember if args.remember else records.accept
        if not accept(fixed_clips(studio)):
            print(
                f"{args.results} holds records of other clips than those made now: raise SAMPLING_VERSION "
                f"({SAMPLING_VERSION}) in lumiere/sampling/settings.py, or name another file.",
                file=sys.stderr,
            )
            return 1
    except (ValueError, OSError) as refusal:
        print(refusal, file=sys.stderr)
        return 2 if isinstance(refusal, ValueError) else 1
    if args.remember:
        return 0
    return print_tables(studio, records, args.rows, range(args.first, args.first + args.clips))


def print_tables(studio: ClipSource, records: Records, rows: Sequence[str], numbers: range) -> int:
    """Measures rows and prints their tables.

    Args:
        studio: generates the clips.
        records: the stored records.
        rows: keys of `ROWS`.
        numbers: prompt numbers.

    Returns:
        Exit status: 0, or 130 if interrupted.
    """
    judged = {}
    print("| | of | measured [95 % interval], and its bar | |\n|---|---|---|---|")
    try:
        for name in rows:
            found = measure(studio, records, name, numbers)
            figures = ROWS[name].figures(found)
            measured = " · ".join(map(str, figures))
            print(f"| {ROWS[name].title} | {len(found)} | {measured} | {_met(figures)} |", flush=True)
            if not {"verdict", "verdicts"}.isdisjoint(found[0]) and not ROWS[name].kept_as:
                judged[name] = found
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    shares = {name: accuracy(pairs(found)) for name, found in judged.items()}
    _print_table("right in", COLUMNS, shares, "{:.3f}".format)
    counts = {name: per_motion(found) for name, found in judged.items()}
    _print_table("right in all", MOTIONS, counts, lambda found: "{} / {}".format(*found))
    return 0


def _met(figures: Sequence[Figure]) -> str:
    if all(figure.bar is None for figure in figures):
        return ""
    return "met" if all(figure.met for figure in figures) else "missed"


def _print_table(
    title: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, V]], text: Callable[[V], str]
) -> None:
    """Prints a Markdown table of `rows`: name -> column -> value."""
    if rows:
        print(f"\n| {title} | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, values in rows.items():
        cells = [text(values[column]) if column in values else "" for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


def draw_clips(studio: ClipSource, args: argparse.Namespace) -> int:
    """Writes clips of the first prompts: `--grid`, `--sheet` or both.

    Args:
        studio: generates the clips.
        args: parsed arguments of `add_evaluate_arguments`.

    Returns:
        Exit status 0.
    """
    count = max(GRID[0] * GRID[1] if args.grid else 0, SHEET if args.sheet else 0)
    numbers = range(args.first, args.first + count)
    prompts = [canonical(scene_of(studio.seed, index)[0]) for index in numbers]
    shown = zip(numbers, tqdm(prompts, unit="clip", disable=None), strict=True)
    clips = [studio.clip(prompt, args.frames, index) for index, prompt in shown]
    files = ((args.grid, write_grid, GRID[0] * GRID[1]), (args.sheet, write_sheet, SHEET))
    for file, write, most in files:
        if file:
            write(file, clips[:most], prompts[:most])
            print(f"{file}: {Path(file).stat().st_size / 1e6:.1f} MB")
    return 0


def _rows(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"choose from {', '.join(ROWS)}: received {text!r}.")
    return names
