"""Row 35. Files that would run code when they are read, in every place where weights are looked for."""

import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere.media.images import read_image
from lumiere.media.video import read_clip
from lumiere.model.motion_weights import load_motion
from lumiere.pipeline import LumierePipeline


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture
def trap(tmp_path):
    """(bytes of a pickle with code in it, a check that it was not run)."""
    mark = tmp_path / "executed"
    data = pickle.dumps({"state_dict": Trap(mark)})
    pickle.loads(data)["state_dict"].close()
    assert mark.exists()  # the trap works
    mark.unlink()
    return data, lambda: not mark.exists()


PLACES = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "motion": "motion",
}


@pytest.mark.parametrize("part", PLACES)
@pytest.mark.parametrize("ending", [".bin", ".pt", ".ckpt", ".safetensors"])
def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(tiny_model, tmp_path, trap, part, ending):
    data, unharmed = trap
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    name = "pytorch_model" if (part, ending) == ("text_encoder", ".bin") else PLACES[part]
    (folder / part / f"{name}{ending}").write_bytes(data)
    with pytest.raises((OSError, ValueError)) as caught:
        LumierePipeline.from_pretrained(folder, device="cpu")
    assert part in str(caught.value) and "\n" not in str(caught.value)
    assert unharmed()


@pytest.mark.parametrize("name", ["motion.ckpt", "motion.pt", "motion.bin", "motion.safetensors"])
def test_motion_weights_by_their_own_path(tiny_model, tmp_path, trap, name):
    data, unharmed = trap
    (tmp_path / name).write_bytes(data)
    with pytest.raises((OSError, ValueError)):
        LumierePipeline.from_pretrained(tiny_model, tmp_path / name, device="cpu")
    assert unharmed()


@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen", "nan", "inf"])
def test_wrong_keys_shapes_or_values_are_refused_by_name(pipeline, tiny_model, tmp_path, fault):
    folder = shutil.copytree(tiny_model / "motion", tmp_path / "motion")
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    key = sorted(weights)[0]
    if fault == "missing":
        del weights[key]
    elif fault == "unexpected":
        key = "extra"
        weights[key] = torch.zeros(1)
    elif fault == "misshapen":
        weights[key] = torch.zeros(3, 5)
    else:
        weights[key].view(-1)[0] = float(fault)
    save_file(weights, file)
    with pytest.raises((OSError, ValueError), match=key.replace(".", r"\.")):
        load_motion(pipeline.lumiere.model, folder)


def test_a_class_that_the_index_names_is_not_imported(tiny_model, tmp_path):
    import json

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    for module, name in (("os", "system"), ("subprocess", "Popen"), ("diffusers", "DiffusionPipeline")):
        (folder / "model_index.json").write_text(json.dumps(index | {"unet": [module, name]}))
        with pytest.raises(OSError, match=f"unet of class {name}: supported are"):
            LumierePipeline.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("name", ["x.png", "x.mp4"])
def test_one_that_is_uploaded_is_neither_picture_nor_video(server, stranger, trap, name):
    data, unharmed = trap
    path = stranger.uploaded(name, data)
    for read in (read_image, read_clip):
        with pytest.raises(ValueError, match="^cannot read a (picture|video) from this file.$"):
            read(path)
    assert unharmed()
