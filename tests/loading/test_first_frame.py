"""Prompts of first frames."""

import json

import pytest

from lumiere.loading.text_encoder import FirstFramePrompt

RULE = FirstFramePrompt({"drifting": "resting", "drifting left": "resting", "slowly": ""}, "resting")


@pytest.mark.parametrize(
    "prompt, still",
    [
        ("a ball drifting left at sea", "a ball resting at sea"),
        ("Slowly Drifting, a ball", "resting, a ball"),
        ("a ball at sea", "a ball at sea resting"),
        ("a ball slowly", "a ball resting"),
        ("adrifting ball", "adrifting ball resting"),
    ],
)
def test_motions_are_replaced(prompt, still):
    assert RULE(prompt) == still


def test_prompts_stay_without_a_rule(tmp_path):
    assert FirstFramePrompt.load(tmp_path)("a  ball drifting left") == "a  ball drifting left"


def test_reads_the_rule_of_a_model(tmp_path):
    (tmp_path / "first_frame.json").write_text(json.dumps({"replace": {"hops": "rests"}}))
    assert FirstFramePrompt.load(tmp_path)("it hops (here)") == "it rests (here)"
    (tmp_path / "first_frame.json").write_text('{"replace": {"hops": 3}}')
    with pytest.raises(OSError, match="prompts of first frames"):
        FirstFramePrompt.load(tmp_path)
