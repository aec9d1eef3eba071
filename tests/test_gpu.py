"""The pipeline on an accelerator: moved, offloaded by component and by layer."""

import numpy as np
import pytest
import torch

from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from tests.clips import last

pytestmark = pytest.mark.gpu

REQUEST = Request("a red ball", frames=8, steps=2, seed=3)
CLOSE = 3  # of 255, between devices and orders of summation


def device() -> str:
    return torch.accelerator.current_accelerator().type


@pytest.fixture(scope="module")
def expected(tiny_model):
    return last(LumierePipeline.from_pretrained(tiny_model, device="cpu"), REQUEST).frames.astype(int)


def test_to_moves_base_and_temporal_layers(tiny_model, expected):
    pipeline = LumierePipeline.from_pretrained(tiny_model, device="cpu").to(device())
    moved = [pipeline.lumiere, pipeline.base.unet, pipeline.base.vae, pipeline.base.text_encoder]
    assert all(weight.device.type == device() for module in moved for weight in module.parameters())
    assert np.abs(last(pipeline, REQUEST).frames - expected).max() <= CLOSE
    assert np.abs(last(pipeline.to("cpu"), REQUEST).frames - expected).max() == 0


@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_group_offload"])
def test_offloading_leaves_the_weights_on_the_cpu(tiny_model, expected, way):
    pipeline = LumierePipeline.from_pretrained(tiny_model, device="cpu")
    getattr(pipeline, way)(device())
    assert np.abs(last(pipeline, REQUEST).frames - expected).max() <= CLOSE
    weights = [*pipeline.lumiere.parameters(), *pipeline.base.unet.parameters()]
    assert {weight.device.type for weight in weights} == {"cpu"}
