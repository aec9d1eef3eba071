"""What `Request` takes and refuses, the rows of it that strangers will try included."""

import dataclasses
import json
import math
import re

import pytest

from lumiere.request import FIRST_FRAMES, MAX_SETTINGS, SCHEDULERS, SEED, Limits, Request

LIMITS = Limits(max_frames=256, max_pixels=2**22)
NAN, INF = math.nan, math.inf
MARK = "zq<b>secret</b>{{x}}${y}%s"  # text that must never come back in a refusal


def refusal(limits=LIMITS, **fields) -> str:
    """The refusal of a request with these fields, checked to be one sentence without user text."""
    with pytest.raises(ValueError) as caught:
        Request(**{"prompt": "a red ball", **fields}).check(limits)
    text = str(caught.value)
    assert type(caught.value) is ValueError
    assert text.endswith(".") and "\n" not in text and ". " not in text and len(text) < 250
    assert "secret" not in text and "<" not in text and "{" not in text and text.isprintable()
    return text


def test_defaults_and_number_types():
    request = Request("a red ball", fps=8).check(LIMITS)
    assert (request.frames, request.steps, request.guidance, request.scheduler) == (None,) * 4
    filled = request.filled({"frames": 12, "fps": 16, "guidance": 2, "steps": 9})
    assert (filled.frames, filled.fps, filled.guidance, filled.steps) == (12, 8, 2.0, 9)
    assert request.saved() == {"prompt": "a red ball", "fps": 8} | {
        "negative_prompt": "",
        "seed": None,
        "strength": 1.0,
        "mode": "text",
        "first_frame": "none",
        "clip_skip": 0,
        "loop": False,
    }
    assert request.seed is None and request.strength == 1.0 and request.negative_prompt == ""
    assert Request("a", guidance=4, strength=1) == Request("a", guidance=4.0, strength=1.0)
    assert type(Request("a", guidance=4).guidance) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.steps = 3


@pytest.mark.parametrize("field, low, high", [("steps", 1, 150), ("fps", 1, 60), ("seed", 0, 2**32 - 1)])
def test_whole_numbers(field, low, high):
    for value in (low, low + 1, high):
        assert getattr(Request("a", **{field: value}).check(LIMITS), field) == value
    for value in (low - 1, high + 1, -1, 10**9 * high, 2**70):
        assert (
            refusal(**{field: value})
            == f"{field} must be a whole number from {low} to {high}: received {value}."
        )
    for value in (7.3, 16.0, NAN, INF, True, False, "10", MARK, [1], (1, 2), {}, b"1", 1j, object()):
        text = refusal(**{field: value})
        assert text.startswith(f"{field} must be a whole number from {low} to {high}: received ")
    assert refusal(**{field: True}).endswith("received true.")
    assert refusal(**{field: "10"}).endswith("received text of length 2.")
    assert refusal(**{field: 7.3}).endswith("received 7.3.")


@pytest.mark.parametrize("field", ["steps", "fps", "seed", "frames", "height", "guidance", "strength"])
def test_huge_numbers_make_a_short_refusal(field):
    for value in (10**5000, -(10**5000), 2**100_000):
        assert re.search(r"a number of about \d+ digits", refusal(**{field: value}))


def test_guidance_and_strength():
    for value in (0, 0.0, 1e-9, 4, 30, 30.0):
        assert Request("a", guidance=value).guidance == value
    for value in (NAN, INF, -INF, -5, 1e6, 30.000001, -1e-9):
        assert refusal(guidance=value) == f"guidance must be a number from 0 to 30: received {value!r}."
    for value in (1, 1.0, 0.001):
        assert Request("a", strength=value).strength == value
    for value in (0, 0.0, -0.5, 1.01, 2, NAN, INF):
        assert (
            refusal(strength=value) == f"strength must be a number above 0 and at most 1: received {value!r}."
        )
    for value in (True, "4", [4.0], MARK):
        assert refusal(guidance=value).startswith("guidance must be a number")
        assert refusal(strength=value).startswith("strength must be a number")


def test_prompt_lengths():
    assert Request("a" * 2000, "b" * 2000).check(LIMITS)
    assert refusal(prompt="a" * 10_000) == "prompt must be at most 2000 characters: received 10000."
    assert refusal(negative_prompt="a" * 2001).startswith("negative_prompt must be at most 2000 characters")


@pytest.mark.parametrize("blank", ["", " ", "\n\t \r", "\u00a0\u3000", "\u200b\u200d\ufeff", "\x1b\x07"])
def test_blank_prompt(blank):
    assert refusal(prompt=blank).startswith(f"write a prompt: received {len(blank)} characters")
    assert Request("a", negative_prompt=blank)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_what_is_no_text(field):
    for value in (None, ["secret"], {"secret": 1}, 3, 2.5, True, b"secret", object()):
        assert refusal(**{field: value}).startswith(f"{field} must be text: received ")
    assert refusal(**{field: "secret\0"}).endswith("character 7 of 7 is U+0000.")
    assert refusal(**{field: "\ud83d secret"}).endswith("character 1 of 8 is U+D83D.")
    assert refusal(**{field: "secret\udfff"}).endswith("is U+DFFF.")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script> {{value}} ${value} **b** %s %(x)d",
        "a ball\n2030-01-01 ERROR root: all is lost",
        "\u05db\u05d3\u05d5\u05e8 \u202eabc",
        "\U0001f3c0",
        "\U0001f469\u200d\U0001f680",
        "e\u0301",
    ],
)
def test_text_is_kept_as_it_is(text):
    request = Request(text, negative_prompt=text).check(LIMITS)
    assert request.prompt == text == Request.from_json(request.to_json()).negative_prompt


def test_scheduler():
    for name in SCHEDULERS:
        assert Request("a", scheduler=name).scheduler == name
    for value in ("DDIM", "", MARK, 1, ["ddim"], {}):
        assert refusal(scheduler=value).startswith(
            f"scheduler must be one of {', '.join(SCHEDULERS)}: received "
        )


def test_first_frame():
    assert Request("a").first_frame == "none"
    for name in FIRST_FRAMES:
        request = Request("a", first_frame=name)
        assert Request.from_json(request.to_json()) == request and request.saved()["first_frame"] == name
    for value in ("Base", "", MARK, None, 1, ["none"], {}):
        assert refusal(first_frame=value).startswith("first_frame must be one of none, base: received ")


@pytest.mark.parametrize(
    "frames, words",
    [
        (18, "frames must be divisible by 4: 18 is not, the nearest are 16 and 20."),
        (255, "frames must be divisible by 4: 255 is not, the nearest are 252 and 256."),
        (5, "frames must be divisible by 4: 5 is not, the nearest are 4 and 8."),
        (0, "frames must be from 4 to 256 and divisible by 4: 0 is not, the nearest are 4 and 8."),
        (257, "frames must be from 4 to 256 and divisible by 4: 257 is not, the nearest are 252 and 256."),
        (260, "frames must be from 4 to 256 and divisible by 4: 260 is not, the nearest are 252 and 256."),
        (
            10**5,
            "frames must be from 4 to 256 and divisible by 4: 100000 is not, the nearest are 252 and 256.",
        ),
    ],
)
def test_frames(frames, words):
    assert refusal(frames=frames) == words
    near = [int(n) for n in re.findall(r"\d+", words.split("nearest")[1])]
    for value in near:
        assert Request("a", frames=value).check(LIMITS).frames == value


def test_the_two_nearest_are_what_a_search_finds():
    limits = Limits(downsample_factor=8, min_frames=10, max_frames=75, max_pixels=2**30)
    valid = range(16, 73, 8)
    for frames in range(90):
        if frames in valid:
            assert Request("a", frames=frames).check(limits)
            continue
        near = sorted(sorted(valid, key=lambda n, f=frames: abs(n - f))[:2])
        assert refusal(limits, frames=frames).endswith(
            f"{frames} is not, the nearest are {near[0]} and {near[1]}."
        )


def test_a_model_with_one_length_only():
    limits = Limits(min_frames=16, max_frames=16)
    assert refusal(limits, frames=20).endswith("20 is not, the only one is 16.")
    assert Request("a", frames=16).check(limits)


def test_sizes_and_the_budget():
    for field in ("height", "width"):
        assert (
            refusal(**{field: 511})
            == f"{field} must be divisible by 32: 511 is not, the nearest are 480 and 512."
        )
        assert refusal(**{field: 7}).startswith(
            f"{field} must be from 64 to 1024 and divisible by 32: 7 is not"
        )
        assert refusal(**{field: 16384}).endswith("16384 is not, the nearest are 992 and 1024.")
        for value in (128.0, True, "128", MARK):
            assert refusal(**{field: value}).startswith(f"{field} must be a whole number from 0 to 1000000: ")
    assert refusal(frames=-16) == "frames must be a whole number from 0 to 1000000: received -16."
    assert refusal(frames=True) == "frames must be a whole number from 0 to 1000000: received true."
    assert Request("a", frames=256).check(LIMITS)
    assert (
        refusal(frames=256, height=160)
        == "frames x height x width must be at most 4194304: 256 x 160 x 128 is 5242880."
    )


def test_seed_is_drawn_from_the_full_range():
    request = Request("a")
    drawn = [request.with_seed().seed for _ in range(400)]
    assert all(type(seed) is int and SEED[0] <= seed <= SEED[1] for seed in drawn)
    # Each half, and a spread no narrow range would give; chance of failure below 1e-100 and 1e-6.
    assert min(drawn) < 2**31 < max(drawn) and len(set(drawn)) > 395
    assert Request("a", seed=0).with_seed().seed == 0
    assert Request("a", seed=2**32 - 1).with_seed() == Request("a", seed=2**32 - 1)


def test_json_round_trip():
    request = Request('q"\\\n=;# \u00e9 \U0001f3c0', "no", 20, 8, 64, 96, 7, 2, "euler a", 2**32 - 1, 0.5)
    assert Request.from_json(request.to_json()) == request
    assert json.loads(request.to_json())["guidance"] == 2.0
    assert Request.from_json(Request("a").to_json()) == Request("a")
    longest = Request("\x01" * 1999 + "a", "\x01" * 2000)
    assert len(longest.to_json()) <= MAX_SETTINGS and Request.from_json(longest.to_json()) == longest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "[]",
        "null",
        "3",
        '"secret"',
        "{}",
        '{"secret": 1}',
        '{"prompt": "a"',
        '{"prompt": ["secret"]}',
        '{"prompt": "a", "steps": NaN}',
        '{"prompt": "a", "guidance": 1e999}',
        '{"prompt": "a", "guidance": Infinity}',
        '{"prompt": "a", "steps": true}',
        '{"prompt": "a", "seed": ' + "9" * 5000 + "}",
        '{"prompt": "a", "frames": [[[[]]]]}',
        '{"prompt": "\\ud800 secret"}',
        "[" * 60_000,
        '{"prompt": "a", "x": "' + "y" * MAX_SETTINGS + '"}',
        None,
        b"{}",
    ],
)
def test_json_of_strangers(text):
    with pytest.raises(ValueError) as caught:
        Request.from_json(text)
    assert (
        type(caught.value) is ValueError
        and "secret" not in str(caught.value)
        and len(str(caught.value)) < 250
    )


def test_json_of_another_version():
    text = '{"prompt": "a", "model": "other", "steps": 5, "__class__": "x"}'
    assert Request.from_json(text) == Request("a", steps=5)
