"""Builds the embedded model from scratch, part by part, and records the time of each part.

Calling `make` again resumes an interrupted part from its last checkpoint and skips finished parts, which are
listed in `make.json` in the work folder.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lumiere.paperworld.training import parts
from lumiere.paperworld.training.model_folder import save_motion_of
from lumiere.paperworld.world.dataset import render_dataset
from lumiere.training.config import Settings
from lumiere.training.trainer import show

DONE = "make.json"


@dataclass(frozen=True)
class Budget:
    """Size of a build.

    Attributes:
        stills: rendered stills.
        autoencoder: training steps of the VAE.
        text: training steps of the text encoder.
        base: training steps of the base UNet.
        decoder: further training steps of the VAE's decoder.
        preview: training steps of the tiny autoencoder.
        clips: rendered clips.
        frames: frames per clip.
        motion: training steps of the motion weights.
        batch: clips per step of motion training.
        workers: rendering processes.
    """

    stills: int
    autoencoder: int
    text: int
    base: int
    decoder: int
    preview: int
    clips: int
    frames: int
    motion: int
    batch: int
    workers: int = 2


BUDGETS = {
    "tiny": Budget(
        stills=64,
        autoencoder=4,
        text=20,
        base=4,
        decoder=2,
        preview=2,
        clips=4,
        frames=32,
        motion=2,
        batch=2,
        workers=1,
    ),
    "full": Budget(
        **parts.STEPS,
        stills=40_000,
        clips=12_000,
        frames=40,
        motion=10_000,
        batch=12,
    ),
}


class Maker:
    """Builds a model.

    Args:
        model: folder to write the model into.
        work: folder for data and checkpoints.
        budget: numbers of scenes and steps.
        tell: receives one line of text per part. Defaults to `print`.
    """

    def __init__(
        self, model: str | Path, work: str | Path, budget: Budget, tell: Callable[[str], object] = print
    ):
        self.model, self.work, self.budget, self.tell = Path(model), Path(work), budget, tell
        self.stills, self.clips = self.work / "stills", self.work / "clips"
        b, at = budget, self.work
        self.parts: dict[str, Callable[[], None]] = {
            "stills, rendered": lambda: render_dataset(
                self.stills, b.stills, 1, parts.STILLS_SEED, workers=b.workers
            ),
            "autoencoder": lambda: parts.autoencoder(model, self.stills, at / "autoencoder", b.autoencoder),
            "text encoder": lambda: parts.text(model, at / "text", b.text),
            "stills, encoded": lambda: parts.latents(model, self.stills),
            "base": lambda: parts.base(model, self.stills, at / "base", b.base),
            "clips, rendered": lambda: render_dataset(
                self.clips, b.clips, b.frames, parts.CLIPS_SEED, workers=b.workers, from_rest=True
            ),
            "clips, encoded": lambda: parts.latents(model, self.clips),
            "motion": self._motion,
            "decoder": lambda: parts.decoder(model, self.clips, at / "decoder", b.decoder),
            "preview": lambda: parts.preview(model, self.stills, at / "preview", b.preview),
        }

    def make(self) -> dict[str, float]:
        """Builds all parts and returns the seconds per part, including failed attempts."""
        self.work.mkdir(parents=True, exist_ok=True)
        log = self.work / DONE
        spent = json.loads(log.read_text()) if log.exists() else {}
        for name, part in self.parts.items():
            entry = spent.setdefault(name, {"seconds": 0.0, "done": False})
            if entry["done"]:
                self.tell(f"{name}: there already, made in {_duration(entry['seconds'])}")
                continue
            began = time.monotonic()
            try:
                part()
                entry["done"] = True
            finally:
                entry["seconds"] += time.monotonic() - began
                log.with_suffix(".part").write_text(json.dumps(spent, indent=2) + "\n")
                os.replace(log.with_suffix(".part"), log)
            self.tell(f"{name}: {_duration(entry['seconds'])}")
        return {name: entry["seconds"] for name, entry in spent.items()}

    def _motion(self) -> None:
        settings = Settings(
            model=str(self.model),
            data=str(self.clips),
            out=str(self.work / "motion"),
            steps=self.budget.motion,
            batch_size=self.budget.batch,
            frames=24,
            min_frames=16,
            cond_prob=0.9,
            continued=0.6,
            from_start=0.4,
            cond_noise=0.15,
            shift=3.0,
            padding_mode="circular",  # the world is a torus
        )
        show(settings)
        save_motion_of(self.model, settings.out)


def add_make_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `make` to a parser."""
    parser.add_argument("--model", required=True, help="folder that the model is made in")
    parser.add_argument("--work", default="runs/make", help="folder for data and checkpoints (%(default)s)")
    parser.add_argument(
        "--budget", choices=BUDGETS, default="full", help="tiny: minutes, to see that it works (%(default)s)"
    )


def run_make(args: argparse.Namespace) -> None:
    """Runs `make` and prints the total time.

    Args:
        args: parsed arguments of `add_make_arguments`.
    """
    spent = Maker(args.model, args.work, BUDGETS[args.budget]).make()
    print(f"{args.model} made in {_duration(sum(spent.values()))}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
