"""Options for speed and memory: compilation, storage of weights, channels last, group offloading."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import MotionAdapter, UNetMotionModel
from diffusers.hooks.group_offloading import ModuleGroup
from safetensors.torch import save_file

from lumiere import models
from lumiere.loading.registry import Model
from lumiere.loading.styles import Style
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.sampling.memory import weight_bytes
from lumiere.sampling.settings import Speed
from tests.bases import components, save_adapter, save_base
from tests.loading.test_lora import factors
from tests.test_bases import SEEN, difference, frames_of

pytestmark = pytest.mark.slow

QUARTER = {"block_out_channels": (80, 160, 320, 320), "layers_per_block": 2}  # of Stable Diffusion 1.5
REQUEST = Request(
    "a red ball", frames=4, height=64, width=64, steps=1, seed=0, guidance=1.0, first_frame="none"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    save_base(folder / "sd", "sd")
    save_adapter(folder / "adapter", components("sd")["unet"])
    save_file(factors({"unet": components("sd")["unet"]}), folder / "lora.safetensors")
    return folder


@pytest.fixture(params=["adapter", "own"])
def model(request, folder, tiny_model) -> Model:
    """With an adapter, and with Lumiere's own layers."""
    if request.param == "adapter":
        return Model(str(folder / "sd"), str(folder / "adapter"))
    return Model(str(tiny_model))


def loaded(model: Model, **speed) -> LumierePipeline:
    return LumierePipeline.from_pretrained(replace(model, speed=Speed(**speed)), device="cpu")


def test_blocks_are_compiled_and_give_the_same_frames(model):
    torch.compiler.reset()
    expected, graphs = frames_of(loaded(model), REQUEST), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    pipeline = loaded(model)
    pipeline.enable_compile(backend=backend)
    assert not graphs  # at the first call
    assert difference(frames_of(pipeline, REQUEST), expected) <= 1
    found = len(graphs)
    assert found >= 2
    frames_of(pipeline, replace(REQUEST, seed=1))
    assert len(graphs) == found  # once


def test_compilation_is_an_option(model, monkeypatch):
    options = []
    monkeypatch.setattr(LumierePipeline, "enable_compile", lambda self, **given: options.append(given))
    loaded(model)
    assert options == []
    loaded(model, compile=True)
    assert options == [{}]


@pytest.mark.parametrize("storage, share", [("fp8", 0.55), ("bf16", 0.8)])
def test_stored_weights_are_smaller_and_frames_alike(model, storage, share):
    plain, small = loaded(model), loaded(model, storage=storage)
    bytes_of = [weight_bytes(p.lumiere, p.base.unet, p.base.text_encoder) for p in (plain, small)]
    assert bytes_of[1] < share * bytes_of[0]
    one, other = (frames_of(pipeline, REQUEST).astype(float) for pipeline in (plain, small))
    assert 0 < np.abs(one - other).mean() < 8
    assert small.lumiere.dtype == torch.float32


def test_a_lora_at_loading_stays_and_another_one_is_refused(folder):
    style = Style(((str(folder / "lora.safetensors"), 0.7),))
    model = Model(str(folder / "sd"), str(folder / "adapter"), style=style)
    one, other = frames_of(loaded(model), SEEN), frames_of(small := loaded(model, storage="bf16"), SEEN)
    assert np.abs(one.astype(float) - other).mean() < 8
    small.restyle(style.weighted((0.2,)))
    with pytest.raises(ValueError, match="take no further LoRA: give LoRAs at loading"):
        small.restyle(Style((*style.loras, ("another.safetensors", 1.0))))


def test_stable_diffusion_at_a_quarter_of_its_width_takes_half_the_memory_in_fp8(tmp_path):
    save_base(tmp_path / "sd", "sd", **QUARTER)
    save_adapter(tmp_path / "adapter", components("sd", **QUARTER)["unet"])
    model = Model(str(tmp_path / "sd"), str(tmp_path / "adapter"))
    found = []
    for storage in (None, "fp8"):
        pipeline = LumierePipeline.from_pretrained(
            replace(model, speed=Speed(storage=storage)), device="cpu", dtype=torch.bfloat16
        )
        parts = [part for part in pipeline.base.components.values() if isinstance(part, torch.nn.Module)]
        found.append(weight_bytes(pipeline.lumiere, *parts))
    print(f"fp8 {found[1]} of {found[0]} bytes in bfloat16: {found[1] / found[0]:.3f}")
    assert found[1] <= 0.55 * found[0]


def test_channels_last_gives_the_same_frames(model):
    pipeline = loaded(model, channels_last=True)
    weight = pipeline.base.unet.conv_out.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert difference(frames_of(pipeline, REQUEST), frames_of(loaded(model), REQUEST)) <= 1


def most_at_once(monkeypatch, run) -> int:
    """Returns the peak of the bytes of weights that group offloading holds on the device."""
    sizes = {"now": 0, "most": 0}

    def counted(name: str, sign: int):
        original = getattr(ModuleGroup, name)

        def call(group):
            held = [w for part in group.modules for w in (*part.parameters(), *part.buffers())]
            held += [*group.parameters, *group.buffers]
            sizes["now"] = max(0, sizes["now"] + sign * sum(w.nbytes for w in held))
            sizes["most"] = max(sizes.values())
            return original(group)

        monkeypatch.setattr(ModuleGroup, name, call)

    counted("onload_", 1)
    counted("offload_", -1)
    run()
    return sizes["most"]


def test_group_offloading_holds_as_much_as_that_of_diffusers(folder, monkeypatch):
    text, time = torch.zeros(1, 16, 16), torch.zeros(1)
    unet = components("sd")["unet"]
    theirs = UNetMotionModel.from_unet2d(unet, MotionAdapter.from_pretrained(folder / "adapter")).eval()
    theirs.enable_group_offload("cpu", offload_type="leaf_level")
    ours = loaded(Model(str(folder / "sd"), str(folder / "adapter")), group_offload=True)
    clip = torch.zeros(1, 4, 8, 8, 8)
    with torch.no_grad():
        with monkeypatch.context() as patch:
            expected = most_at_once(patch, lambda: theirs(clip, time, text.expand(8, -1, -1)))
        with monkeypatch.context() as patch:
            found = most_at_once(patch, lambda: ours.lumiere(clip, time, text))
    print(f"most weights at once: {found} bytes, of diffusers {expected}")
    assert 0 < found <= expected < 0.2 * weight_bytes(theirs)


def test_speed_is_chosen_by_options():
    given = ["--model", "a", "--storage", "fp8", "--compile", "--channels-last", "--group-offload"]
    (model,) = models.allowed(models.options("").parse_args(given)).values()
    assert model.speed == Speed(compile=True, channels_last=True, storage="fp8", group_offload=True)
    with pytest.raises(ValueError, match="--offload and --group-offload exclude each other"):
        models.allowed(models.options("").parse_args([*given, "--offload"]))
    with pytest.raises(ValueError, match="storage must be one of fp8, bf16: received int4"):
        Speed(storage="int4")
