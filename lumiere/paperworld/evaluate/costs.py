"""Measures the seconds per clip, and the bytes and parameters of the model. A record is one timing round.

Each round runs both sides of a comparison, so that background load affects both.
"""

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from lumiere.events import Progress
from lumiere.media.video import write_clip
from lumiere.runtime.jobs import Job
from lumiere.sampling.latent_preview import sprite_sheet
from lumiere.sampling.schedulers import CLASSES

FRAMES = 80
PROMPT = "a red ball bouncing over green hills"


def ratio(records, name, other):
    """Returns the minimum of the times `name` divided by the minimum of the times `other`."""
    return min(record[name] for record in records) / min(record[other] for record in records)


def _seconds(studio, request):
    began = time.perf_counter()
    for _ in studio.pipeline.generate(request):
        pass
    return time.perf_counter() - began


def seconds(studio, index):
    """Returns the seconds from prompt to frames: frame count -> seconds."""
    return {str(frames): _seconds(studio, studio.request(PROMPT, frames, index)) for frames in (16, FRAMES)}


def against_animatediff(studio, index, frames=FRAMES):
    """Times this pipeline and diffusers' AnimateDiffPipeline (random adapter) from prompt to frames."""
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
def _animatediff(pipeline, scheduler, frames):
    """Returns an AnimateDiffPipeline with the architecture of the base and random UNet weights.

    diffusers cannot load the base weights, because of their scale-and-shift time embedding. The adapter uses
    the default architecture for the widths and layers of the base, with `frames` positions.
    """
    from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel

    base = pipeline.lumiere.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = MotionAdapter(
            base.config.block_out_channels,
            motion_layers_per_block=base.config.layers_per_block,
            motion_norm_num_groups=base.config.norm_num_groups,
            motion_max_seq_length=frames,
        )
        unet = UNetMotionModel.from_unet2d(base, adapter, load_weights=False)
    unet = unet.to(pipeline.device, pipeline.dtype).eval()
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


def with_preview(studio, index, frames=FRAMES):
    """Times a clip from the job queue to the MP4 file, as on the page, with and without preview sheets."""
    request, seconds = studio.request(PROMPT, frames, index), {}
    runs = {
        "preview": lambda stop: studio.pipeline.generate(request, stop),
        "without": lambda stop: map(_unseen, studio.pipeline.generate(request, stop)),
    }
    for name in sorted(runs, reverse=index % 2 == 1):
        began = time.perf_counter()
        for update in Job(runs[name]).start().updates():
            if update is not None and update.preview is not None:
                _ = sprite_sheet(update.preview).data_uri
        with TemporaryDirectory() as folder:
            write_clip(Path(folder) / "clip.mp4", update.result.frames, request.fps)
        seconds[name] = time.perf_counter() - began
    return seconds


def _unseen(item):
    return replace(item, preview=lambda: None) if isinstance(item, Progress) else item


def parameters(studio, index, frames=32, steps=2):
    """Counts the parameters that generate a clip, excluding the base, motion and preview parameters."""
    pipeline, ran = studio.pipeline, {}

    def note(module, args):
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


def size(studio, index):
    """Returns the total bytes of the model's folder and the bytes of its largest file."""
    sizes = [file.stat().st_size for file in studio.folder.rglob("*") if file.is_file()]
    return {"total": sum(sizes), "largest": max(sizes)}
