"""python -m tests.benchmarks.full_size: Stable Diffusion 1.5 with AnimateDiff, ours against diffusers'.

Random weights of full size in the published layout (fp16 on disk, 3.5 GB) lie in a temporary folder. Both
pipelines run in turn, each in a process of its own, in float32 on the CPU. Needs 12 GB of memory. Seconds are
those of one clip after a warm-up of one step: of the clock, and of the processor, which other work on the
machine changes less. Memory is the peak of the process, with loading.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lumiere.model.animatediff import SCHEDULE
from lumiere.pipeline import LumierePipeline
from tests.bases import INDEX, SCHEDULERS, save_tokenizer, text_config
from tests.benchmarks.bases import SD15, VAE

PROMPT, NEGATIVE = "a red ball", "dull"
CLIP = {"height": 128, "width": 128, "num_frames": 8, "guidance_scale": 7.5}
OURS, THEIRS = "LumierePipeline", "AnimateDiffPipeline"


def save(folder: Path) -> None:
    """Writes `base` and `motion`: every weight random, in half precision."""
    torch.manual_seed(0)
    base = folder / "base"
    size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    special = text_config(16, 16)
    text = CLIPTextConfig(
        **size, vocab_size=49408, bos_token_id=special.bos_token_id, eos_token_id=special.eos_token_id
    )
    unet = UNet2DConditionModel(**SD15)
    adapter = MotionAdapter(SD15["block_out_channels"], use_motion_mid_block=False)
    adapter.half().save_pretrained(folder / "motion")
    unet.half().save_pretrained(base / "unet", variant="fp16")
    AutoencoderKL(**VAE, sample_size=512).half().save_pretrained(base / "vae", variant="fp16")
    CLIPTextModel(text).half().save_pretrained(base / "text_encoder", variant="fp16")
    save_tokenizer(base / "tokenizer", "<|endoftext|>")
    (base / "scheduler").mkdir()
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULERS["sd"]))
    (base / "model_index.json").write_text(json.dumps(INDEX["sd"]))


def make(folder: Path, which: str, steps: int) -> None:
    """Makes the clip with one pipeline, saves its frames and prints seconds and GB."""
    if which == OURS:
        pipeline = LumierePipeline.from_pretrained(
            folder / "base", folder / "motion", device="cpu", dtype=torch.float32
        )
        more = {"scheduler": "ddim"}
    else:
        adapter = MotionAdapter.from_pretrained(folder / "motion", torch_dtype=torch.float32)
        pipeline = AnimateDiffPipeline.from_pretrained(
            folder / "base", motion_adapter=adapter, variant="fp16", torch_dtype=torch.float32
        )
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **SCHEDULE)
        pipeline.set_progress_bar_config(disable=True)
        more = {}

    def clip(count: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        options = CLIP | more | {"num_inference_steps": count, "output_type": "np", "generator": generator}
        return pipeline(PROMPT, negative_prompt=NEGATIVE, **options).frames[0]

    clip(1)
    began = time.monotonic(), time.process_time()
    frames = clip(steps)
    seconds = time.monotonic() - began[0], time.process_time() - began[1]
    np.save(folder / f"{which}.npy", (np.asarray(frames) * 255).round().astype(np.uint8))
    print(json.dumps([*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2, help="clips of each pipeline")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "PIPELINE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return make(Path(options.one[0]), options.one[1], options.steps)
    found: dict[str, list] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory() as name:
        save(Path(name))
        for which in (OURS, THEIRS) * options.turns:
            command = [sys.executable, "-m", "tests.benchmarks.full_size", "--one", name, which]
            done = subprocess.run(
                [*command, "--steps", str(options.steps)], stdout=subprocess.PIPE, text=True, check=True
            )
            found[which].append(json.loads(done.stdout.splitlines()[-1]))
            figures = "{:.1f} s, {:.1f} s of the processor, {:.2f} GB".format(*found[which][-1])
            print(f"{which}: {figures}", flush=True)
        ours, theirs = (np.load(Path(name) / f"{which}.npy").astype(int) for which in (OURS, THEIRS))
    names, bars = ("seconds", "processor seconds", "peak GB"), (1.0, 1.0, 0.65)
    print("| | bar | ours | diffusers |\n|---|---|---|---|")
    gap = abs(ours - theirs).max()
    print(f"| frames, largest difference (std {theirs.std():.0f}) | 1/255 | {gap}/255 | |")
    for name, bar, our, their in zip(names, bars, *map(least, found.values()), strict=True):
        print(f"| {name}, ratio {our / their:.2f} | {bar:.2f} | {our:.1f} | {their:.1f} |")


def least(figures: list[list[float]]) -> list[float]:
    """The lowest of each figure over all turns."""
    return [min(each) for each in zip(*figures, strict=True)]


if __name__ == "__main__":
    main()
