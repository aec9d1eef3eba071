"""python -m tests.benchmarks.bases: Stable Diffusion with public motion weights, the table of bars.

Small random models in the published layouts stand for the published ones. Two tables follow for models
of full size, whose memory is counted on tensors without numbers: no accelerator is needed, and no time is
told. Names of parts (exactness, layouts, loras, processes, switches, pairings, full_size) leave out others.
"""

import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lumiere import __main__ as command
from lumiere import models
from lumiere.loading import components as loading_components
from lumiere.loading.registry import MODELS, Model
from lumiere.loading.styles import Style
from lumiere.model.animatediff import load_weights
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_weights import AnimateDiffBlock
from lumiere.model.placement import adapter_places
from lumiere.pipeline import LumierePipeline
from lumiere.sampling.denoiser import rows_at_once
from lumiere.sampling.memory import MARGIN, Peak, weight_bytes
from tests.bases import components, save_adapter, save_base
from tests.loading import test_lora, test_residency
from tests.model import test_pairings
from tests.model.test_animatediff import same_weights
from tests.test_bases import SEEN, difference, frames_of, theirs, theirs_of
from tests.training.test_train import launch

SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
ADAPTER, OURS, THEIRS = "AnimateDiff in Lumiere", "Lumiere's own layers", "UNetMotionModel"


def row(bar: str, limit: str, figure: str) -> None:
    print(f"| {bar} | {limit} | {figure} |", flush=True)


def prepare(folder: Path) -> None:
    for family in ("sd", "xl"):
        save_base(folder / family, family)
        for name, middle, positions in (("adapter", False, 24), ("middle", True, 24), ("long", False, 64)):
            save_adapter(folder / f"{family}-{name}", components(family)["unet"], middle, positions)


def exactness(folder: Path) -> None:
    """Every model of the table by its small twin: of the same family, kind of adapter and settings."""
    twins = {
        "sd15-animatediff": ("sd", "sd-adapter"),
        "sd15-animatediff-v2": ("sd", "sd-middle"),
        "sd15-lightning": ("sd", "sd-middle"),
        "sd15-long": ("sd", "sd-long"),
        "sd15-lcm": ("sd", "sd-middle"),
        "sdxl-animatediff": ("xl", "xl-adapter"),
        "sdxl-hotshot": ("xl", "xl-adapter"),
    }
    for name, (family, motion) in twins.items():
        model = MODELS[name]
        source = {"source": str(folder / family), "motion": str(folder / motion), "text_width": None}
        unpinned = {"revision": None, "motion_revision": None, "half": False, "domain_adapter": None}
        unpinned |= {"side": None}
        our = LumierePipeline.from_pretrained(replace(model, **source, **unpinned), device="cpu")
        their = theirs(folder, family, motion)
        frames = model.frames
        for guidance in (7.5, 1.0):
            request = replace(
                SEEN, scheduler=model.scheduler, steps=model.steps, guidance=guidance, frames=frames
            )
            found = difference(frames_of(our, request), theirs_of(their, request, our.scheduler_config))
            what = f"{name}: {model.steps} steps of {model.scheduler}, guidance {guidance:g}, {frames} frames"
            row(what, "1/255", f"{found}/255")


def layouts(folder: Path) -> None:
    for family in ("sd", "xl"):
        unet, name = components(family)["unet"], f"{family}-middle"
        expected = load_weights(unet, folder / name)
        files = (folder / f"{name}.safetensors", folder / name / "diffusion_pytorch_model.safetensors")
        equal = all(same_weights(load_weights(unet, file), expected) for file in files)
        row(f"{family}: original keys, a file and a folder of diffusers", "bit-equal", str(equal))


def loras(folder: Path) -> None:
    for family, weight in (("sd", 0.7), ("sd", -1.0), ("xl", 0.7)):
        file = folder / f"{family}-lora.safetensors"
        test_lora.save_file(test_lora.factors(components(family)), file)
        ours = frames_of(test_lora.ours(folder, family, Style(((str(file), weight),))), test_lora.REQUEST)
        found = difference(ours, test_lora.styled(folder, family, file, weight))
        row(f"LoRA on {family} at {weight:g} against diffusers with peft", "1/255", f"{found}/255")


def processes(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a red ball\na blue star\na green fish\n")
    arguments = ["--prompts", str(folder / "prompts.txt"), "--model", str(folder / "sd"), "--device", "cpu"]
    arguments += ["--motion", str(folder / "sd-adapter"), "--frames", "8", "--steps", "2"]
    assert command.main([*arguments, "-o", str(folder / "one")]) == 0
    launch(2, "-m", "lumiere", *arguments, "-o", str(folder / "two"))
    one, two = ({f.name: f.read_bytes() for f in (folder / name).glob("*.mp4")} for name in ("one", "two"))
    same = one == two and len(one) == 3
    row("two processes over a prompt file against one", "identical files", f"{same}, {len(two)} clips")


def switches(folder: Path) -> None:
    for seed in (0, 1):
        save_base(folder / f"wide{seed}", "sd", seed, **test_residency.WIDE)
    save_adapter(folder / "wide", components("sd", **test_residency.WIDE)["unet"])
    pair = [Model(str(folder / f"wide{seed}"), str(folder / "wide")) for seed in (0, 1)]
    row("growth of memory in ten switches of 200 MB", "5 %", f"{100 * test_residency.growth(pair):.1f} %")
    models.free()


def pairings(folder: Path) -> None:
    told, whole = 0, test_pairings.make(folder / "whole")
    for number, case in enumerate(test_pairings.CASES):
        copy = shutil.copytree(whole, folder / str(number))
        try:
            LumierePipeline.from_pretrained(case(copy), device="cpu")
        except (OSError, ValueError) as error:
            told += "\n" not in str(error)
    row("wrong pairings and broken files", "30 errors in words", f"{told} of {len(test_pairings.CASES)}")


class FusedAttention(TorchFunctionMode):
    """On `meta`, where torch would make the matrix of all pairs that no kernel of a GPU makes."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return function(*args, **(kwargs or {}))


@contextmanager
def without_numbers():
    """Modules and tensors in bfloat16 that have shapes and take no memory."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.no_grad(), torch.device("meta"), FusedAttention():
            yield
    finally:
        torch.set_default_dtype(usual)


def gigabytes(kind: str, config: dict, frames: int, size: int) -> tuple[float, float]:
    """Of weights, and at most in one step besides, for latents of this size: counted, in bfloat16."""
    with without_numbers():
        unet = UNet2DConditionModel(**config).eval().requires_grad_(False)
        text = torch.zeros(1, 77, config["cross_attention_dim"])
        told = {"encoder_hidden_states": text}
        if config is SDXL:
            told["added_cond_kwargs"] = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        if kind == THEIRS:
            options = {"use_motion_mid_block": False, "motion_max_seq_length": 128}
            adapter = MotionAdapter(config["block_out_channels"], **options)
            model = (
                UNetMotionModel.from_unet2d(unet, adapter, load_weights=False).eval().requires_grad_(False)
            )
            told["encoder_hidden_states"] = text.expand(frames, -1, -1)
            weights = weight_bytes(model)
        elif kind == OURS:
            model = Lumiere.from_unet(unet, 2 ** (len(config["block_out_channels"]) - 1))
            weights = weight_bytes(unet, model)
        else:
            places, options = adapter_places(unet, middle=False), {"positions": 128}
            model = Lumiere.from_unet(
                unet, places=places, attn_klass=AnimateDiffBlock, attn_inflation_kwargs=options
            )
            weights = weight_bytes(unet, model)
        clip = torch.zeros(1, 4, frames, size, size)
        with Peak() as counted:
            model(clip, torch.zeros(()), return_dict=False, **told)
    return weights / 1e9, counted.bytes / 1e9


def full_size() -> None:
    print(
        "\n| one step at full size, bfloat16, 512 x 512, one row | weights, GB | besides, GB |\n|---|---|---|"
    )
    for frames in (16, 80):
        for kind in (ADAPTER, OURS, THEIRS):
            weights, step = gigabytes(kind, SD15, frames, 64)
            row(f"SD 1.5, {frames} frames, {kind}", f"{weights:.2f}", f"{step:.2f}")
    print("\n| memory of a clip with the settings of the table | | GB |\n|---|---|---|")
    first = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    second = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
    }
    with without_numbers():
        vae = weight_bytes(AutoencoderKL(**VAE))
        first = weight_bytes(CLIPTextModel(CLIPTextConfig(**first)))
        second = weight_bytes(CLIPTextModelWithProjection(CLIPTextConfig(**second, projection_dim=1280)))
    for name, model in MODELS.items():
        if model.motion is None:
            continue
        xl = name.startswith("sdxl")
        config, frames = SDXL if xl else SD15, model.frames
        size = model.side // 8 if model.side else config["sample_size"]
        weights, step = gigabytes(ADAPTER, config, frames, size)
        twofold = rows_at_once(1 if model.guidance == 1 else 2, frames * size**2)
        total = weights + (vae + first + second * xl) / 1e9 + MARGIN * twofold * step
        row(name, f"{frames} frames of {8 * size} x {8 * size}", f"{total:.1f}")


def main() -> None:
    only = set(sys.argv[1:])
    loading_components.multiplies_in_bf16 = lambda: False  # diffusers computes in float32 on any processor
    print("| | bar | |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for part in (exactness, layouts, loras, processes, switches, pairings):
            if not only or part.__name__ in only:
                part(folder)
    if not only or "full_size" in only:
        full_size()


if __name__ == "__main__":
    main()
