"""What the embedded model makes of its prompts, judged from the pixels: a table of figures and their bars.

Every record is kept as soon as it is made, so that an evaluation that was stopped goes on where it was.
Records belong to the weights, settings and judge that made them; those of others are kept beside.
"""

import argparse
import hashlib
import json
import os
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from tqdm import tqdm

from .. import drafts, forecaster, models, opener, repeats, revisions, turns
from ..folder import locate
from ..pipeline import LumierePipeline
from ..request import Request
from ..table import DEFAULT, SAMPLING
from .autoencoder import to_tensor
from .captions import canonical
from .grid import GRID, write_grid
from .judge import COLUMNS, accuracy
from .model_folder import EMBEDDED
from .rows import ROWS, pairs, scene_of

INTERRUPTED = 130
GOING_ON = (
    turns.GOES_ON,
    forecaster.BEGINS,
    forecaster.AGAIN,
    forecaster.STILL,
    forecaster.REMEMBERED,
    repeats.ALIKE,
    repeats.EARLIER,
)
SAMPLED = (opener.BEGINS, *GOING_ON, revisions.HIGH, drafts.LOOKS, drafts.LEVEL)
CODE = ("captions", "judge", "measures", "rows", "scene", "sight", "tracks")  # what records depend on, too


class Studio:
    """Makes clips with one model and one set of settings; `None` for those of the model."""

    def __init__(self, model=None, steps=None, guidance=None, scheduler=None):
        self.folder = locate(model or EMBEDDED)
        entry = replace(models.entry(DEFAULT), source=str(self.folder))  # whose settings others have, too
        self.pipeline = LumierePipeline.from_pretrained(entry)
        limits, told = self.pipeline.limits, {"steps": steps, "guidance": guidance, "scheduler": scheduler}
        told = {name: value for name, value in told.items() if value is not None}
        size = {"height": limits.default_height, "width": limits.default_width}
        self._usual = Request("-", **entry.usual | size | told).check(limits)

    def request(self, prompt, frames, seed):
        return replace(self._usual, prompt=prompt, frames=frames, seed=seed)

    def clip(self, prompt, frames, seed, given=None):
        """uint8 (t h w c)"""
        *_, result = self.pipeline.generate(self.request(prompt, frames, seed), given=given)
        return result.frames

    @torch.inference_mode()
    def through_autoencoder(self, frames):
        """Frames uint8 (t h w c), encoded and decoded."""
        latents = self.pipeline.vae.encode(to_tensor(frames)).latent_dist.mean  # t c h w
        scaled = latents * self.pipeline.vae.config.scaling_factor
        return self.pipeline.decode(scaled.transpose(0, 1)[None])  # t c h w -> 1 c t h w

    @cached_property
    def fingerprint(self):
        """Of all that records depend on: weights, settings, and the code that judges."""
        settings = [self._usual.saved(), *(getattr(self.pipeline, name) for name in SAMPLING), *SAMPLED]
        told = hashlib.sha256(json.dumps(settings).encode())
        code = [Path(__file__).with_name(f"{name}.py") for name in CODE]
        for file in (*code, *sorted(self.folder.rglob("*.safetensors"))):
            told.update(file.read_bytes())
        return told.hexdigest()[:12]


class Records:
    """A JSON file: fingerprint -> row -> number of the prompt -> record. Several evaluations may share it."""

    def __init__(self, file, fingerprint):
        self.file, self.all = Path(file), {}
        self.own = self.all.setdefault(fingerprint, {})
        self._read()

    def of(self, row, numbers):
        """Those of the prompts of these numbers, as far as they are there: number -> record."""
        kept = self.own.get(row, {})
        return {index: kept[str(index)] for index in numbers if str(index) in kept}

    def add(self, row, index, record):
        self.own.setdefault(row, {})[str(index)] = record
        self._read()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}.part")
        part.write_text(json.dumps(self.all))
        os.replace(part, self.file)

    def _read(self):
        """Adds what is in the file: others may have written to it since."""
        try:
            found = json.loads(self.file.read_text()) if self.file.exists() else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{self.file} does not hold records of an evaluation: name another file.")
        for fingerprint, rows in found.items():
            for row, records in rows.items():
                known = self.all.setdefault(fingerprint, {}).setdefault(row, {})
                known |= {index: record for index, record in records.items() if index not in known}


def measure(studio, records, name, numbers):
    """The records of a row, in the order of the prompts; those that are missing are made.

    numbers: of the prompts, a range; rows that have fewer prompts begin with the first.
    """
    row, kept_as = ROWS[name], ROWS[name].kept_as or name
    if numbers.stop > row.prompts:
        numbers = range(min(len(numbers), row.prompts))
    done, count = records.of(kept_as, numbers), len(numbers)
    with tqdm(total=count, initial=len(done), desc=name, unit="prompt", leave=False, disable=None) as bar:
        for index in numbers:
            if index not in done:
                records.add(kept_as, index, row.record(studio, index))
                bar.update()
    return list(records.of(kept_as, numbers).values())


def add_evaluate_arguments(parser):
    parser.add_argument("--model", help="folder or hub id (the embedded model)")
    parser.add_argument(
        "--rows",
        type=_rows,
        default=list(ROWS),
        metavar="ROW,…",
        help=f"of {', '.join(ROWS)}; all unless given",
    )
    parser.add_argument(
        "--clips", type=int, default=300, metavar="N", help="prompts a row; all rows take a day (%(default)s)"
    )
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first (%(default)s)")
    parser.add_argument(
        "--results", default="runs/evaluate.json", metavar="FILE", help="kept to go on from (%(default)s)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (the model's own)")
    parser.add_argument("--guidance", type=float, metavar="X", help="guidance (the model's own)")
    parser.add_argument("--scheduler", metavar="NAME", help="scheduler (the model's own)")
    parser.add_argument(
        "--grid", metavar="FILE.webp", help=f"only write {GRID[0] * GRID[1]} clips as a moving picture"
    )


def run_evaluate(args):
    """Prints the table, row by row. Exit status: 0, 1 or 2 for what cannot be, 130 when stopped."""
    for name, least in (("clips", 1), ("first", 0)):
        if getattr(args, name) < least:
            print(f"--{name} must be {least} or more: received {getattr(args, name)}.", file=sys.stderr)
            return 2
    try:
        studio = Studio(args.model, args.steps, args.guidance, args.scheduler)
        if args.grid:
            return draw_grid(studio, args.grid, args.first)
        records = Records(args.results, studio.fingerprint)
    except (ValueError, OSError) as refusal:
        print(refusal, file=sys.stderr)
        return 2 if isinstance(refusal, ValueError) else 1
    return print_table(studio, records, args.rows, range(args.first, args.first + args.clips))


def print_table(studio, records, rows, numbers):
    judged = {}
    print("| | of | measured, and its bar | |\n|---|---|---|---|")
    try:
        for name in rows:
            found = measure(studio, records, name, numbers)
            figures = ROWS[name].figures(found)
            met = "met" if all(figure.met for figure in figures) else "missed"
            told = " · ".join(map(str, figures))
            print(f"| {ROWS[name].title} | {len(found)} | {told} | {met} |", flush=True)
            if "verdict" in found[0]:
                judged[name] = accuracy(pairs(found))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    if judged:
        print("\n| right in | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    for name, shares in judged.items():
        cells = [f"{shares[column]:.3f}" if column in shares else "" for column in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |")
    return 0


def draw_grid(studio, file, first=0, frames=80):
    """Writes the clips of some prompts, with what was asked below each."""
    numbers = range(first, first + GRID[0] * GRID[1])
    prompts = [canonical(scene_of(index)[0]) for index in numbers]
    shown = zip(numbers, tqdm(prompts, unit="clip", disable=None), strict=True)
    clips = [studio.clip(prompt, frames, index) for index, prompt in shown]
    write_grid(file, clips, prompts)
    print(f"{file}: {Path(file).stat().st_size / 1e6:.1f} MB")
    return 0


def _rows(text):
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"choose from {', '.join(ROWS)}: received {text!r}.")
    return names
