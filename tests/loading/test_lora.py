"""LoRA files against diffusers' own loading of them (with peft), and blends of two bases."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere.loading.components import load_base
from lumiere.loading.lora import Styler
from lumiere.loading.registry import Model
from lumiere.loading.styles import Style, read_lora
from lumiere.model.animatediff import convert
from lumiere.pipeline import LumierePipeline
from tests.bases import components, save_adapter, save_base
from tests.marks import soak
from tests.test_bases import BAR, SEEN, difference, frames_of, theirs, theirs_of

pytestmark = pytest.mark.slow

RANK = 2
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "out_proj", "fc1", "proj_in", "conv1")
REQUEST = replace(SEEN, guidance=7.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`sd` and `xl` with their adapters, `style`, another base like `sd`, and LoRAs of the families."""
    folder = tmp_path_factory.mktemp("styles")
    for family in ("sd", "xl"):
        save_base(folder / family, family)
        parts = components(family)
        save_adapter(folder / f"{family}-adapter", parts["unet"])
        save_file(factors(parts), folder / f"{family}.safetensors")
    save_base(folder / "style", "sd", seed=5)
    return folder


def factors(parts: dict) -> dict[str, torch.Tensor]:
    """Random ones for the layers named, of all components, in peft's keys as diffusers writes them."""
    generator, made = torch.Generator().manual_seed(7), {}
    for name, module in parts.items():
        for path, layer in module.named_modules():
            if name != "vae" and path.endswith(LAYERS) and hasattr(layer, "weight"):
                rows, columns, *kernel = layer.weight.shape
                shapes = {"A": (RANK, columns, *kernel), "B": (rows, RANK, *[1] * len(kernel))}
                for half, shape in shapes.items():
                    weight = torch.randn(shape, generator=generator)
                    made[f"{name}.{path}.lora_{half}.weight"] = weight
    return {key: 0.3 * weight / weight[0].numel() ** 0.5 for key, weight in made.items()}


def save_styled(folder: Path, other: str) -> None:
    """`base` with its `adapter`, another base like it of this name, and ink.safetensors, a LoRA for them."""
    parts = components("sd")
    save_base(folder / "base", "sd")
    save_base(folder / other, "sd", seed=5)
    save_adapter(folder / "adapter", parts["unet"])
    save_file(factors(parts), folder / "ink.safetensors")


def ours(folder: Path, family: str, style: Style) -> LumierePipeline:
    model = Model(str(folder / family), str(folder / f"{family}-adapter"), style=style)
    return LumierePipeline.from_pretrained(model, device="cpu")


def styled(folder: Path, family: str, file: Path, weight: float):
    """The frames that diffusers makes with this LoRA, which peft adds to the layers as they run."""
    pipeline = theirs(folder, family, f"{family}-adapter")
    pipeline.load_lora_weights(str(file), adapter_name="style")
    pipeline.set_adapters(["style"], adapter_weights=[weight])
    return theirs_of(pipeline, REQUEST, ours(folder, family, Style()).scheduler_config)


@pytest.mark.parametrize("family, weight", [("sd", -1.0), *soak(("sd", 0.7), ("xl", 0.7))])
def test_a_lora_looks_as_in_diffusers(folder, family, weight):
    file = folder / f"{family}.safetensors"
    found = frames_of(ours(folder, family, Style(((str(file), weight),))), REQUEST)
    expected = styled(folder, family, file, weight)
    print(f"LoRA on {family} at {weight:g}: {difference(found, expected)}/255 from diffusers")
    assert difference(found, expected) <= BAR
    for other in (0.0, weight / 2):
        frames = frames_of(ours(folder, family, Style(((str(file), other),))), REQUEST)
        assert difference(frames, expected) > BAR


@pytest.fixture(scope="module")
def reference(folder):
    """The pipeline of diffusers, and the scheduler config of ours."""
    return theirs(folder, "sd", "sd-adapter"), ours(folder, "sd", Style()).scheduler_config


@pytest.mark.parametrize("layout", ["kohya", *soak("peft", "diffusers")])
def test_two_loras_with_weights_look_as_in_diffusers(folder, tmp_path, reference, layout):
    """Of the UNet and the text encoder, loaded by `restyle` and by `pipeline.base` itself."""
    first = load_file(folder / "sd.safetensors")
    second = {
        key: weight.flip(0) for key, weight in first.items() if ".attn2." in key or ".self_attn." in key
    }
    for name, weights in {"a": first, "b": second}.items():
        old, _, kohya, alphas = layouts(weights)
        written = {"peft": weights, "diffusers": old, "kohya": kohya | alphas}[layout]
        save_file(written, tmp_path / f"{name}.safetensors")
    their, config = reference
    their.unload_lora_weights()
    for name in "ab":
        their.load_lora_weights(str(tmp_path / f"{name}.safetensors"), adapter_name=name)
    their.set_adapters(["a", "b"], adapter_weights=[0.7, -0.4])
    expected = theirs_of(their, REQUEST, config)
    style = Style(((str(tmp_path / "a.safetensors"), 0.7), (str(tmp_path / "b.safetensors"), -0.4)))
    pipeline = ours(folder, "sd", style)
    found = difference(frames_of(pipeline, REQUEST), expected)
    print(f"two LoRAs in the layout of {layout}: {found}/255 from diffusers")
    assert found <= BAR
    pipeline.restyle(Style())
    assert difference(frames_of(pipeline, REQUEST), expected) > BAR
    for name in "ab":
        pipeline.base.load_lora_weights(str(tmp_path / f"{name}.safetensors"), adapter_name=name)
    pipeline.base.set_adapters(["a", "b"], adapter_weights=[0.7, -0.4])
    assert difference(frames_of(pipeline, REQUEST), expected) <= BAR


def test_other_tensors_are_left_out_with_a_note(folder, tmp_path):
    """Such as an embedding that is bundled with a LoRA."""
    weights = load_file(folder / "sd.safetensors")
    save_file(weights | {"bundle_emb.ink.string_to_param.*": torch.zeros(1)}, tmp_path / "ink.safetensors")
    pipeline = ours(folder, "sd", Style(((str(tmp_path / "ink.safetensors"), 1.0),)))
    (note,) = [note for note in pipeline.notes if "LoRA" in note]
    assert note.startswith("1 tensors in the LoRA") and "bundle_emb.ink" in note
    unknown = {"unet.mid_block.resnets.0.conv1.hada_w1_a": torch.zeros(1)}
    save_file(weights | unknown, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is a LoHa"):
        pipeline.restyle(Style(((str(tmp_path / "other.safetensors"), 1.0),)))


def base_weights(folder: Path, style: Style, name: str = "sd") -> dict[str, torch.Tensor]:
    """Of the UNet and the text encoder of a model, with the LoRAs merged into them."""
    base = load_base(folder / name, torch.float32)
    Styler(base, folder / name).apply(style)
    if style.loras:
        base.fuse_lora()
        base.unload_lora_weights()
    parts = {"unet": base.unet, "text_encoder": base.text_encoder}
    states = {name: part.state_dict() for name, part in parts.items()}
    return {f"{name}.{key}": weight for name, state in states.items() for key, weight in state.items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(weight, other[key], atol=1e-6) for key, weight in one.items()
    )


def layouts(peft: dict[str, torch.Tensor]) -> tuple[dict, dict, dict, dict]:
    """A file in both layouts of diffusers and in that of kohya's trainer, whose alphas come last."""
    old, older, kohya, alphas = {}, {}, {}, {}
    for key, weight in peft.items():
        component, _, path = key.removesuffix(".weight").partition(".")
        layer, half = path.rsplit(".lora_", 1)
        way = {"A": "down", "B": "up"}[half]
        infix = "lora" if component == "unet" else "lora_linear_layer"
        old[f"{component}.{layer}.{infix}.{way}.weight"] = weight
        short = {"unet": "unet", "text_encoder": "te"}[component]
        text = "text_model." * (component == "text_encoder")
        name = f"lora_{short}_{(text + layer).replace('.', '_')}"
        kohya[f"{name}.lora_{way}.weight"] = weight
        alphas[f"{name}.alpha"] = torch.tensor(RANK / 2)
        if component == "unet" and ".to_" in layer:
            block, _, end = layer.removesuffix(".0").rpartition(".")
            older[f"unet.{block}.processor.{end}_lora.{way}.weight"] = weight
    return old, older, kohya, alphas


def test_every_layout_of_a_file_gives_the_same_weights(folder, tmp_path):
    """Keys of peft, both of diffusers, and of kohya's trainer, with alpha in the file or in its header."""
    peft = load_file(folder / "sd.safetensors")
    old, older, kohya, alphas = layouts(peft)
    expected = base_weights(folder, Style(((str(folder / "sd.safetensors"), 0.5),)))
    plain = base_weights(folder, Style())
    merged = dict(plain)
    for key in [key.removesuffix(".lora_A.weight") for key in peft if key.endswith(".lora_A.weight")]:
        up, down = peft[f"{key}.lora_B.weight"], peft[f"{key}.lora_A.weight"]
        product = 0.5 * up.flatten(1) @ down.flatten(1)
        merged[f"{key}.weight"] = plain[f"{key}.weight"] + product.reshape(plain[f"{key}.weight"].shape)
    assert same(expected, merged)
    assert not same(expected, base_weights(folder, Style()))
    config = {"r": RANK, "lora_alpha": 1, "target_modules": list(LAYERS)}
    config = {f"{part}.{name}": x for part in ("unet", "text_encoder") for name, x in config.items()}
    header = {"lora_adapter_metadata": json.dumps(config)}
    for weights, metadata, weight in (
        (old, None, 0.5),
        (kohya, None, 0.5),
        (kohya | alphas, None, 1.0),
        (peft, header, 1.0),
    ):
        save_file(weights, tmp_path / "file.safetensors", metadata=metadata)
        assert same(base_weights(folder, Style(((str(tmp_path / "file.safetensors"), weight),))), expected)
    attention = {key: w for key, w in peft.items() if key.startswith("unet") and ".to_" in key}
    found = []
    for weights in (older, attention):
        save_file(weights, tmp_path / "file.safetensors")
        found.append(base_weights(folder, Style(((str(tmp_path / "file.safetensors"), 1.0),))))
    assert len(older) == len(attention) and same(*found)


def test_files_add_up(folder):
    file, plain = str(folder / "sd.safetensors"), base_weights(folder, Style())
    twice = base_weights(folder, Style(((file, 0.25), (file, 0.5))))
    assert same(twice, base_weights(folder, Style(((file, 0.75),)))) and not same(twice, plain)
    assert same(base_weights(folder, Style(((file, 0.5), (file, -0.5)))), plain)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_a_blend_is_the_mean_of_both_bases(folder, alpha):
    plain, other = base_weights(folder, Style()), base_weights(folder, Style(), "style")
    expected = {key: alpha * other[key] + (1 - alpha) * weight for key, weight in plain.items()}
    assert not same(plain, other)
    found = base_weights(folder, Style(base=str(folder / "style"), alpha=alpha))
    assert same(found, expected)
    file = str(folder / "sd.safetensors")  # is added to the blend
    both = base_weights(folder, Style(((file, 1.0),), str(folder / "style"), alpha))
    added = base_weights(folder, Style(((file, 1.0),)))
    assert same(both, {key: expected[key] + added[key] - plain[key] for key in plain})


def test_another_style_is_put_into_a_loaded_model_in_place(folder):
    file = str(folder / "sd.safetensors")
    style = Style(((file, 0.8),), str(folder / "style"), 0.6)
    pipeline = ours(folder, "sd", Style())
    plain = frames_of(pipeline, REQUEST)
    with pytest.raises(ValueError, match="another family"):
        pipeline.restyle(Style(((str(folder / "xl.safetensors"), 1.0),)))
    assert np.array_equal(frames_of(pipeline, REQUEST), plain)
    pipeline.restyle(style)
    assert np.array_equal(frames_of(pipeline, REQUEST), frames_of(ours(folder, "sd", style), REQUEST))
    pipeline.restyle(Style())
    assert np.array_equal(frames_of(pipeline, REQUEST), plain)


def test_weights_and_alphas_out_of_range_are_refused():
    assert read_lora("a/b.safetensors") == ("a/b.safetensors", 1.0)
    assert read_lora("C:/b.safetensors:0.5") == ("C:/b.safetensors", 0.5)
    assert read_lora("C:/b.safetensors") == ("C:/b.safetensors", 1.0)
    for weight in (5.0, float("nan")):
        with pytest.raises(ValueError, match="weight of the LoRA a must be from -4 to 4: received"):
            Style((("a", weight),))
    with pytest.raises(ValueError, match="alpha must be from 0 to 1: received 1.5"):
        Style(alpha=1.5)


def test_a_domain_adapter_is_converted_and_adds_what_the_same_lora_adds(folder, tmp_path):
    parts = {"unet": components("sd")["unet"]}
    named = {key: weight for key, weight in factors(parts).items() if ".attn" in key}
    save_file(named, tmp_path / "named.safetensors")
    halves = {".lora_A.": "_lora.down.", ".lora_B.": "_lora.up."}
    original = {}
    for key, weight in named.items():
        half = next(half for half in halves if half in key)
        layer, name = key.removeprefix("unet.").replace(".to_out.0", ".to_out").split(half)[0].rsplit(".", 1)
        original[f"module.{layer}.processor.{name}{halves[half]}weight"] = weight
    torch.save({"state_dict": original}, tmp_path / "v3_sd15_adapter.ckpt")
    with pytest.raises(ValueError, match="v3_sd15_adapter.ckpt v3_sd15_adapter.safetensors converts"):
        ours(folder, "sd", Style(loras=((str(tmp_path / "v3_sd15_adapter.ckpt"), 1.0),)))
    convert(tmp_path / "v3_sd15_adapter.ckpt", tmp_path / "v3_sd15_adapter.safetensors")
    clips = [
        frames_of(ours(folder, "sd", Style(loras=((str(tmp_path / f"{name}.safetensors"), 1.0),))), REQUEST)
        for name in ("named", "v3_sd15_adapter")
    ]
    assert np.array_equal(*clips)


def test_a_file_of_another_kind_is_refused_by_its_name(folder, tmp_path):
    save_file({"lora_unet_mid_block_x.hada_w1_a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="x.safetensors is a LoHa .* not supported as a LoRA"):
        ours(folder, "sd", Style(loras=((str(tmp_path / "x.safetensors"), 1.0),)))


def test_a_bundled_embedding_is_left_out_and_said(folder, tmp_path):
    weights = load_file(folder / "sd.safetensors") | {"bundle_emb.ink.string_to_param.*": torch.ones(1, 16)}
    save_file(weights, tmp_path / "x.safetensors")
    pipeline = ours(folder, "sd", Style(loras=((str(tmp_path / "x.safetensors"), 1.0),)))
    assert any("1 tensors in the LoRA" in note and "bundle_emb" in note for note in pipeline.notes)
