"""Row 11: seed -1, 0, 2^32-1, 2^70, 1.5, ""."""

import pytest

from lumiere.media.video import read_settings
from lumiere.request import Request


@pytest.mark.parametrize("value", [-1, 2**32, 2**70, 10**400, 1.5, 7.0, "", "7", True, float("nan"), [7]])
def test_a_seed_out_of_range_is_refused(stranger, work, value):
    told = stranger.refusal(seed=value)
    assert told.startswith("Seed must be a whole number from 0 to 4294967295: received ")
    page = stranger.make(seed=value)
    assert page["state"] == "refused" and page["text"] == told
    assert not work.any


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_whole_range_is_taken_and_saved(stranger, seed):
    outcome, (file, settings) = stranger.generate(seed=seed)
    assert outcome == "complete" and settings["seed"] == seed
    assert Request.from_json(read_settings(file["path"])).seed == seed and f"-{seed}.mp4" in file["path"]
    assert f"seed {seed}" in stranger.make(seed=seed)["facts"]


def test_a_random_seed_is_drawn_from_the_full_range_shown_and_saved(stranger):
    seeds = set()
    for _ in range(6):
        outcome, (file, settings) = stranger.generate(seed=None, steps=1, frames=4)
        assert Request.from_json(read_settings(file["path"])).seed == settings["seed"]
        seeds.add(settings["seed"])
    assert len(seeds) == 6 and max(seeds) > 2**24  # a narrow range would show: one in 10**14 that this fails
    shown = stranger.make(randomise=True, steps=1, frames=4)["facts"]
    assert int(shown.split("seed ")[1]) not in seeds
