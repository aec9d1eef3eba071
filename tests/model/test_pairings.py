"""Parts that do not belong together and files that are broken: each one an error in words at loading.

More of a VAE: tests/loading/test_own_vae.py. More kinds of LoRA files: tests/loading/test_file_kinds.py.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import load_file, save_file

from lumiere.loading.registry import MODELS, Model, entry
from lumiere.loading.styles import Style
from lumiere.pipeline import LumierePipeline
from tests.bases import components, save_adapter, save_base
from tests.model.test_motion_lora import factors as camera_factors

pytestmark = pytest.mark.slow

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("pairings") / "whole")


def make(folder: Path) -> Path:
    """`sd` and `xl` with `<family>-adapter`, and `lora.safetensors` for sd."""
    for family in ("sd", "xl"):
        save_base(folder / family, family)
        save_adapter(folder / f"{family}-adapter", components(family)["unet"])
    block = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {f"{block}.lora_A.weight": torch.ones(2, 32), f"{block}.lora_B.weight": torch.ones(32, 2)}
    save_file(factors, folder / "lora.safetensors")
    adapter = MotionAdapter.from_pretrained(folder / "sd-adapter")
    save_file(camera_factors(adapter, 0), folder / "camera.safetensors")
    save_file(load_file(folder / "sd" / "vae" / WEIGHTS), folder / "vae.safetensors")
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy that a case may damage."""
    return shutil.copytree(whole, tmp_path / "copy")


def usual(folder: Path) -> Model:
    return Model(str(folder / "sd"), str(folder / "sd-adapter"))


def with_lora(folder: Path) -> Model:
    return replace(usual(folder), style=Style(((str(folder / "lora.safetensors"), 1.0),)))


def with_camera(folder: Path) -> Model:
    return replace(usual(folder), cameras=((str(folder / "camera.safetensors"), 1.0),))


def with_vae(folder: Path) -> Model:
    return replace(usual(folder), vae=str(folder / "vae.safetensors"))


def with_domain_adapter(folder: Path) -> Model:
    return replace(usual(folder), domain_adapter=(str(folder / "lora.safetensors"), 0.5))


def edit(file: Path, change: Callable[[dict], None]) -> None:
    """Changes the tensors of a file, or the values of a JSON file."""
    if file.suffix == ".json":
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))
    else:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})


def key(tensors: dict, part: str) -> str:
    return next(name for name in sorted(tensors) if part in name)


def adapter_of_xl_on_sd(folder):
    return replace(usual(folder), motion=str(folder / "xl-adapter"))


def adapter_of_sd_on_xl(folder):
    return replace(usual(folder), source=str(folder / "xl"))


def published_weights_on_another_family(folder):
    return replace(usual(folder), text_width=MODELS["sd15-animatediff"].text_width)


def claimed_but_missing_middle(folder):
    edit(folder / "sd-adapter" / "config.json", lambda config: config.update(use_motion_mid_block=True))
    return usual(folder)


def adapter_that_lacks_a_tensor(folder):
    edit(folder / "sd-adapter" / WEIGHTS, lambda t: t.pop(key(t, "up_blocks.1")))
    return usual(folder)


def adapter_with_another_tensor_besides(folder):
    edit(
        folder / "sd-adapter" / WEIGHTS,
        lambda t: t.update({"down_blocks.9.motion_modules.0.x": torch.ones(1)}),
    )
    return usual(folder)


def adapter_with_a_misshapen_tensor(folder):
    edit(folder / "sd-adapter" / WEIGHTS, lambda t: t.update({key(t, "to_q.weight"): torch.ones(3, 3)}))
    return usual(folder)


def adapter_with_nan(folder):
    edit(folder / "sd-adapter" / WEIGHTS, lambda t: t[key(t, "norm.bias")].fill_(torch.nan))
    return usual(folder)


def adapter_cut_short(folder):
    file = folder / "sd-adapter" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])
    return usual(folder)


def adapter_as_a_pickle(folder):
    torch.save(load_file(folder / "sd-adapter" / WEIGHTS), folder / "mm_sd_v15.ckpt")
    return replace(usual(folder), motion=str(folder / "mm_sd_v15.ckpt"))


def heads_that_do_not_divide(folder):
    edit(folder / "sd-adapter" / "config.json", lambda config: config.update(motion_num_attention_heads=7))
    return usual(folder)


def no_motion_weights_at_all(folder):
    return replace(usual(folder), motion=None)


def motion_weights_that_are_a_unet(folder):
    return replace(usual(folder), motion=str(folder / "sd" / "unet" / WEIGHTS))


def motion_weights_that_are_nowhere(folder):
    return replace(usual(folder), motion=str(folder / "elsewhere.safetensors"))


def base_that_is_an_adapter(folder):
    return replace(usual(folder), source=str(folder / "sd-adapter"))


def base_for_inpainting(folder):
    shutil.rmtree(folder / "sd" / "unet")
    components("sd", in_channels=9)["unet"].save_pretrained(folder / "sd" / "unet")
    return usual(folder)


def base_of_a_kind_that_is_not_supported(folder):
    edit(
        folder / "sd" / "model_index.json",
        lambda index: index.update(unet=["diffusers", "SD3Transformer2DModel"]),
    )
    return usual(folder)


def xl_without_its_second_encoder(folder):
    shutil.rmtree(folder / "xl" / "text_encoder_2")
    return Model(str(folder / "xl"), str(folder / "xl-adapter"))


def text_encoder_that_lacks_a_tensor(folder):
    edit(folder / "sd" / "text_encoder" / "model.safetensors", lambda t: t.pop(key(t, "fc1.weight")))
    return usual(folder)


def vae_as_a_pickle(folder):
    file = folder / "sd" / "vae" / WEIGHTS
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    return usual(folder)


def scheduler_that_is_no_json(folder):
    (folder / "sd" / "scheduler" / "scheduler_config.json").write_text("<html>404</html>")
    return usual(folder)


def lora_of_another_family(folder):
    return replace(with_lora(folder), source=str(folder / "xl"), motion=str(folder / "xl-adapter"))


def lora_with_nan(folder):
    edit(folder / "lora.safetensors", lambda t: t[key(t, "lora_A")].fill_(torch.nan))
    return with_lora(folder)


def lora_that_lacks_a_factor(folder):
    edit(folder / "lora.safetensors", lambda t: t.pop(key(t, "lora_B")))
    return with_lora(folder)


def lora_that_is_an_adapter(folder):
    return replace(usual(folder), style=Style(((str(folder / "sd-adapter" / WEIGHTS), 1.0),)))


def style_of_another_family(folder):
    return replace(usual(folder), style=Style(base=str(folder / "xl"), alpha=0.7))


def adapter_in_two_variants(folder):
    (folder / "sd-adapter" / WEIGHTS).rename(
        folder / "sd-adapter" / "diffusion_pytorch_model.fp16.safetensors"
    )
    shutil.copy(
        folder / "lora.safetensors", folder / "sd-adapter" / "diffusion_pytorch_model.ema.safetensors"
    )
    return usual(folder)


def camera_of_another_adapter(folder):
    model = with_camera(folder)
    return replace(model, source=str(folder / "xl"), motion=str(folder / "xl-adapter"))


def camera_on_motion_weights_of_lumiere(folder):
    return replace(entry("paper-world"), cameras=with_camera(folder).cameras)


def camera_that_is_a_lora_of_the_base(folder):
    return replace(usual(folder), cameras=((str(folder / "lora.safetensors"), 1.0),))


def camera_that_is_an_adapter(folder):
    return replace(usual(folder), cameras=((str(folder / "sd-adapter" / WEIGHTS), 1.0),))


def camera_that_lacks_a_factor(folder):
    edit(folder / "camera.safetensors", lambda t: t.pop(key(t, "down.weight")))
    return with_camera(folder)


def camera_with_nan(folder):
    edit(folder / "camera.safetensors", lambda t: t[key(t, "up.weight")].fill_(torch.nan))
    return with_camera(folder)


def camera_cut_short(folder):
    file = folder / "camera.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return with_camera(folder)


def camera_that_is_nowhere(folder):
    return replace(usual(folder), cameras=(("zoom-sideways", 1.0),))


def lora_that_is_a_camera(folder):
    return replace(usual(folder), style=Style(((str(folder / "camera.safetensors"), 1.0),)))


def domain_adapter_of_another_family(folder):
    model = with_domain_adapter(folder)
    return replace(model, source=str(folder / "xl"), motion=str(folder / "xl-adapter"))


def domain_adapter_as_a_pickle(folder):
    torch.save(load_file(folder / "lora.safetensors"), folder / "v3_sd15_adapter.ckpt")
    return replace(usual(folder), domain_adapter=(str(folder / "v3_sd15_adapter.ckpt"), 0.5))


def domain_adapter_that_is_nowhere(folder):
    return replace(usual(folder), domain_adapter=(str(folder / "elsewhere.safetensors"), 0.5))


def vae_of_another_scale(folder):
    return replace(usual(folder), vae=str(folder / "xl" / "vae"))


def vae_cut_short(folder):
    file = folder / "vae.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return with_vae(folder)


def vae_that_is_a_lora(folder):
    return replace(usual(folder), vae=str(folder / "lora.safetensors"))


def vae_that_is_an_adapter(folder):
    return replace(usual(folder), vae=str(folder / "sd-adapter"))


def vae_that_is_nowhere(folder):
    return replace(usual(folder), vae=str(folder / "elsewhere.safetensors"))


CASES = {  # and what the sentence must say
    adapter_of_xl_on_sd: "is for another family of UNets: its levels have 32, 32, 64 channels",
    adapter_of_sd_on_xl: "is for another family of UNets: its levels have 32, 32, 64, 64 channels",
    published_weights_on_another_family: "are for another family: their bases take text that is 768 wide",
    claimed_but_missing_middle: "lacks mid_block.motion_modules, which its config claims",
    adapter_that_lacks_a_tensor: r"do not fit: 1 missing \(up_blocks.1",
    adapter_with_another_tensor_besides: "another family of UNets|1 unexpected",
    adapter_with_a_misshapen_tensor: "1 misshapen",
    adapter_with_nan: "holds values that are no numbers",
    adapter_cut_short: "cannot read the adapter",
    adapter_as_a_pickle: r"\.safetensors only, as others can run code",
    heads_that_do_not_divide: "`heads` must divide the 32 channels; received 7",
    no_motion_weights_at_all: "there are no motion weights in",
    motion_weights_that_are_a_unet: "holds no motion modules",
    motion_weights_that_are_nowhere: "cannot find the motion weights .*elsewhere",
    base_that_is_an_adapter: "the model folder .* lacks model_index.json",
    base_for_inpainting: "takes 9 channels where latents have 4",
    base_of_a_kind_that_is_not_supported: "unet of class SD3Transformer2DModel: supported are",
    xl_without_its_second_encoder: "lacks text_encoder_2/config.json",
    text_encoder_that_lacks_a_tensor: "the text_encoder in .* lacks 1 weights",
    vae_as_a_pickle: "lacks vae/diffusion_pytorch_model.safetensors",
    scheduler_that_is_no_json: "scheduler_config.json is not a JSON object",
    lora_of_another_family: "the LoRA .* is for another family: the unet has no layer down_blocks.0",
    lora_with_nan: "the LoRA .* holds values that are not numbers",
    lora_that_lacks_a_factor: "the LoRA .* lacks factors of unet.down_blocks",
    lora_that_is_an_adapter: "is a motion adapter of AnimateDiff: .* it is not supported as a LoRA",
    style_of_another_family: "the style .* is of another family",
    adapter_in_two_variants: "sd-adapter holds several variants of one adapter",
    camera_of_another_adapter: "camera.safetensors does not fit: the MotionLoRA is for another adapter",
    camera_on_motion_weights_of_lumiere: "camera.safetensors does not fit: a MotionLoRA needs motion weights",
    camera_that_is_a_lora_of_the_base: "lora.safetensors is no MotionLoRA: it has no keys of motion modules",
    camera_that_is_an_adapter: f"{WEIGHTS} is no MotionLoRA of a known kind: unknown key",
    camera_that_lacks_a_factor: "camera.safetensors has no matching pair of low-rank matrices",
    camera_with_nan: "camera.safetensors does not fit: the MotionLoRA holds values that are not finite",
    camera_cut_short: "cannot read the MotionLoRA .*camera.safetensors: it is damaged",
    camera_that_is_nowhere: "cannot find the MotionLoRA zoom-sideways",
    lora_that_is_a_camera: "camera.safetensors is a motion LoRA of AnimateDiff, .* not supported as a LoRA",
    domain_adapter_of_another_family: "the LoRA .*lora.safetensors is for another family",
    domain_adapter_as_a_pickle: r"v3_sd15_adapter.ckpt v3_sd15_adapter.safetensors converts",
    domain_adapter_that_is_nowhere: "cannot find the LoRA .*elsewhere.safetensors",
    vae_of_another_scale: "the VAE .*xl/vae is for another family: its scaling factor is 0.13025",
    vae_cut_short: "cannot read the VAE .*vae.safetensors: it is damaged",
    vae_that_is_a_lora: "lora.safetensors is a LoRA; it is not supported as a VAE",
    vae_that_is_an_adapter: "the VAE .*sd-adapter is of class MotionAdapter: supported is AutoencoderKL",
    vae_that_is_nowhere: "cannot find the VAE .*elsewhere.safetensors",
}


def test_what_is_damaged_here_loads_when_it_is_whole(folder):
    xl = Model(str(folder / "xl"), str(folder / "xl-adapter"))
    models = [make(folder) for make in (usual, with_lora, with_camera, with_vae, with_domain_adapter)]
    for model in (*models, xl):
        LumierePipeline.from_pretrained(model, device="cpu")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_wrong_pairings_and_broken_files_are_errors_in_words(folder, case):
    with pytest.raises((OSError, ValueError), match=CASES[case]) as caught:
        LumierePipeline.from_pretrained(case(folder), device="cpu")
    told = str(caught.value)
    assert "\n" not in told and told.endswith((".", ")"))


def test_thirty_cases_and_more():
    assert len(CASES) >= 30
