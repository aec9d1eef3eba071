"""Training loop for the small models of the paper world, with exact resume, moving average and metrics."""

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lumiere.training.optimizer import plain_attention, relative_rate

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    """Number of steps, learning rate schedule, moving average and checkpoint interval.

    Attributes:
        steps: training steps.
        learning_rate: peak learning rate.
        warmup: steps of linear warmup.
        decay: fraction of the steps, at the end, during which the learning rate decays to zero.
        ema: largest decay of the moving average, 0 to 1.
        save_seconds: time between checkpoints.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    decay: float = 0.3
    ema: float = 0.999
    save_seconds: float = 120.0

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step."""
        return self.learning_rate * relative_rate(step, self.steps, self.warmup, self.decay)


def fit(
    model: Model,
    loss: Callable[[Model, torch.Generator], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    folder: str | Path,
) -> Model:
    """Trains a model in place and returns its moving average.

    A run killed at any moment resumes with the losses of an uninterrupted run.

    Args:
        model: module to train.
        loss: `loss(model, generator)` returns the loss of a step, a scalar, and its metrics. It must draw all
            random numbers from `generator`, which is seeded with the step.
        schedule: steps and learning rate.
        folder: folder for checkpoint and metrics, created if missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    averaged = copy.deepcopy(model).requires_grad_(False)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=0.01)
    step = _resume(folder, model, averaged, optimizer)
    saved, began, first = time.monotonic(), time.monotonic(), step
    while step < schedule.steps:
        with plain_attention(next(model.parameters()).device):
            value, facts = loss(model, torch.Generator().manual_seed(step))
            value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        _average(averaged, model, min(schedule.ema, step / (step + 10)))
        if step % 50 == 0 or step == schedule.steps:
            seconds = (time.monotonic() - began) / (step - first)
            line = {"step": step, "loss": value.item(), "seconds_per_step": seconds} | facts
            print(json.dumps({k: round(v, 5) for k, v in line.items()}), flush=True)
            with open(folder / "metrics.jsonl", "a") as metrics:
                metrics.write(json.dumps(line) + "\n")
        if time.monotonic() - saved > schedule.save_seconds or step == schedule.steps:
            _save(folder, step, model, averaged, optimizer)
            saved = time.monotonic()
    return averaged


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    ours: list[Tensor] = list(averaged.parameters())
    theirs: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)


def _save(
    folder: Path, step: int, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, folder / "checkpoint.part")
    os.replace(folder / "checkpoint.part", folder / "checkpoint.pt")
    save_file({k: v.contiguous() for k, v in averaged.state_dict().items()}, folder / "averaged.safetensors")


def _resume(folder: Path, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    averaged.load_state_dict(state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
