"""Row 29. The kernel gives a process no more memory, so that the real allocator refuses."""

import resource

import numpy as np
import pytest
import torch

from lumiere.media.video import read_clip
from tests.conftest import tiny_vae
from tests.security.server import Process

pytestmark = pytest.mark.slow
MB = 2**20


def leave(process: Process, megabytes: int | None) -> None:
    """Lets the process have so much more address space than it has now, or any amount again."""
    size = resource.RLIM_INFINITY
    if megabytes is not None:
        size = process.status("VmSize") * 1024 + megabytes * MB
    resource.prlimit(process.process.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def test_a_unet_without_memory_says_what_to_lower_and_the_next_job_succeeds(tiny_model, tmp_path):
    with Process(tiny_model, tmp_path, LUMIERE_MAX_PIXELS=str(2**28)) as process:
        stranger = process.stranger()
        large = {"frames": 256, "height": 1024, "width": 1024}  # features of 134 MB
        # Threads and compiled kernels take address space once. After a failed job the allocator may give back
        # memory without its addresses, and later threads and kernels would find none below the limit.
        assert stranger.generate()[0] == "complete" and stranger.make()["state"] == "done"
        leave(process, 300)
        for _ in range(2):
            told = stranger.refusal(**large)
            assert told == "The device ran out of memory: lower frames, height or width."
        page = stranger.make()
        assert page["state"] == "done", (page, process.said()[-3000:])
        outcome, told = stranger.generate()
        assert outcome == "complete", told
        assert process.said().count("outcome=refused") == 2 and len(process.files()) == 4


@pytest.fixture
def wide_decoder(tiny_model, tmp_path):
    """The tiny model with a decoder that takes 0.4 GB for 16 frames of 128 x 128, in one slice."""
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    torch.manual_seed(0)
    tiny_vae(block_out_channels=(96, 8, 8, 8)).save_pretrained(folder / "vae")
    return folder


def test_a_decoder_without_memory_is_retried_in_slices(wide_decoder, tmp_path):
    asked = {"frames": 16, "height": 128, "width": 128, "steps": 1}
    with Process(wide_decoder, tmp_path) as process:
        stranger = process.stranger()
        outcome, told = stranger.generate(**asked | {"frames": 4})  # threads take address space once
        assert outcome == "complete", told
        before = process.status("VmSize")
        leave(process, 200)
        outcome, told = stranger.generate(**asked)
        assert outcome == "complete", told
        assert process.status("VmPeak") <= before + 200 * 1024
        leave(process, None)
        whole, other = (stranger.generate(**asked, seed=seed)[1][0]["path"] for seed in (7, 8))
        assert process.status("VmPeak") > before + 220 * 1024  # it had not fitted in one slice
        sliced, whole, other = (read_clip(path)[0].astype(int) for path in (told[0]["path"], whole, other))
        assert sliced.shape == (16, 128, 128, 3)
        assert np.abs(sliced - whole).mean() < 2 < 10 < np.abs(other - whole).mean()  # but for the encoder
