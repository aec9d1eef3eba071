"""One model at a time on the device: the first goes before the next one comes, and leaves nothing behind."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import cpu_offload_with_hook
from safetensors.torch import save_file

from lumiere import models
from lumiere.loading.assembly import load
from lumiere.loading.registry import Model
from lumiere.loading.styles import Style
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.sampling.memory import weight_bytes
from tests.bases import components, save_adapter, save_base
from tests.loading.test_lora import factors

pytestmark = pytest.mark.slow

GROWTH = 0.05
WIDE = {"block_out_channels": (64, 128, 256, 256)}  # 200 MB: one that stays would be seen


def two_models(folder: Path, **unet) -> list[Model]:
    """Two models of one adapter."""
    for seed in (0, 1):
        save_base(folder / str(seed), "sd", seed, **unet)
    save_adapter(folder / "adapter", components("sd", **unet)["unet"])
    return [Model(str(folder / name), str(folder / "adapter")) for name in ("0", "1")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[Model]:
    return two_models(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def wide_pair(tmp_path_factory) -> list[Model]:
    return two_models(tmp_path_factory.mktemp("wide"), **WIDE)


@pytest.fixture(autouse=True)
def nothing_resident():
    models.free()
    yield
    models.free()


def clip(pipeline) -> bytes:
    *_, result = pipeline.generate(Request("a ball", frames=2, height=64, width=64, steps=1, seed=0))
    return result.frames.tobytes()


def growth(pair: list[Model], switches: int = 10) -> float:
    """How much more memory the process has after so many switches than after the first two."""
    process = psutil.Process()
    for model in pair * 2:
        clip(models.get(model, "cpu"))
    before = process.memory_info().rss
    for number in range(switches):
        clip(models.get(pair[number % 2], "cpu"))
    return process.memory_info().rss / before - 1


@pytest.mark.soak
def test_ten_switches_leave_the_memory_as_it_was(wide_pair):
    assert growth(wide_pair) <= GROWTH


def test_the_first_is_gone_before_the_next_is_loaded(pair, monkeypatch):
    modules, seen = weakref.WeakSet(), []

    def watched(model, *args):
        gc.collect()
        seen.append(len(modules))
        base, lumiere, folder = load(model, *args)
        modules.update([lumiere, base.unet, base.vae, base.text_encoder])
        return base, lumiere, folder

    monkeypatch.setattr("lumiere.loading.assembly.load", watched)
    first = clip(models.get(pair[0], "cpu"))
    assert clip(models.get(pair[0], "cpu")) == first and seen == [0]
    assert clip(models.get(pair[1], "cpu")) != first and seen == [0, 0]
    assert clip(models.get(pair[0], "cpu")) == first and seen == [0, 0, 0]


def test_another_style_loads_no_other_model(pair, monkeypatch):
    plain = models.get(pair[0], "cpu")
    first = clip(plain)
    style = Style(base=pair[1].source, alpha=0.5)
    styled = models.get(replace(pair[0], style=style), "cpu")
    assert styled is plain and clip(styled) != first
    assert clip(models.get(pair[0], "cpu")) == first


@pytest.mark.soak
def test_twenty_styles_leave_the_memory_as_it_was(wide_pair, tmp_path):
    save_file(factors({"unet": components("sd", **WIDE)["unet"]}), tmp_path / "ink.safetensors")
    loras = [Style(((str(tmp_path / "ink.safetensors"), weight),)) for weight in (0.5, 1.0)]
    process, sizes = psutil.Process(), []
    for style in [*loras, Style()] * 9:
        clip(models.get(replace(wide_pair[0], style=style), "cpu"))
        sizes.append(process.memory_info().rss)
    assert sizes[-1] / sizes[5] - 1 <= GROWTH


def test_parts_that_take_turns_make_the_same_clip(pair, monkeypatch):
    """On the CPU nothing moves, but every part must be called so that it could come and go."""
    expected, came = clip(models.get(pair[0], "cpu")), []
    pipeline = LumierePipeline.from_pretrained(replace(pair[0], offload=True), device="cpu")
    for name, part in {
        "text": pipeline.base.text_encoder,
        "unet": pipeline.lumiere,
        "vae": pipeline.vae,
    }.items():
        hook = part._hf_hook
        usual = hook.pre_forward

        def arrive(module, *args, name=name, usual=usual, **kwargs):
            came.append(name)
            return usual(module, *args, **kwargs)

        monkeypatch.setattr(hook, "pre_forward", arrive)
    assert clip(pipeline) == expected
    assert list(dict.fromkeys(came)) == ["text", "unet", "vae"]


def test_layers_that_take_turns_make_the_same_clip(pair, tmp_path):
    save_file(factors({"unet": components("sd")["unet"]}), tmp_path / "ink.safetensors")
    style = Style(((str(tmp_path / "ink.safetensors"), 1.0),))
    pipeline = LumierePipeline.from_pretrained(pair[0], device="cpu")
    expected = clip(pipeline)
    pipeline.restyle(style)
    styled = clip(pipeline)
    pipeline.restyle(Style())
    pipeline.enable_group_offload("cpu")
    assert clip(pipeline) == expected != styled
    pipeline.restyle(style)
    assert clip(pipeline) == styled


def test_offloading_of_the_base_alone_is_refused(pair):
    pipeline = LumierePipeline.from_pretrained(pair[0], device="cpu")
    cpu_offload_with_hook(pipeline.base.unet, torch.device("cpu"))  # as base.enable_model_cpu_offload does
    with pytest.raises(ValueError, match="enable_model_cpu_offload of the LumierePipeline instead"):
        clip(pipeline)


def test_a_style_is_changed_while_parts_take_turns(pair, tmp_path):
    save_file(factors(components("sd")), tmp_path / "ink.safetensors")
    style = Style(((str(tmp_path / "ink.safetensors"), 1.0),))
    expected = clip(models.get(replace(pair[0], style=style), "cpu"))
    pipeline = LumierePipeline.from_pretrained(replace(pair[0], offload=True), device="cpu")
    plain = clip(pipeline)
    pipeline.restyle(style)
    assert clip(pipeline) == expected != plain


def test_what_parts_that_take_turns_cost_is_known_before_they_do(pair, monkeypatch):
    """Measured later, their hooks would put tensors without numbers in the place of weights."""
    whole = LumierePipeline.from_pretrained(pair[0], device="cpu")
    pipeline = LumierePipeline.from_pretrained(replace(pair[0], offload=True), device="cpu")
    cost = whole.cost
    monkeypatch.setattr("lumiere.sampling.memory.measure", None)
    moved = weight_bytes(whole.lumiere, whole.lumiere.model)
    assert moved > 0 and pipeline.cost == replace(cost, moved=moved)
