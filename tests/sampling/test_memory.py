"""The estimate of memory: against what really is alive at once, and what does not fit is refused in words."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.sampling import memory

REQUEST = Request("a red ball", frames=16, height=64, width=64, steps=1, seed=0)


@pytest.fixture(scope="module")
def pipeline(tiny_model) -> LumierePipeline:
    return LumierePipeline.from_pretrained(tiny_model, device="cpu")


def test_bytes_are_those_alive_at_once():
    layer = nn.Linear(256, 1024, bias=False)

    def run(x):  # two of 4 kB for each row, then one of them and one of 1 kB
        x = layer(x)
        x = x * 2
        return x[:, :256] + 1

    assert memory.peak(run, (8, 256), like=layer.weight) == 2 * 8 * 4096
    assert memory.peak(lambda x: [layer(x) for _ in range(3)], (1, 256), like=layer.weight) == 3 * 4096
    assert memory.peak(lambda x: x.view(-1).relu_(), (8, 256), like=layer.weight) == 0
    assert memory.weight_bytes(layer, nn.Sequential(layer)) == 4 * 256 * 1024


@pytest.mark.slow
@pytest.mark.parametrize("frames, size", [(8, 8), (16, 8), (16, 16), (32, 8)])
def test_the_cost_of_a_step_and_of_decoding_is_what_they_take(pipeline, frames, size):
    text, shape = pipeline.encode_prompt(replace(REQUEST, guidance=1.0)), (1, 4, frames, size, size)
    with torch.no_grad(), memory.Peak() as step:
        pipeline.lumiere(torch.zeros(shape), torch.zeros(()), return_dict=False, **text.arguments)
    with torch.no_grad(), memory.Peak() as decoding:
        pipeline.vae.decode(torch.zeros(1, 4, size, size))
    cost = pipeline.cost
    told = cost.of(1, frames, size, size) / memory.MARGIN
    assert told == pytest.approx(max(step.bytes, decoding.bytes), rel=0.1)
    assert replace(cost, moved=10**9).of(1, frames, size, size) > memory.MARGIN * 10**9


@pytest.mark.slow
def test_a_clip_that_does_not_fit_is_refused_before_it_is_begun(pipeline, monkeypatch):
    long = replace(REQUEST, frames=128, height=256, width=256)
    needed = pipeline.cost.of(1, 128, 32, 32)
    monkeypatch.setattr(memory, "available", lambda device: needed - 1)
    with pytest.raises(
        ValueError, match=r"needs about 0\.\d GB of memory on the device and 0\.\d GB are free"
    ):
        pipeline.generate(long)
    pipeline.generate(REQUEST)  # a small one is not measured
    monkeypatch.setattr(memory, "available", lambda device: needed)
    pipeline.generate(long)
    longer = replace(long, frames=256, height=160, width=160)  # in windows of 128 frames
    monkeypatch.setattr(memory, "available", lambda device: pipeline.cost.of(2, 128, 20, 20))
    pipeline.generate(longer)


@pytest.mark.parametrize(
    "files, free",
    [
        (
            {
                "memory.max": "7000\n",
                "memory.current": "6000\n",
                "memory.stat": "anon 1\ninactive_file 2500\n",
            },
            3500,
        ),
        ({"memory.max": "max\n", "memory.current": "6000\n", "memory.stat": "inactive_file 2500\n"}, None),
        (
            {
                "memory/memory.limit_in_bytes": "9000\n",
                "memory/memory.usage_in_bytes": "8000\n",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 500\n",
            },
            1500,
        ),
        ({}, None),
    ],
)
def test_a_container_has_what_it_may_take_and_the_cache_that_it_can_give_back(
    tmp_path, monkeypatch, files, free
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    found = memory.available(torch.device("cpu"))
    assert found == free if free else found > 2**24


@pytest.mark.parametrize(
    "error, expected",
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 2 GB."), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("the device ran out of memory: lower frames, height or width."), False),
    ],
)
def test_what_devices_say_when_memory_runs_out_is_known_and_what_we_say_is_not(error, expected):
    assert memory.is_out_of_memory(error) == expected


def test_there_is_memory():
    assert 2**24 < memory.available(torch.device("cpu")) < 2**50
