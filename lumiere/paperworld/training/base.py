"""The base model: a latent text-to-image UNet trained on single frames."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from lumiere.loading.components import find_device
from lumiere.paperworld.training.fit import Schedule, fit
from lumiere.paperworld.training.text_encoder import LENGTH, WIDTH, tokenize
from lumiere.paperworld.world.captions import caption_with_truth
from lumiere.paperworld.world.dataset import read_scenes
from lumiere.training.loss import noise_and_target, weighted_error
from lumiere.training.optimizer import faster_autocast

CAPTION_DROPOUT = 0.1  # trains the empty prompt for classifier-free guidance
SUBJECT_WEIGHT = 3.0
BATCH = 64  # stills per step


def new_unet() -> UNet2DConditionModel:
    """Returns an untrained UNet with text conditioning.

    The pooled text is added to the time embedding, which reaches every layer. Only the coarsest level (4 × 4)
    has cross-attention, a third cheaper than with attention on 8 × 8 too.
    """
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def new_scheduler() -> DDIMScheduler:
    """Returns Stable Diffusion's noise schedule, rescaled to zero terminal SNR, for v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # without effect on trailing timesteps; diffusers warns about 0
        clip_sample=False,
        set_alpha_to_one=True,
    )


def train_base(
    data: str | Path,
    text_encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerBase,
    run: str | Path,
    steps: int,
    unet: UNet2DConditionModel | None = None,
    batch: int = BATCH,
) -> UNet2DConditionModel:
    """Trains the base UNet on the first available accelerator, or on the CPU.

    Args:
        data: folder with latents.npy (float16 `n t 4 h w`), weights.npy and scenes.jsonl.
        text_encoder: frozen.
        tokenizer: its tokenizer.
        run: checkpoint and metrics folder.
        steps: training steps.
        unet: trained UNet, continued at half the learning rate. Defaults to a new UNet.
        batch: stills per step.

    Returns:
        The moving average of the UNet, on the CPU.
    """
    device = find_device(None)
    latents = np.load(Path(data) / "latents.npy", mmap_mode="r")
    weights = np.load(Path(data) / "weights.npy", mmap_mode="r")
    scenes = read_scenes(data)
    scheduler = new_scheduler()
    torch.manual_seed(0)
    rate, unet = (1e-3, new_unet()) if unet is None else (5e-4, unet)
    unet = unet.to(device, memory_format=torch.channels_last)  # a tenth faster on a CPU with AMX
    text_encoder = text_encoder.to(device)  # type: ignore[arg-type]  # transformers' decorator hides `self`

    def loss(model: UNet2DConditionModel, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(generator.initial_seed())
        rows = np.sort(rng.integers(len(latents), size=batch))
        frames = rng.integers(latents.shape[1], size=batch)
        clean = torch.from_numpy(latents[rows, frames].astype(np.float32))  # b 4 h w
        weight = torch.from_numpy(1 + SUBJECT_WEIGHT / 255 * weights[rows, frames][:, None])  # b 1 h w
        texts = [
            caption_with_truth(scenes[r], rng)[0] if rng.random() > CAPTION_DROPOUT else "" for r in rows
        ]
        with torch.no_grad():
            states = text_encoder(tokenize(tokenizer, texts).to(device)).last_hidden_state
        clean, weight = clean.to(device), weight.to(device)
        return denoising_loss(model, scheduler, clean, states, weight, generator), {}

    return fit(unet, loss, Schedule(steps, rate, decay=0.6, ema=0.9985), run).cpu().eval()


def denoising_loss(
    model: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    clean: Tensor,
    states: Tensor,
    weight: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Returns the weighted loss of the predictions for noised latents, at stratified random timesteps.

    Args:
        model: the UNet.
        scheduler: noise schedule.
        clean: latents without noise, `b 4 h w`.
        states: text encoder states `b n d`.
        weight: loss weights, `b 1 h w`.
        generator: CPU generator of noise and timesteps.
    """
    batch = len(clean)
    spread = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    spread = spread[torch.randperm(batch, generator=generator)]
    timesteps = (spread * scheduler.config.num_train_timesteps).long().to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    noisy, target = noise_and_target(scheduler, clean, noise, timesteps)
    with faster_autocast(clean.device):
        predicted = model(noisy, timesteps, states, return_dict=False)[0]
    return weighted_error(predicted, target, weight)


@torch.inference_mode()
def draw(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Samples stills with DDIM to inspect the base during training.

    Args:
        unet: the base UNet.
        text_encoder: the text encoder.
        tokenizer: its tokenizer.
        texts: n prompts.
        steps: denoising steps.
        guidance: guidance scale.
        seed: seed of the noise.

    Returns:
        Scaled latents `n 4 h w`.
    """
    scheduler = new_scheduler()
    scheduler.set_timesteps(steps)
    states = text_encoder(tokenize(tokenizer, [""] * len(texts) + list(texts))).last_hidden_state
    assert states.shape[1] == LENGTH
    latents = torch.randn((len(texts), 4, 16, 16), generator=torch.Generator().manual_seed(seed))
    for timestep in scheduler.timesteps:
        empty, asked = unet(torch.cat([latents] * 2), timestep, states, return_dict=False)[0].chunk(2)
        latents = scheduler.step(empty + guidance * (asked - empty), timestep, latents, return_dict=False)[0]
    return latents
