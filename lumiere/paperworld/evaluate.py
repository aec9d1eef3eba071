"""What the embedded model makes of its prompts, judged from the pixels."""

import sys
import time

import numpy as np
import torch
from PIL import Image

from .. import models
from ..request import Request
from .autoencoder import to_tensor
from .captions import canonical, paraphrase
from .judge import COLUMNS, accuracy, chance, frozen, judge, shuffled
from .scene import render, sample_scene

SEED = 2_000_003  # of the prompts; the trainings draw their scenes from other seeds
GRID, CELL_PIXELS = (6, 3), 128


def add_evaluate_arguments(parser):
    parser.add_argument("--model", help="name, folder or hub id (the embedded model)")
    parser.add_argument("--clips", type=int, default=100, metavar="N", help="prompts (default 100)")
    parser.add_argument("--frames", type=int, default=16, metavar="T", help="of each clip (default 16)")
    parser.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    parser.add_argument("--guidance", type=float, help="guidance (the model's own)")
    parser.add_argument("--held-out", action="store_true", help="only combinations that no training saw")
    parser.add_argument("--paraphrased", action="store_true", help="synonyms and another order of words")
    parser.add_argument("--grid", metavar="FILE.webp", help="also write the first clips as a moving picture")


def run_evaluate(args):
    """Prints a table of accuracy per attribute: generated clips, the ceiling, and controls."""
    pipeline, clips, pairs, began = models.get(args.model), [], [], time.monotonic()
    controls = {name: [] for name in ("ceiling", "frozen", "shuffled")}
    for index in range(args.clips):
        rng = np.random.default_rng((SEED, index))
        scene = sample_scene(rng, args.held_out)
        frames = _generate(pipeline, scene, rng, index, args)
        clips.append(frames)
        pairs.append((scene, judge(frames)))
        controls["frozen"].append((scene, judge(frozen(frames))))
        controls["shuffled"].append((scene, judge(shuffled(frames, rng))))
        real = _through_autoencoder(pipeline, render(scene, args.frames)[0])
        controls["ceiling"].append((scene, judge(real)))
        print(f"\r{index + 1} of {args.clips} clips", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    seconds = (time.monotonic() - began) / args.clips
    print(f"{args.clips} clips of {args.frames} frames, {seconds:.1f} s each with judging and controls\n")
    print("| | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    _print_row("generated", accuracy(pairs))
    _print_row("generated, captions shuffled (chance)", chance(pairs) if args.clips > 1 else {})
    _print_row("generated, first frame frozen", accuracy(controls["frozen"]))
    _print_row("generated, frames shuffled in time", accuracy(controls["shuffled"]))
    _print_row("real clips through the autoencoder (ceiling)", accuracy(controls["ceiling"]))
    if args.grid:
        write_grid(args.grid, clips)


def write_grid(path, clips, fps=16):
    """The first clips, uint8 (t h w c) each, side by side as an animated WebP."""
    columns, rows = GRID
    shown = np.stack(clips[: columns * rows])[: len(clips) // columns * columns]
    n, t, h, w, c = shown.shape
    grid = shown.reshape(-1, columns, t, h, w, c).transpose(2, 0, 3, 1, 4, 5)  # rows columns t h w c -> t …
    pictures = [Image.fromarray(frame) for frame in grid.reshape(t, n // columns * h, columns * w, c)]
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=1000 // fps, loop=0, quality=80)


def _generate(pipeline, scene, rng, index, args):
    entry = models.entry(args.model)
    prompt = paraphrase(scene, rng) if args.paraphrased else canonical(scene)
    request = Request(
        prompt,
        frames=args.frames,
        steps=args.steps or entry.steps,
        guidance=entry.guidance if args.guidance is None else args.guidance,
        scheduler=entry.scheduler,
        seed=index,
    )
    *_, result = pipeline.generate(request)
    return result.frames


@torch.inference_mode()
def _through_autoencoder(pipeline, frames):
    latents = pipeline.vae.encode(to_tensor(frames)).latent_dist.mean  # t c h w
    scaled = latents * pipeline.vae.config.scaling_factor
    return pipeline.decode(scaled.transpose(0, 1)[None])  # t c h w -> 1 c t h w


def _print_row(name, table):
    cells = [f"{table[column]:.2f}" if column in table else "" for column in COLUMNS]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
