"""A working directory with the files that the docs name, and small models in place of all models."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MotionAdapter
from PIL import Image
from safetensors.torch import load_file, save_file

from lumiere import models
from lumiere.loading import layout, registry
from lumiere.loading.registry import CAMERAS, MODELS
from lumiere.media.video import write_clip
from lumiere.paperworld.evaluate import evaluate
from lumiere.paperworld.training import make
from lumiere.pipeline import LumierePipeline
from lumiere.prompts import spacing
from tests.bases import components, save_adapter, save_base
from tests.checkpoints import save_checkpoint
from tests.docs.reader import ADAPTER, BASE, ROOT
from tests.loading.test_lora import factors
from tests.model.test_animatediff import original_keys
from tests.model.test_motion_lora import factors as motion_factors
from tests.paperworld.puppet import Puppet

MOST_STEPS, MOST_FRAMES = 2, 24  # of a clip
SIDE = 128  # of given pictures and clips, as the embedded model makes them


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Path:
    """A base, also as a checkpoint, an adapter in two layouts and a LoRA, as the published ones are."""
    folder = tmp_path_factory.mktemp("docs") / "stand-ins"
    save_base(folder / "sd", "sd")
    parts = components("sd")
    save_adapter(folder / "adapter", parts["unet"])
    save_file(factors(parts), folder / "lora.safetensors")
    adapter = MotionAdapter.from_pretrained(folder / "adapter")
    save_file(motion_factors(adapter, 0), folder / "camera.safetensors")
    save_file({"<fox-style>": torch.randn(2, 16)}, folder / "fox-style.safetensors")
    save_checkpoint(folder / "sd", folder / "dreamy.safetensors")
    weights = load_file(folder / "adapter/diffusion_pytorch_model.safetensors")
    torch.save({"state_dict": original_keys(weights)}, folder / "mm.ckpt")
    return folder


@pytest.fixture
def desk(tmp_path, monkeypatch, stand_ins, tiny_model):
    """The working directory. Every model of the registry is a small one, every clip is short."""
    monkeypatch.chdir(tmp_path)
    write_files(stand_ins)
    monkeypatch.setattr(layout, "CONFIGS", tmp_path / "configs")
    shutil.copytree(stand_ins / "sd", tmp_path / "configs" / "sd15")
    for name, model in MODELS.items():
        base, motion = str(tiny_model), None
        if model.motion:
            base, motion = str(Path(BASE).resolve()), str(Path(ADAPTER).resolve())
        own = dict(revision=None, motion_revision=None, half=False, preview=None, text_width=None)
        own |= dict(side=None, domain_adapter=model.domain_adapter and ("stand-ins/lora.safetensors", 0.8))
        monkeypatch.setitem(MODELS, name, replace(model, source=base, motion=motion, **own))
    monkeypatch.setattr(registry, "CAMERAS", dict.fromkeys(CAMERAS, "stand-ins/camera.safetensors"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    monkeypatch.setattr(models, "_resident", [])
    generate = LumierePipeline.generate

    def shortened(pipeline, request, stop=None, given=None):
        request = request.filled(pipeline.defaults)
        whole = given or spacing(request.prompt)
        frames = request.frames if whole else min(request.frames, MOST_FRAMES)
        request = replace(request, steps=min(request.steps, MOST_STEPS), frames=frames)
        return generate(pipeline, request, stop, given)

    class Maker:
        """Copies a small model; tests/paperworld/training/test_make.py makes one from nothing."""

        def __init__(self, model, work, budget):
            self.model = model

        def make(self) -> dict:
            shutil.copytree(tiny_model, self.model, dirs_exist_ok=True)
            return {"all": 0.0}

    monkeypatch.setattr(LumierePipeline, "generate", shortened)
    monkeypatch.setattr(make, "Maker", Maker)
    small = evaluate.Studio

    class Studio(Puppet):
        """Draws real clips of the paper world, which the judge can read. Costs are of the small model."""

        def __init__(self):
            super().__init__()
            studio = small(None, self.seed)
            self.pipeline, self.request = studio.pipeline, studio.request

    monkeypatch.setattr(evaluate, "Studio", lambda *args, **kwargs: Studio())
    monkeypatch.setattr(evaluate, "fixed_clips", lambda studio: [])


def write_files(stand_ins: Path) -> None:
    """Writes the files that a reader is supposed to have."""
    Path("assets").symlink_to(ROOT / "assets")
    shutil.copytree(stand_ins, "stand-ins")
    shutil.copytree(stand_ins / "sd", "models/dreamy")
    shutil.copytree(stand_ins / "adapter", "runs/sd15/motion")
    Path("vae").mkdir()
    shutil.copy(stand_ins / "sd/vae/diffusion_pytorch_model.safetensors", "vae/ft-mse.safetensors")
    shutil.copy(stand_ins / "mm.ckpt", "mm.ckpt")
    shutil.copy(stand_ins / "dreamy.safetensors", "dreamy.safetensors")
    shutil.copytree(stand_ins / "tokenizer", "tokenizer")
    shutil.copy(stand_ins / "fox-style.safetensors", "fox-style.safetensors")
    for name in ("ink", "soft"):
        shutil.copy(stand_ins / "lora.safetensors", f"{name}.safetensors")
    ramp = np.linspace(0, 255, SIDE).astype(np.uint8)
    picture = np.broadcast_to(ramp[:, None, None], (SIDE, SIDE, 3)).copy()
    clip = np.stack([np.roll(picture, 4 * n, 0) for n in range(24)])
    for name in ("clip.mp4", "long.mp4"):
        write_clip(name, clip, 16, '{"prompt": "a red ball"}')
    for name in ("first.png", "last.png"):
        Image.fromarray(picture).save(name)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[: SIDE // 2] = 255
    Image.fromarray(mask).save("mask.png")
    Path("prompts.txt").write_text("a red ball\na blue star\n")
    Path("my-clips").mkdir()
    for name in ("fox", "owl"):
        write_clip(Path("my-clips", f"{name}.mp4"), clip, 16)
        Path("my-clips", f"{name}.txt").write_text(f"a {name} in the snow")
