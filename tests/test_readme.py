"""The examples of the README run as they stand, on small models in the layouts that they name."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from torch import nn

from lumiere import models
from lumiere.media.video import read_clip
from lumiere.model.lumiere import Lumiere

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (8, 16, 16, 16)


def examples(word: str) -> list[str]:
    """The Python blocks of the README that hold this word."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    return [block for block in blocks if word in block]


class Block(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(width, out, 3, padding=1), nn.SiLU())


class PlainUnet(nn.Module):
    """A UNet of torch modules with the names of the README."""

    def __init__(self):
        super().__init__()
        down, up = Block(3, 8), Block(16, 8)
        down.down = nn.Conv2d(8, 8, 2, stride=2)
        up.up = nn.Upsample(scale_factor=2)
        self.downs, self.ups = nn.ModuleList([down]), nn.ModuleList([up])
        self.mid, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x, time):
        skip = self.downs[0].block(x)
        x = self.ups[0].up(self.mid(self.downs[0].down(skip)))
        return self.out(self.ups[0].block(torch.cat((x, skip), 1))) + time[:, None, None, None]


def test_the_model_as_a_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=WIDTHS,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    base.save_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5/unet")
    adapter = MotionAdapter(WIDTHS, motion_norm_num_groups=4, motion_num_attention_heads=2)
    adapter.save_pretrained("animatediff-motion-adapter-v1-5-3")
    (example,) = examples("load_adapter(")
    names = {"plain_unet": PlainUnet(), "video": torch.randn(2, 3, 4, 64, 64), "times": torch.rand(2)}
    with torch.no_grad():
        exec(compile(example, "README.md", "exec"), names)
    assert isinstance(names["model"], Lumiere) and (tmp_path / "motion" / "motion.safetensors").exists()


@pytest.mark.slow
def test_a_clip_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.setattr(models, "_resident", [])
    (example,) = examples("write_clip(")
    exec(compile(example, "README.md", "exec"), {})
    assert read_clip(tmp_path / "heart.mp4")[0].shape == (32, 128, 128, 3)
    assert capsys.readouterr().out.count("Progress(") == 3 * 20  # a still and two segments
