"""The table of models on the page: who may download, and what strangers may not."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lumiere.limits import ServerLimits
from lumiere.loading import catalogue
from lumiere.loading.registry import MODELS
from lumiere.page import models, strings
from lumiere.page.server import launch, model_handle
from lumiere.page.server.site import Site

NAME = "sd15-lightning"


def visitor(client="127.0.0.1", host="localhost:7860", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(client=SimpleNamespace(host=client), headers={"Host": host} | named)


@pytest.mark.parametrize(
    "fetch, http, allowed",
    [
        (0, visitor(), False),
        (1, visitor("203.0.113.7", "example.org"), True),
        (2, visitor(), True),
        (2, visitor("::1", "[::1]:7860"), True),
        (2, visitor("203.0.113.7"), False),
        (2, visitor(host="example.org"), False),
        (2, visitor(X_Forwarded_For="203.0.113.7"), False),
        (2, visitor(host=""), False),
        (-1, visitor(), False),
    ],
)
def test_who_may_download(fetch, http, allowed):
    assert models.may_fetch(ServerLimits(fetch=fetch), http) is allowed


@pytest.mark.parametrize(
    "fetch, site, offline, decided",
    [
        (-1, Site(), False, 2),
        (-1, Site(host="0.0.0.0"), False, 0),
        (-1, Site(root_path="/studio"), False, 0),
        (-1, Site(url="https://example.org"), False, 0),
        (1, Site(host="0.0.0.0"), False, 1),
        (0, Site(), False, 0),
        (1, Site(), True, 0),
    ],
)
def test_nobody_downloads_in_public_unless_the_operator_says_so(monkeypatch, fetch, site, offline, decided):
    monkeypatch.setattr(launch, "is_offline", lambda: offline)
    assert launch.fetching(ServerLimits(fetch=fetch), site).fetch == decided


def told(asked, permitted=True, free_mb=0) -> list[dict]:
    return list(models.panel(asked, permitted, {NAME: "./"}, free_mb))


@pytest.fixture
def fetched(monkeypatch) -> list:
    """Models that were downloaded; nothing is on disk otherwise."""
    made: list = []
    monkeypatch.setattr(catalogue, "fetch", made.append)
    monkeypatch.setattr(catalogue, "on_disk", lambda model: model in made)
    return made


@pytest.mark.parametrize("asked", [None, {}, [], "fetch", {"other": 1}])
def test_anything_else_asks_for_the_table(fetched, asked):
    (value,) = told(asked)
    rows = {row["name"]: row for row in value["rows"]}
    assert list(rows) == list(MODELS) and not fetched
    assert rows[NAME]["address"] == "./" and rows[NAME]["command"] is None
    assert rows["sd15-lcm"]["command"] == "python app.py --model sd15-lcm"


def test_a_download_ends_with_the_model_on_disk(fetched):
    *_, last = told({"fetch": NAME})
    assert fetched == [MODELS[NAME]] and last["sentence"] == strings.fetched(NAME)
    assert {row["name"]: row["fetch"] for row in last["rows"]}[NAME] is False


def test_visitors_without_permission_get_no_download_and_no_button(fetched):
    *_, last = told({"fetch": NAME}, permitted=False)
    assert not fetched and last["sentence"] == strings.NO_FETCH
    assert not any(row["fetch"] for row in last["rows"])


@pytest.mark.parametrize("name", ["", "owner/name", "../x", 7, [NAME], {"a": 1}, True, "<script>" * 1000])
def test_only_models_of_the_table_are_fetched(fetched, name):
    *_, last = told({"fetch": name})
    assert not fetched and last["sentence"] == strings.unknown_model(MODELS)


def test_a_full_disk_is_told_before_the_download(fetched, monkeypatch):
    monkeypatch.setattr(models, "_free", lambda: 3000)
    assert told({"fetch": NAME}, free_mb=128)[-1]["sentence"] == strings.disk_full(3000, 3128)
    assert not fetched


def test_one_download_at_a_time_which_a_visitor_who_leaves_does_not_end(fetched, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(model):
        begun.set()
        go_on.wait(60)
        fetched.append(model)

    monkeypatch.setattr(catalogue, "fetch", slow)
    monkeypatch.setattr(models, "LOOK_SECONDS", 0.01)
    first = models.panel({"fetch": NAME}, True, {}, 0)
    assert next(first)["sentence"] == strings.fetching(NAME)
    begun.wait(60)
    first.close()
    assert told({"fetch": "sd15-lcm"})[-1]["sentence"] == strings.FETCHING
    go_on.set()
    with models._fetching:
        assert fetched == [MODELS[NAME]]


def test_a_failed_download_is_a_sentence_and_the_reason_is_logged(fetched, monkeypatch, caplog):
    def fail(model):
        raise OSError("cannot fetch a/b from the hub")

    monkeypatch.setattr(catalogue, "fetch", fail)
    assert told({"fetch": NAME})[-1]["sentence"] == strings.not_fetched(NAME)
    assert "cannot fetch a/b" in caplog.text


def test_moves_that_need_a_download_are_left_out_unless_visitors_may(monkeypatch, tiny_model):
    limits = replace(model_handle.model_cache.limits(str(tiny_model)), cameras=("zoom-in", "pan-left"))
    monkeypatch.setattr(model_handle.model_cache, "limits", lambda model: limits)
    monkeypatch.setattr(catalogue, "camera_on_disk", lambda move, model: move == "pan-left")
    entry = {"small": MODELS["sd15-animatediff-v2"]}
    assert model_handle.there(entry)["small"][1].cameras == ("pan-left",)
    assert model_handle.there(entry, fetches=True)["small"][1].cameras == limits.cameras
