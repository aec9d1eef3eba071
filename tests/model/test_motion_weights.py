import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_files import check_motion
from lumiere.model.motion_weights import load_motion, read_facts, save_motion
from tests.model.test_lumiere import small_unet, trained


@pytest.fixture(scope="module")
def unet():
    return small_unet()


@pytest.fixture
def saved(unet, tmp_path):
    lumiere = trained(unet)
    save_motion(lumiere, tmp_path / "motion", {"base": "a/base", "steps": 3})
    return lumiere, tmp_path / "motion"


@torch.no_grad()
def test_save_and_load_are_bit_equal(unet, saved):
    lumiere, folder = saved
    loaded = load_motion(unet, folder)
    assert loaded.model is unet and loaded.downsample_factor == 4
    assert loaded.state_dict().keys() == lumiere.state_dict().keys()
    assert all(torch.equal(weight, lumiere.state_dict()[key]) for key, weight in loaded.state_dict().items())
    clip = torch.randn(1, 4, 4, 8, 8), 5, torch.randn(1, 3, 16)
    assert torch.equal(loaded(*clip).sample, lumiere(*clip).sample)
    assert sorted(path.name for path in folder.iterdir()) == ["motion.json", "motion.safetensors"]
    assert read_facts(folder) == {"base": "a/base", "steps": 3}


def test_the_layers_are_made_again_as_they_were(unet, tmp_path):
    options = {
        "conv_inflation_kwargs": {"groups": 4, "conv1d_kernel_size": 5},
        "attn_inflation_kwargs": {"depth": 2, "space_time_depth": 1, "heads": 2, "dim_head": 8},
        "downsample_kwargs": {"init": "bilinear"},
        "at_input": True,
        "conditioned": True,
        "embedding_width": 4,
        "noise_correlation": 0.5,
        "cond_channels": 5,
    }
    lumiere = trained(unet, 2, **options)
    save_motion(lumiere, tmp_path)
    loaded = load_motion(unet, tmp_path)
    assert loaded.kwargs == lumiere.kwargs and loaded.places == lumiere.places
    assert (loaded.embedding_width, loaded.noise_correlation) == (4, 0.5)
    assert loaded.cond_channels == 5
    clip = torch.randn(1, 4, 4, 8, 8), 5, torch.randn(1, 3, 16)
    with torch.no_grad():
        assert torch.equal(loaded(*clip).sample, lumiere(*clip).sample)


def test_without_resampling_there_is_nothing_to_save_for_it(unet, tmp_path):
    save_motion(Lumiere.from_unet(unet, 1), tmp_path)
    assert load_motion(unet, tmp_path).downsample_factor == 1


def test_rounded_weights_are_smaller_and_load_in_the_dtype_of_the_base(unet, saved, tmp_path):
    lumiere, folder = saved
    save_motion(lumiere, tmp_path / "half", dtype=torch.float16)
    whole, half = (f / "motion.safetensors" for f in (folder, tmp_path / "half"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = load_motion(unet, tmp_path / "half").state_dict()
    for key, weight in lumiere.state_dict().items():
        assert loaded[key].dtype == torch.float32 and torch.equal(loaded[key], weight.half().float())


@pytest.fixture
def sharded(saved, tmp_path):
    """The same weights in shards, in place of one file that was there before."""
    lumiere, _ = saved
    save_motion(lumiere, tmp_path / "shards")
    save_motion(lumiere, tmp_path / "shards", shard_bytes=20_000)
    return lumiere, tmp_path / "shards"


def test_shards_hold_the_same_bits_in_files_that_are_small(unet, sharded):
    lumiere, folder = sharded
    names = sorted(path.name for path in folder.iterdir())
    shards = [name for name in names if "-of-" in name]
    count = len(shards)
    assert count > 2 and shards == [f"motion-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    assert names == sorted([*shards, "motion.json", "motion.safetensors.index.json"])
    index = json.loads((folder / "motion.safetensors.index.json").read_text())
    state, numbers = lumiere.state_dict(), {}
    for name in shards:
        tensors = load_file(folder / name)
        numbers |= tensors
        assert [key for key in tensors if index["weight_map"][key] != name] == []
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 20_000 or len(tensors) == 1
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in state.values())
    loaded = load_motion(unet, folder).state_dict()
    assert loaded.keys() == state.keys() == numbers.keys()
    assert all(torch.equal(loaded[key], weight) for key, weight in state.items())


def test_no_shard_stays_beside_what_is_saved_later(unet, sharded):
    lumiere, folder = sharded
    save_motion(lumiere, folder, shard_bytes=60_000)
    fewer = {path.name.split("-of-")[1] for path in folder.glob("motion-*")}
    assert len(fewer) == 1
    save_motion(lumiere, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["motion.json", "motion.safetensors"]


def test_broken_shards_are_refused_in_words(unet, sharded):
    _, folder = sharded
    index, first = folder / "motion.safetensors.index.json", sorted(folder.glob("motion-*"))[0]
    whole, text = first.read_bytes(), index.read_text()
    first.write_bytes(whole[:-10])
    with pytest.raises(OSError, match=f"cannot read {first.name} in "):
        load_motion(unet, folder)
    first.write_bytes(whole)
    tensors = load_file(first)
    save_file({key: torch.full_like(tensor, torch.nan) for key, tensor in tensors.items()}, first)
    with pytest.raises(OSError, match="values that are not numbers, in "):
        load_motion(unet, folder)
    first.unlink()
    with pytest.raises(OSError, match=f"lack {first.name}"):
        load_motion(unet, folder)
    with pytest.raises(OSError, match=f"no motion weights in .* \\(no {first.name}\\)"):
        check_motion(folder)
    first.write_bytes(whole)
    assert check_motion(folder) == folder
    for shards in ({"a": "../motion-00001-of-00002.safetensors"}, {"a": 1}, {}, []):
        index.write_text(json.dumps({"weight_map": shards}))
        with pytest.raises(OSError, match="does not tell the shards"):
            load_motion(unet, folder)
    keys = json.loads(text)["weight_map"]
    index.write_text(json.dumps({"weight_map": {k: v for k, v in keys.items() if v != first.name}}))
    with pytest.raises(ValueError, match=r"\d+ missing"):
        load_motion(unet, folder)


def test_keys_that_do_not_fit_are_an_error_that_lists_the_first(unet, saved):
    _, folder = saved
    refused_when_keys_do_not_fit(folder / "motion.safetensors", lambda: load_motion(unet, folder))


def refused_when_keys_do_not_fit(file, load):
    """Spoils the keys in `file` in all three ways; what `load` then raises lists the first of each."""
    weights = load_file(file)
    keys = sorted(weights)
    broken = {key: weights[key] for key in keys[4:]} | {"extra": torch.zeros(1), keys[9]: torch.zeros(1)}
    save_file(broken, file)
    with pytest.raises(ValueError) as error:
        load()
    missing = f"4 missing ({', '.join(keys[:3])}, ...)"
    for words in (missing, "1 unexpected (extra)", f"1 misshapen ({keys[9]})"):
        assert words in str(error.value)


def test_weights_of_another_unet_are_refused(saved):
    _, folder = saved
    with pytest.raises(ValueError, match="other blocks or widths"):
        load_motion(small_unet(block_out_channels=(16, 32, 48)), folder)


def test_a_description_that_cannot_be_read_is_refused_in_words(unet, saved):
    _, folder = saved
    path = folder / "motion.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99; this version reads format 1"):
        load_motion(unet, folder)
    del description["kwargs"]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match="lacks kwargs"):
        load_motion(unet, folder)
    path.write_text("[")
    with pytest.raises(OSError, match="motion.json is not a JSON object"):
        load_motion(unet, folder)
