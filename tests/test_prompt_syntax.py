"""The syntax of weights and of prompts in time."""

import pytest

from lumiere.prompts import keyframes, spacing, unweighted, weighted
from lumiere.request import Limits, Request


@pytest.mark.parametrize(
    "prompt, pieces",
    [
        ("a red ball", [("a red ball", 1)]),
        ("a (red:1.3) ball", [("a ", 1), ("red", 1.3), (" ball", 1)]),
        ("a (red) ball", [("a ", 1), ("red", 1.1), (" ball", 1)]),
        ("((red:2) ball:.5)", [("red", 1), (" ball", 0.5)]),
        (r"a \(red\) \\ ball", [(r"a (red) \ ball", 1)]),
        (r"(a \(red\) ball:1.5)", [("a (red) ball", 1.5)]),
        (
            "a (ball :) and ((a: 2) smiles",
            [("a ", 1), ("ball :", 1.1), (" and (", 1), ("a", 2), (" smiles", 1)],
        ),
        ("( ball: 0 )", [(" ball", 0)]),
        ("(a:nan) (b:1.5", [("a:nan", 1.1), (" (b:1.5", 1)]),
        ("(a:b:2)", [("a:b", 2)]),
        ("a) b:2) (", [("a) b:2) (", 1)]),
        ("[red] {ball}", [("[red] {ball}", 1)]),
        ("(at 12:30) and (16:9)", [("at 12:30", 1.1), (" and ", 1), ("16:9", 1.1)]),
        ("(route 66:1.2) (red:2)", [("route 66", 1.2), (" ", 1), ("red", 2)]),
        ("()(:2)", []),
        ("", []),
    ],
)
def test_weights(prompt, pieces):
    assert weighted(prompt) == [(text, pytest.approx(weight)) for text, weight in pieces]
    assert unweighted(prompt) == "".join(text for text, _ in pieces)


@pytest.mark.parametrize(
    "prompt, keys, closest",
    [
        (
            "0: spring | 32: (summer:1.2)|64:winter ",
            [(0, "spring"), (32, "(summer:1.2)"), (64, "winter")],
            32,
        ),
        ("8: a\n| 12: b: c", [(8, "a"), (12, "b: c")], 4),
        ("2001: a space odyssey", [(0, "2001: a space odyssey")], None),
        ("red | blue", [(0, "red | blue")], None),
        ("0: red | blue", [(0, "0: red | blue")], None),
        ("16:9 photo | 4:3 photo", [(0, "16:9 photo | 4:3 photo")], None),
        ("", [(0, "")], None),
    ],
)
def test_keyframes(prompt, keys, closest):
    assert keyframes(prompt) == keys and spacing(prompt) == closest


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("0: secret | 32 summer", "must have a frame before each part, .*: part 2 of 2 has none"),
        ("0: secret | 8: b | c", "part 3 of 3 has none"),
        ("0: secret | -8: b", "part 2 of 2 has none"),
        ("0: secret | 16: b | 8: c", "must have ascending frames: received 8 after 16"),
        ("0: secret | 0: b", "must have ascending frames: received 0 after 0"),
        ("0: secret | 8: ", "must have text at each key: key 2 has none"),
        ("|".join(f"{n}: a" for n in range(33)), "must have at most 32 keys: received 33"),
        ("0: secret | 16: b", "must be from 0 to 15, within the clip: received 16"),
        ("a (secret:4.5)", "weights of words in .* must be from 0 to 4: received 4.5"),
        ("a (secret:-1)", "must be from 0 to 4: received -1"),
        ("(" * 15 + "secret" + ")" * 15, "must be from 0 to 4: received 4.177"),
        ("0: a | 8: (secret:9)", "must be from 0 to 4: received 9"),
    ],
)
@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_wrong_prompts_are_refused_without_their_words(name, prompt, words):
    with pytest.raises(ValueError, match=words) as refused:
        Request(**{"prompt": "a ball"} | {name: prompt}, frames=16).check(Limits())
    assert name in str(refused.value) and "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "prompt", ["12:30 | two hands", "a clock (12:30) | noon", "3: 2 score", "(a ) b) :( |"]
)
def test_times_and_formats_are_ordinary_words(prompt):
    request = Request(prompt, frames=16).check(Limits())
    assert keyframes(request.prompt) == [(0, prompt)]


def test_prompts_in_time_are_requests_like_others():
    request = Request("0: spring | 12: (winter:1.2)", "4: a | 8: b", frames=16, clip_skip=2).check(Limits())
    assert Request.from_json(request.to_json()) == request
    for value in (-1, 12, 1.0, True, None):
        with pytest.raises(ValueError, match="clip_skip must be a whole number from 0 to 11: received"):
            Request("a", clip_skip=value)
