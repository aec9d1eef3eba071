"""Captions on disk: what the encoders tell, once for each, and anew where anything changed."""

import json

import numpy as np
import pytest
import torch

from lumiere.loading.components import load_base
from lumiere.loading.text_encoder import TextEncoder
from lumiere.training import text_cache as textcache
from lumiere.training.text_cache import cache_texts
from tests.bases import save_base

TEXTS = ["a red ball", "", "a blue star at night", "a red ball"]
SIZE, CPU = (64, 48), torch.device("cpu")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {family: save_base(tmp_path_factory.mktemp("bases") / family, family) for family in ("sd", "xl")}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "xl"])
def test_rows_are_those_of_the_reader_in_half_precision(bases, family, tmp_path, monkeypatch):
    monkeypatch.setattr(textcache, "BATCH", 2)
    cache = cache_texts(tmp_path, TEXTS, bases[family], SIZE, CPU)
    asked = ["a blue star at night", "a red ball", "a blue star at night", ""]
    told = cache(asked, CPU)
    expected = TextEncoder(load_base(bases[family], torch.float32))(asked, *SIZE, plain=True)
    assert torch.equal(told.states, expected.states.half().float())
    assert (told.added is None) == (expected.added is None) == (family == "sd")
    for name, tensor in (expected.added or {}).items():
        assert torch.equal(told.added[name], tensor.half().float()), name
    (folder,) = tmp_path.iterdir()
    assert len(np.load(folder / "states.npy", mmap_mode="r")) == 3, "a row for each different text"


def test_captions_are_read_once(bases, tmp_path, monkeypatch):
    first = cache_texts(tmp_path, TEXTS, bases["sd"], SIZE, CPU)(TEXTS, CPU)
    monkeypatch.setattr(TextEncoder, "__call__", lambda *args: pytest.fail("read again"))
    again = cache_texts(tmp_path, reversed(TEXTS), bases["sd"], SIZE, CPU)(TEXTS, CPU)
    assert torch.equal(first.states, again.states)


def test_other_captions_replace_them_and_other_encoders_do_not(bases, tmp_path):
    cache_texts(tmp_path, TEXTS, bases["sd"], SIZE, CPU)
    before = names(tmp_path)
    cache_texts(tmp_path, [*TEXTS, "a fish"], bases["sd"], SIZE, CPU)
    after = names(tmp_path)
    assert len(before) == len(after) == 1 and before != after
    cache_texts(tmp_path, TEXTS, bases["xl"], SIZE, CPU)
    cache_texts(tmp_path, TEXTS, bases["xl"], (128, 128), CPU)
    assert len(names(tmp_path)) == 3 and set(after) < set(names(tmp_path))


def test_one_vocabulary_is_not_another(bases, tmp_path):
    model = save_base(tmp_path / "base", "sd")
    cache_texts(tmp_path / "a", TEXTS, model, SIZE, CPU)
    tokenizer = model / "tokenizer" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"changed": 1}))
    cache_texts(tmp_path / "b", TEXTS, model, SIZE, CPU)
    assert names(tmp_path / "a") != names(tmp_path / "b")


def test_what_was_interrupted_is_begun_anew(bases, tmp_path, monkeypatch):
    monkeypatch.setattr(textcache, "BATCH", 1)
    calls, encode = [], TextEncoder.__call__

    def fails(self, texts, *size, **options):
        calls.append(texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, texts, *size, **options)

    monkeypatch.setattr(TextEncoder, "__call__", fails)
    with pytest.raises(KeyboardInterrupt):
        cache_texts(tmp_path, TEXTS, bases["sd"], SIZE, CPU)
    assert [name.endswith(".part") for name in names(tmp_path)] == [True]
    cache = cache_texts(tmp_path, TEXTS, bases["sd"], SIZE, CPU)
    assert len(calls) == 2 + 3 and cache(TEXTS, CPU).states.shape[0] == 4
    assert [name.endswith(".part") for name in names(tmp_path)] == [False]
