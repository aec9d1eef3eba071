"""What operators may change, and that the docs list all of it."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lumiere.limits import ServerLimits, variable
from lumiere.loading.layout import read_limits

ROOT = Path(__file__).resolve().parent.parent


def test_each_is_read_from_its_variable():
    for each in fields(ServerLimits):
        low, high = each.metadata["low"], each.metadata["high"]
        for value in (low, high):
            assert getattr(ServerLimits.read({variable(each.name): f" {value} "}), each.name) == value
        for value in (low - 1, high + 1, "", "many", "7.5", "1e3", "\u0663", "0x10"):
            if value == "":
                assert ServerLimits.read({variable(each.name): ""}) == ServerLimits()
                continue
            with pytest.raises(
                ValueError, match=f"{variable(each.name)} must be a whole number from {low} to"
            ):
                ServerLimits.read({variable(each.name): str(value)})


def test_they_reach_the_limits_of_a_model(tiny_model, monkeypatch):
    monkeypatch.setenv("LUMIERE_MAX_FRAMES", "32")
    monkeypatch.setenv("LUMIERE_MAX_STEPS", "10")
    limits = read_limits(tiny_model, 4)
    assert (limits.max_frames, limits.max_steps) == (32, 10)
    monkeypatch.setenv("LUMIERE_MAX_FRAMES", "4")
    with pytest.raises(ValueError, match="LUMIERE_MAX_FRAMES is at least 8 for this model: received 4."):
        read_limits(tiny_model, 8)


def test_the_docs_list_all_with_their_values():
    text = (ROOT / "docs/security.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(LUMIERE_[A-Z_]+)` \| (-?\d+) \|", text, re.MULTILINE))
    assert told == {variable(each.name): str(each.default) for each in fields(ServerLimits)}
