"""python -m tests.benchmarks.published: five clips of every model of the table, with seconds and memory.

Fetches what the table names. Names of models leave out the others. `--random` makes the same on random
weights of full size and fetches nothing; `--small` checks this script itself, on a tenth of the channels.
"""

import argparse
import platform
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    MotionAdapter,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import lumiere.loading.components as loading
from lumiere.loading.registry import MODELS, Model, saved_settings
from lumiere.loading.styles import Style
from lumiere.media.video import write_clip
from lumiere.model.animatediff import load_adapter
from lumiere.paperworld.evaluate.grid import write_sheet
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from tests.bases import SCHEDULERS, save_tokenizer
from tests.benchmarks.bases import SD15, SDXL, VAE

PROMPTS = (
    "a fox walking through fresh snow, golden light",
    "waves breaking on a rocky coast, aerial view",
    "a candle flame in a dark room, close-up",
    "a woman laughing in a cafe, film still",
    "fireworks over a city at night",
)
SMALL = {"frames": 8, "height": 64, "width": 64, "steps": 2}
TOKENS = 77


def random_pipeline(model: Model, device: torch.device, small: bool = False) -> LumierePipeline:
    """A model with random weights, as wide as the published ones, or a tenth of it."""
    xl = model.text_width == SDXL["cross_attention_dim"]
    config, vae, layers = dict(SDXL if xl else SD15), dict(VAE), (12, 32)
    if small:
        config["block_out_channels"] = tuple(width // 10 for width in config["block_out_channels"])
        config |= {"attention_head_dim": 8, "transformer_layers_per_block": 1, "sample_size": 8}
        vae["block_out_channels"], layers = (32, 32, 32, 32), (2, 2)
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(loading.best_dtype(device))
    try:
        with torch.device(device):
            unet = UNet2DConditionModel(**config)
            adapter = MotionAdapter(
                config["block_out_channels"],
                use_motion_mid_block=False,
                motion_max_seq_length=max(32, model.frames),
            )
            parts = {"unet": unet, "vae": AutoencoderKL(**vae)}
            parts["text_encoder"] = CLIPTextModel(text_config(768, 12, layers[0]))
            if xl:
                parts["text_encoder_2"] = CLIPTextModelWithProjection(text_config(1280, 20, layers[1]))
            lumiere = load_adapter(unet, adapter)
    finally:
        torch.set_default_dtype(usual)
    parts = {name: part.eval().requires_grad_(False) for name, part in parts.items()}
    return LumierePipeline(assembled(parts, xl), lumiere, without_files(model), device=device)


def assembled(parts: dict, xl: bool) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The base pipeline of these components, with a tokenizer of letters."""
    with tempfile.TemporaryDirectory() as name:
        save_tokenizer(Path(name) / "tokenizer", "<|endoftext|>")
        tokenizer = CLIPTokenizer.from_pretrained(Path(name) / "tokenizer", model_max_length=TOKENS)
    klass = getattr(loading.diffusers, SCHEDULERS["xl" if xl else "sd"]["_class_name"])
    parts = parts | {"tokenizer": tokenizer, "scheduler": klass.from_config(SCHEDULERS["xl" if xl else "sd"])}
    if xl:
        return StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer, add_watermarker=False)
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, **nothing)


def text_config(width: int, heads: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        max_position_embeddings=TOKENS,
    )


def without_files(model: Model) -> Model:
    """The entry without the files that a random model has no use for."""
    return replace(model, preview=None, domain_adapter=None, cameras=(), style=Style())


def peak_gigabytes(device: torch.device) -> float:
    """Most memory so far: of tensors on a GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(name: str, pipeline: LumierePipeline, out: Path, clips: int, settings: dict) -> str:
    """Writes the clips and their contact sheet; returns a row with seconds of each clip after the first."""
    if pipeline.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(pipeline.device)
    frames, seconds = [], []
    for seed, prompt in enumerate(PROMPTS[:clips]):
        began = time.monotonic()
        *_, result = pipeline.generate(Request(prompt, seed=seed, **settings))
        seconds.append(time.monotonic() - began)
        frames.append(result.frames)
        file = out / f"{name}-{seed}.mp4"
        write_clip(file, result.frames, result.request.fps, saved_settings(result.request, pipeline.model))
    write_sheet(out / f"{name}.png", frames, PROMPTS[:clips], columns=1)
    request = result.request
    clip = f"{request.frames} x {request.width} x {request.height}, {request.steps} steps"
    later = float(np.mean(seconds[1:] or seconds))
    return f"| {name} | {clip} | {seconds[0]:.1f} | {later:.1f} | {peak_gigabytes(pipeline.device):.1f} |"


def main(arguments: list[str] | None = None) -> int:
    """Returns the number of models that could not be loaded or did not make their clips."""
    published = [name for name, model in MODELS.items() if model.motion]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(published)}")
    parser.add_argument("--out", type=Path, default=Path("runs/published"), metavar="FOLDER")
    parser.add_argument("--clips", type=int, default=len(PROMPTS), metavar="N", help="per model, 1 to 5")
    parser.add_argument("--random", action="store_true", help="random weights of full size; fetches nothing")
    parser.add_argument("--small", action="store_true", help="with --random: a tenth of the channels")
    parser.add_argument("--device", metavar="NAME")
    options = parser.parse_args(arguments)
    device = loading.find_device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    lines = [f"| {where} | clip | first clip, s | next clips, s | GB |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    failed = 0
    for name in options.names or published:
        model = MODELS[name]
        try:
            if options.random:
                pipeline = random_pipeline(model, device, options.small)
            else:
                pipeline = LumierePipeline.from_pretrained(model, device=device)
            settings = SMALL if options.small else {}
            lines.append(measure(name, pipeline, options.out, options.clips, settings))
            del pipeline
        except (OSError, ValueError, RuntimeError) as error:
            failed += 1
            lines.append(f"| {name} | {error} | | | |")
        print(lines[-1], flush=True)
    (options.out / "table.md").write_text("\n".join(lines) + "\n", "utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main())
