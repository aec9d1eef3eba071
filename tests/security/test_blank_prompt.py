"""Row 1: empty or blank prompt."""

import pytest


@pytest.mark.parametrize("prompt", ["", " ", "\n\t ", "\u200b\u2060", "\u00ad", "\u3000"])
def test_a_blank_prompt_is_refused_without_work(stranger, work, prompt):
    told = f"Write a prompt: received {len(prompt)} characters, none of them visible."
    assert stranger.refusal(prompt=prompt) == told
    page = stranger.make(prompt=prompt)
    assert page["state"] == "refused" and page["text"] == told
    assert not work.any
