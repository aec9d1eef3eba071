"""python -m tests.benchmarks.model: cost of the space-time model against the base and AnimateDiff's UNet.

All ratios are within one run. Run it on an idle machine; it takes about ten minutes on two cores.
"""

import argparse
import gc
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lumiere.model.lumiere import Lumiere
from lumiere.paperworld.training.autoencoder import encode
from lumiere.paperworld.training.model_folder import load_vae
from lumiere.paperworld.world.captions import canonical
from lumiere.paperworld.world.scene import render, sample_scene
from lumiere.sampling.allocator import keep_freed_memory
from lumiere.sampling.noise import correlated
from lumiere.training.config import Settings
from lumiere.training.latent_dataset import LATENTS, write_captions
from lumiere.training.loss import noise_and_target
from lumiere.training.trainer import Trainer
from tests.clips import drawing

MODEL = Path(__file__).resolve().parents[2] / "assets/models/paper-world"
SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
# A quarter of the heads, too, each as wide as those of SD 1.5 (40, 80, 160): with 32 x 32 latents, attention
# then has the same share of the work as in SD 1.5 with 64 x 64. EIGHT_HEADS are 10, 20 and 40 wide.
QUARTER = SD15 | {
    "sample_size": 32,
    "block_out_channels": (80, 160, 320, 320),
    "cross_attention_dim": 192,
    "norm_num_groups": 16,
    "attention_head_dim": 2,
}
EIGHT_HEADS = QUARTER | {"attention_head_dim": 8}
BASE, ANIMATEDIFF, OURS = "base, frame by frame", "UNetMotionModel", "Lumiere"
NAMES = (BASE, ANIMATEDIFF, OURS)


def denoiser(name: str, config: dict, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """A function of latents `b c t h w`: the model of this name, fresh."""
    torch.manual_seed(0)
    base = UNet2DConditionModel(**config).to(dtype).eval().requires_grad_(False)

    def text(x: Tensor, rows: int) -> Tensor:
        return torch.zeros(rows, 77, config["cross_attention_dim"], dtype=x.dtype, device=x.device)

    if name == OURS:
        lumiere = Lumiere.from_unet(base, 2 ** (len(config["block_out_channels"]) - 1))
        return lambda x: lumiere(x, 500, text(x, len(x)), return_dict=False)[0]
    if name == ANIMATEDIFF:
        adapter = MotionAdapter(
            config["block_out_channels"],
            motion_norm_num_groups=config.get("norm_num_groups", 32),
            motion_max_seq_length=128,
            motion_num_attention_heads=config["attention_head_dim"],  # in diffusers the number of heads
            use_motion_mid_block=True,
        )
        unet = UNetMotionModel.from_unet2d(base, adapter).to(dtype).eval().requires_grad_(False)
        return lambda x: unet(x, 500, text(x, len(x) * x.shape[2]), return_dict=False)[0]

    def frame_by_frame(x: Tensor) -> Tensor:
        images = x.transpose(1, 2).flatten(0, 1)  # b c t h w -> (b t) c h w
        return base(images, 500, text(x, len(images)), return_dict=False)[0]

    return frame_by_frame


@torch.inference_mode()
def flops(frames: int = 80, config: dict = SD15) -> dict[str, float]:
    """TFLOP of one forward on `meta`, by the counter of torch (a multiplication and an addition are two)."""
    counted = {}
    for name in NAMES:
        with torch.device("meta"):
            model, x = denoiser(name, config), torch.empty(1, 4, frames, *[config["sample_size"]] * 2)
        with FlopCounterMode(display=False) as counter:
            model(x)
        counted[name] = counter.get_total_flops() / 1e12
    return counted


@torch.inference_mode()
def seconds(
    dtype: torch.dtype, config: dict = QUARTER, frames: int = 32, rounds: int = 5
) -> dict[str, float]:
    """Least of some rounds, in which the models take turns, so that what else happens meets all of them."""
    x = torch.randn(1, 4, frames, *[config["sample_size"]] * 2).to(dtype)
    denoisers = {name: denoiser(name, config, dtype) for name in NAMES}
    best = dict.fromkeys(NAMES, math.inf)
    for _ in range(rounds + 1):  # the first round warms up, and is slower than any other
        for name, model in denoisers.items():
            best[name] = min(best[name], _timed(model, x))
    return best


def _timed(model: Callable[[Tensor], Tensor], x: Tensor) -> float:
    began = time.perf_counter()
    model(x)
    return time.perf_counter() - began


def memory(keep: bool, frames: int = 32, rounds: int = 5) -> dict[str, float]:
    """Peak memory of one float32 forward, MiB, weights included: the median of processes of their own.

    keep: with `keep_freed_memory`, as in the programs, which takes more memory and less time.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        peaks = [{name: pool.apply(_peak, (name, keep, frames)) for name in NAMES} for _ in range(rounds)]
    return {name: statistics.median(peak[name] for peak in peaks) for name in NAMES}


@torch.inference_mode()
def _peak(name: str, keep: bool, frames: int) -> float:
    if keep:
        keep_freed_memory()
    x = torch.zeros(1, 4, frames, *[QUARTER["sample_size"]] * 2)
    denoiser(OURS, QUARTER | {"block_out_channels": (16, 16, 16, 16)})(x[:, :, :8, :16, :16])  # libraries
    before = _resident("VmRSS")
    model = denoiser(name, QUARTER)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest is again what there is
    model(x)
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    """MiB by the kernel's account: VmRSS now, VmHWM at the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


@torch.inference_mode()
def growth(lengths: tuple[int, ...] = (16, 32, 64, 128), rounds: int = 3) -> tuple[dict[int, float], float]:
    """Seconds of one forward by number of frames, and the exponent of the power law that fits them."""
    model, best = denoiser(OURS, QUARTER), dict.fromkeys(lengths, math.inf)
    for _ in range(rounds):
        for frames in lengths:
            x = torch.zeros(1, 4, frames, *[QUARTER["sample_size"]] * 2)
            best[frames] = min(best[frames], _timed(model, x))
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (list(best), list(best.values())))
    x, y = x - x.mean(), y - y.mean()
    return best, float(x @ y / (x @ x))


def overfit(steps: int = 300, batch: int = 4) -> tuple[float, float]:
    """Loss on one clip of fresh layers in the embedded base, and after training on this clip alone."""
    with tempfile.TemporaryDirectory() as folder:
        scene = sample_scene(np.random.default_rng(0))
        latents = encode(load_vae(MODEL), render(scene, 16)[0])  # t c h w
        np.save(Path(folder) / LATENTS, latents[None])
        write_captions(folder, [[canonical(scene)]])
        settings = Settings(
            str(MODEL),
            folder,
            f"{folder}/run",
            steps=steps,
            batch_size=batch,
            warmup=20,
            caption_dropout=0.0,
            ema=0.98,
        )
        trainer = Trainer(settings, Accelerator(mixed_precision=settings.precision))
        trainer.resume()
        fresh = one_clip_loss(trainer)
        while trainer.step < steps:
            trainer.advance()
        return fresh, one_clip_loss(trainer)


@torch.no_grad()
def one_clip_loss(trainer: Trainer, draws: int = 64) -> float:
    """Mean squared error of the averaged weights on the first clip, at fixed timesteps and noise."""
    batch, errors = trainer.clips.draw(0, range(1), drawing(1, 16)), []
    text = trainer.captions(batch.texts, trainer.accelerator.device).states
    correlation = trainer.lumiere.noise_correlation
    for draw in range(draws):
        generator = torch.Generator().manual_seed(1000 + draw)
        noise = correlated(torch.randn(batch.latents.shape, generator=generator), correlation)
        timestep = torch.tensor([(2 * draw + 1) * 1000 // (2 * draws)])
        noisy, target = noise_and_target(trainer.scheduler, batch.latents, noise, timestep)
        answer = trainer.averaged(noisy, timestep, encoder_hidden_states=text, return_dict=False)[0]
        errors.append((answer - target).square().mean().item())
    return sum(errors) / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "only", nargs="*", choices=("flops", "seconds", "memory", "growth", "overfit", []), default=[]
    )
    only = parser.parse_args().only
    keep_freed_memory()  # as the programs do
    print("| | base | UNetMotionModel | Lumiere | / base | / UNetMotionModel |\n|---|---|---|---|---|---|")

    def row(title: str, measured: dict[str, float]) -> None:
        ours = measured[OURS]
        cells = [f"{measured[name]:.2f}" for name in NAMES]
        cells += [f"{ours / measured[name]:.3f}" for name in (BASE, ANIMATEDIFF)]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)

    if not only or "flops" in only:
        row("TFLOP, SD 1.5, 64 x 64 latents, 80 frames", flops())
    if not only or "seconds" in only:
        for title, config in (("", QUARTER), (", 8 heads", EIGHT_HEADS)):
            for dtype in (torch.float32, torch.bfloat16):
                shape = f"a quarter of the width{title}, 32 x 32, 32 frames"
                row(f"seconds, {shape}, {dtype}", seconds(dtype, config))
    if not only or "memory" in only:
        row("peak MiB of the same, float32", memory(keep=False))
        row("peak MiB where freed memory is kept", memory(keep=True))
    if not only or "growth" in only:
        best, exponent = growth()
        told = ", ".join(f"{frames}: {s:.2f}" for frames, s in best.items())
        print(f"\nseconds by frames {told}: exponent {exponent:.3f}")
    if not only or "overfit" in only:
        fresh, trained = overfit()
        print(f"\nloss on one clip: fresh {fresh:.4f}, after 300 steps {trained:.4f}: {trained / fresh:.3f}")


if __name__ == "__main__":
    main()
