"""The table of models and its cache; the model folder when something is wrong with it."""

import argparse
import json
import shutil
import threading
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere import models, pipeline
from lumiere.loading import registry as table
from lumiere.loading.layout import locate
from lumiere.request import Request


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    monkeypatch.setattr(models, "_resident", [])
    monkeypatch.delenv(models.VARIABLE, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def broken(tiny_model, tmp_path):
    """A copy of the model folder that a test may damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_the_table_leads_to_the_repository_wherever_one_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    source = models.MODELS[table.DEFAULT].source
    root = Path(__file__).resolve().parents[2]
    assert locate(source) == root / source
    assert models.entry() is models.entry("paper-world") is models.MODELS["paper-world"]


def test_the_variable_replaces_the_default_but_not_a_name(monkeypatch, tiny_model):
    monkeypatch.setenv(models.VARIABLE, str(tiny_model))
    assert models.entry().source == str(tiny_model)
    assert models.entry("paper-world") is models.MODELS["paper-world"]


@pytest.mark.parametrize(
    "source, name",
    [
        ("paper-world", "paper-world"),
        ("sd15-animatediff", "sd15-animatediff"),
        ("a/base", "a/base"),
        ("/home/someone/my models/a base", "a-base"),
        ("../models/one/..", "models"),
    ],
)
def test_name_is_no_path(source, name):
    assert models.entry(source).name == name


def test_name_of_a_folder_that_looks_like_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "a" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert models.entry("a/base").name == "base"


def test_version_has_pinned_revisions(monkeypatch):
    monkeypatch.setattr(table, "SAMPLING_VERSION", 7)
    assert models.entry("paper-world").version == models.entry("a/base").version == "7"
    assert models.entry("sd15-animatediff").version == "451f4fe+449d899/7"


def test_motion_weights_tell_whether_they_take_given_pixels(broken):
    assert models.takes_given_pixels("paper-world")
    assert not models.takes_given_pixels(str(broken))
    file = broken / "motion" / "motion.json"
    description = json.loads(file.read_text())
    for name in ("cond_channels", "given_channels"):  # the second one in files of version 0.1
        description.pop("cond_channels", None)
        description[name] = 5
        file.write_text(json.dumps(description))
        assert models.takes_given_pixels(str(broken))
    file.unlink()
    assert not models.takes_given_pixels(str(broken))


def test_saved_settings_name_the_model_and_its_version():
    request, model = Request("a “ball”", seed=3), models.entry("sd15-animatediff")
    text = table.saved_settings(request, model)
    assert Request.from_json(text) == request
    made_by = {"model": "sd15-animatediff", "model_version": model.version}
    assert json.loads(text) == request.saved() | made_by
    assert json.loads(table.saved_settings(request, model, "mine"))["model"] == "mine"


def test_threads_that_ask_at_once_get_one_pipeline(monkeypatch, tiny_model):
    loaded, answers = [], []
    from_pretrained = pipeline.LumierePipeline.from_pretrained

    def counted(*args, **kwargs):
        loaded.append(args)
        return from_pretrained(*args, **kwargs)

    monkeypatch.setattr(pipeline.LumierePipeline, "from_pretrained", counted)
    start = threading.Barrier(4)

    def ask():
        start.wait()
        answers.append(models.get(str(tiny_model), "cpu"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1 and len(answers) == 4 and len(set(map(id, answers))) == 1
    assert models.get(str(tiny_model), "cpu") is answers[0]


def test_another_model_frees_the_one_before(broken, tiny_model):
    before = weakref.ref(models.get(str(tiny_model), "cpu"))
    models.get(str(broken), "cpu")
    assert before() is None and models.resident(models.entry(str(tiny_model)), "cpu") is None


def test_a_failed_loading_is_not_kept(broken):
    vae = broken / "vae"
    vae.rename(broken / "away")
    with pytest.raises(OSError):
        models.get(str(broken), "cpu")
    (broken / "away").rename(vae)
    assert models.get(str(broken), "cpu").device.type == "cpu"


def test_limits_need_no_weights_and_are_those_of_the_loaded_model(broken, tiny_model):
    expected = models.get(str(tiny_model), "cpu").limits
    for file in broken.rglob("*.safetensors"):
        file.unlink()
    assert models.limits(str(broken)) == expected


@pytest.mark.parametrize("source", ["/nowhere/at/all", "not there", "", "../x/y", "someone/something"])
def test_a_model_that_is_nowhere_is_an_error_in_words(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(OSError, match="model"):
        locate(source or str(tmp_path / "empty"), weights=False)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
        "motion/motion.json",
        "motion/motion.safetensors",
    ],
)
def test_a_missing_file_is_named(broken, name):
    (broken / name).unlink()
    with pytest.raises(OSError, match=name.split("/")[-1]):
        models.get(str(broken), "cpu")


def test_many_missing_files_are_counted(broken):
    for name in ("unet", "vae", "text_encoder"):
        shutil.rmtree(broken / name)
    with pytest.raises(OSError, match="lacks unet/config.json, .* and 3 more"):
        models.get(str(broken), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "motion"])
@pytest.mark.parametrize("fault", ["cut", "missing", "misshapen", "nan", "pickle", "garbage"])
def test_damaged_weights_are_an_error_that_names_the_part(broken, name, fault):
    (file,) = (broken / name).glob("*.safetensors")
    tensors = load_file(file)
    key = sorted(tensors)[-1]
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif fault == "garbage":
        file.write_bytes(b"\xff" * 1000)
    elif fault == "pickle":  # a checkpoint with code in it, in place of the weights
        file.unlink()
        torch.save(tensors, file.with_suffix(".bin"))
    else:
        if fault == "missing":
            del tensors[key]
        elif fault == "misshapen":
            tensors[key] = torch.zeros(3)
        else:
            tensors[key][...] = torch.nan
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises((OSError, ValueError), match=name) as caught:
        models.get(str(broken), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"vae": "x"}'])
@pytest.mark.parametrize("name", ["model_index.json", "vae/config.json", "motion/motion.json"])
def test_damaged_configs_are_errors_in_words(broken, name, text):
    (broken / name).write_text(text)
    for load in (models.limits, models.get):
        if load is models.limits and name == "model_index.json":
            continue  # not looked at for the limits
        with pytest.raises((OSError, ValueError)) as caught:
            load(str(broken))
        assert "\n" not in str(caught.value)


def test_classes_that_are_not_supported_are_refused(broken):
    index = json.loads((broken / "model_index.json").read_text())
    index["unet"] = ["os", "system"]
    (broken / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(OSError, match="unet of class system: supported are UNet2DConditionModel"):
        models.get(str(broken), "cpu")


@pytest.mark.parametrize("flags", ["--style-base water --style-alpha 0.3", "--style water --alpha 0.3"])
def test_blends_a_second_base_by_new_and_old_flags(flags):
    parser = argparse.ArgumentParser()
    models.add_options(parser)
    style = models.chosen(parser.parse_args(flags.split())).style
    assert (style.base, style.alpha) == ("water", 0.3)


def test_cameras_of_one_name_are_refused():
    parser = argparse.ArgumentParser()
    models.add_options(parser)
    flags = ["--camera", "a/orbit.safetensors:0.5", "--camera", "b/orbit.safetensors"]
    assert models.chosen(parser.parse_args(flags[:2])).cameras == (("a/orbit.safetensors", 0.5),)
    with pytest.raises(ValueError, match="cameras must have different names: received orbit, orbit"):
        models.chosen(parser.parse_args(flags))
