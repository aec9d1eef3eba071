"""Motion scale and windowed attention of AnimateDiff layers, compared with the base and with diffusers."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNetMotionModel
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin

from lumiere.model.adapter_options import set_motion_scale, window_attention
from lumiere.model.lumiere import Lumiere
from tests.model.test_animatediff import POSITIONS, inputs

FRAMES, LENGTH, STRIDE = 11, 4, 2


@torch.no_grad()
def test_scale_runs_from_the_base_to_the_adapter(unet, lumiere):
    (video, time, text), _ = inputs("sd", clips=1)
    usual = lumiere(video, time, text).sample
    set_motion_scale(lumiere, 0.0)
    frames = lumiere(video, time, text).sample[0].transpose(0, 1)
    texts = text.expand(len(frames), -1, -1)
    expected = unet(video[0].transpose(0, 1), time.expand(len(frames)), texts).sample
    assert (frames - expected).abs().max() <= 1e-6
    set_motion_scale(lumiere, 1.15)
    assert (lumiere(video, time, text).sample - usual).abs().max() > 1e-3
    set_motion_scale(lumiere, 1.0)
    assert torch.equal(lumiere(video, time, text).sample, usual)


class Theirs(AnimateDiffFreeNoiseMixin):
    """Only what the mixin needs of a pipeline."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, unet, positions):
        self.unet = unet
        self.motion_adapter = SimpleNamespace(config=SimpleNamespace(motion_max_seq_length=positions))


@torch.no_grad()
def test_windows_are_those_of_free_noise(unet, adapter, lumiere):
    (video, time, text), _ = inputs("sd", clips=2, frames=FRAMES)
    model = UNetMotionModel.from_unet2d(unet, adapter).eval()
    Theirs(model, POSITIONS).enable_free_noise(context_length=LENGTH, context_stride=STRIDE)
    expected = model(video, time, text.repeat_interleave(FRAMES, dim=0)).sample
    with pytest.raises(ValueError, match=f"know {POSITIONS} frames at most"):
        lumiere(video, time, text)
    before = {key: weight.data_ptr() for key, weight in lumiere.state_dict().items()}
    window_attention(lumiere, (LENGTH, STRIDE))
    assert (lumiere(video, time, text).sample - expected).abs().max() <= 1e-5
    assert before == {key: weight.data_ptr() for key, weight in lumiere.state_dict().items()}


@pytest.mark.parametrize("length, stride", [(POSITIONS + 1, 2), (4, 5), (4, 0)])
def test_refuses_windows_that_do_not_fit(lumiere, length, stride):
    with pytest.raises(ValueError, match=f"received {length} and {stride}"):
        window_attention(lumiere, (length, stride))


def test_refuses_motion_weights_of_lumiere(unet):
    with pytest.raises(ValueError, match="needs motion weights of AnimateDiff"):
        set_motion_scale(Lumiere.from_unet(unet), 1.1)
