"""What is told while files come from the hub: one on this machine."""

import re
import shutil
import sys

import pytest
from huggingface_hub import close_session

from lumiere.loading import hub as fetch
from lumiere.loading.hub import progress, telling
from lumiere.loading.layout import FIRST_FRAME, PREVIEW, locate
from tests.security.test_start import hub


@pytest.fixture
def online(tiny_model, tmp_path, monkeypatch):
    """The hub has the tiny model as lumiere/tiny, and nothing of it is here.

    There it also has the config of a preview, and how prompts of first frames are written.
    """
    published = shutil.copytree(tiny_model, tmp_path / "published")
    (published / PREVIEW).mkdir()
    for name in (f"{PREVIEW}/config.json", FIRST_FRAME):
        (published / name).write_text("{}")
    with hub(published, "") as address:
        for name, value in {
            "HF_HUB_OFFLINE": False,
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr(fetch, "TELL_SECONDS", 0)
        yield


def test_it_is_told_what_is_fetched_and_how_far_and_nothing_is_drawn(online, tiny_model, capfd):
    told = []
    with telling(told.append):
        folder = locate("lumiere/tiny")
    weights = [file.stat().st_size for file in tiny_model.rglob("*.safetensors")]
    assert (folder / "motion" / "motion.safetensors").is_file()
    assert (folder / PREVIEW / "config.json").is_file() and (folder / FIRST_FRAME).is_file()
    pairs = [re.fullmatch(r"Fetching lumiere/tiny: ([\d.]+) of ([\d.]+) [kM]B\.", each) for each in told]
    assert all(pairs) and len(told) > 2
    assert all(float(pair[1]) <= float(pair[2]) for pair in pairs)
    assert float(pairs[-1][2]) >= sum(weights) / 1e6 and pairs[-1][1] == pairs[-1][2]
    assert capfd.readouterr() == ("", "")
    told.clear()
    with telling(told.append):
        locate("lumiere/tiny")
    assert told == []  # it is here


def test_without_anybody_who_asks_nothing_is_told(online):
    told = []
    with telling(told.append):
        pass
    locate("lumiere/tiny")
    assert told == []


@pytest.mark.parametrize(
    "done, total, words",
    [
        (1.24e9, 3.4e9, "Fetching a/b: 1.2 of 3.4 GB."),
        (0, 15_000_000, "Fetching a/b: 0.0 of 15.0 MB."),
        (500, 999_000, "Fetching a/b: 0.5 of 999.0 kB."),
    ],
)
def test_bytes_in_words(done, total, words):
    assert progress("a/b", done, total) == words


def test_a_socks_proxy_without_its_package_is_named(online, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socksio", None)
    close_session()  # one made before the variable was set
    with pytest.raises(OSError, match="SOCKS proxy .* `pip install socksio` or unset ALL_PROXY"):
        locate("lumiere/tiny")
