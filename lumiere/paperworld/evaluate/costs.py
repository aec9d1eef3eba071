"""Measures the seconds per clip, and the bytes and parameters of the model. A record is one timing round.

Each round runs both sides of a comparison, so that background load affects both.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lumiere.events import Progress, Result
from lumiere.media.video import write_clip
from lumiere.paperworld.evaluate.records import Record
from lumiere.paperworld.evaluate.studio import ClipSource
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.runtime.jobs import Job
from lumiere.sampling.latent_preview import sprite_sheet
from lumiere.sampling.schedulers import CLASSES

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline

FRAMES = 80
PROMPT = "a red ball bouncing over green hills"


def ratio(records: Sequence[Record], name: str, other: str) -> float:
    """Returns the minimum of one time divided by the minimum of another.

    Args:
        records: timing rounds.
        name: key of the time.
        other: key of the other time.
    """
    return min(record[name] for record in records) / min(record[other] for record in records)


def _seconds(studio: ClipSource, request: Request) -> float:
    began = time.perf_counter()
    for _ in studio.pipeline.generate(request):
        pass
    return time.perf_counter() - began


def seconds(studio: ClipSource, index: int) -> dict[str, float]:
    """Times clips from prompt to frames.

    Args:
        studio: generates the clips.
        index: number of the round.

    Returns:
        frame count -> seconds.
    """
    return {str(frames): _seconds(studio, studio.request(PROMPT, frames, index)) for frames in (16, FRAMES)}


def against_animatediff(studio: ClipSource, index: int, frames: int = FRAMES) -> dict[str, float]:
    """Times this pipeline and diffusers' AnimateDiffPipeline (random adapter) from prompt to frames.

    Args:
        studio: generates the clips.
        index: number of the round.
        frames: clip length.

    Returns:
        "ours" and "animatediff" in seconds.
    """
    request = studio.request(PROMPT, frames, index)
    theirs = _animatediff(studio.pipeline, request.scheduler, frames)
    ours = _seconds(studio, request)
    began = time.perf_counter()
    theirs(
        request.prompt,
        num_frames=frames,
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        output_type="np",
    )
    return {"ours": ours, "animatediff": time.perf_counter() - began}


@lru_cache(maxsize=1)
def _animatediff(pipeline: LumierePipeline, scheduler: str, frames: int) -> "AnimateDiffPipeline":
    """Returns an AnimateDiffPipeline with the architecture of the base and random UNet weights.

    diffusers cannot load the base weights, because of their scale-and-shift time embedding. The adapter uses
    the default architecture for the widths and layers of the base, with `frames` positions.
    """
    from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel

    base, config = pipeline.lumiere.model, pipeline.lumiere.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = MotionAdapter(
            config.block_out_channels,
            motion_layers_per_block=config.layers_per_block,
            motion_norm_num_groups=config.norm_num_groups,
            motion_max_seq_length=frames,
        )
        unet = UNetMotionModel.from_unet2d(base, adapter, load_weights=False)
    unet = unet.to(pipeline.device, pipeline.lumiere.dtype).eval()
    made = AnimateDiffPipeline(
        vae=pipeline.vae,
        text_encoder=pipeline.base.text_encoder,
        tokenizer=pipeline.base.tokenizer,
        unet=unet,
        motion_adapter=adapter,
        scheduler=CLASSES[scheduler].from_config(pipeline.scheduler_config),
    )
    made.set_progress_bar_config(disable=True)
    return made


def with_preview(studio: ClipSource, index: int, frames: int = FRAMES) -> dict[str, float]:
    """Times a clip from the job queue to the MP4 file, as on the page, with and without preview sheets.

    Args:
        studio: generates the clips.
        index: number of the round; odd rounds run in the opposite order.
        frames: clip length.

    Returns:
        "preview" and "without" in seconds.
    """
    request, seconds = studio.request(PROMPT, frames, index), {}
    runs: dict[str, Callable[[threading.Event], Iterator[Progress | Result]]] = {
        "preview": lambda stop: studio.pipeline.generate(request, stop),
        "without": lambda stop: map(_unseen, studio.pipeline.generate(request, stop)),
    }
    for name in sorted(runs, reverse=index % 2 == 1):
        began = time.perf_counter()
        result = None
        for update in Job(runs[name]).start().updates():
            if update is not None and update.preview is not None:
                _ = sprite_sheet(update.preview).data_uri
            result = update.result if update is not None else None
        assert result is not None and request.fps is not None, "a job that nobody stops ends with a clip"
        with TemporaryDirectory() as folder:
            write_clip(Path(folder) / "clip.mp4", result.frames, request.fps)
        seconds[name] = time.perf_counter() - began
    return seconds


def _unseen(item: Progress | Result) -> Progress | Result:
    return replace(item, preview=lambda: None) if isinstance(item, Progress) else item


def parameters(studio: ClipSource, index: int, frames: int = 32, steps: int = 2) -> dict[str, int]:
    """Counts the parameters that generate a clip, excluding the base, motion and preview parameters.

    Args:
        studio: generates the clip.
        index: prompt number.
        frames: clip length.
        steps: denoising steps.

    Returns:
        "parameters".
    """
    pipeline, ran = studio.pipeline, {}

    def note(module: nn.Module, args: object) -> None:
        ran[id(module)] = module

    handle = register_module_forward_pre_hook(note)
    try:
        _seconds(studio, replace(studio.request(PROMPT, frames, index), steps=steps))
    finally:
        handle.remove()
    lumiere, encoder = pipeline.lumiere, pipeline.base.text_encoder
    known = {
        id(weight)
        for module in (lumiere, lumiere.model, pipeline.vae, pipeline.preview, encoder)
        for weight in module.parameters()
    }
    used = {id(weight): weight for module in ran.values() for weight in module.parameters(recurse=False)}
    return {"parameters": sum(weight.numel() for key, weight in used.items() if key not in known)}


def size(studio: ClipSource, index: int) -> dict[str, int]:
    """Measures the files of the model's folder.

    Args:
        studio: names the folder.
        index: not used; every record is the same.

    Returns:
        "total" and "largest" in bytes.
    """
    sizes = [file.stat().st_size for file in studio.folder.rglob("*") if file.is_file()]
    return {"total": sum(sizes), "largest": max(sizes)}
