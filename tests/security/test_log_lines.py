"""Row 6: newline and a fake log line in a prompt."""

import logging
import re
from dataclasses import replace

import pytest

LINE = re.compile(
    r"id=[0-9a-f]{8} mode=[a-z-]+ frames=(\d+|-) size=(\d+x\d+|-) steps=(\d+|-) seconds=\d+\.\d\d "
    r"outcome=(done|stopped|refused|failed|left)"
)
FORGED = "a red ball\nINFO lumiere.requests: id=00000000 mode=text outcome=done\r\x1b[2K\u2028all is lost"


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "lumiere.requests"]


def test_a_request_is_one_line_without_the_prompt(stranger, caplog):
    with caplog.at_level(logging.INFO, "lumiere"):
        assert stranger.generate(prompt=FORGED)[0] == "complete"
        stranger.refusal(prompt=FORGED + "\0")
        assert stranger.make(prompt=FORGED)["state"] == "done"
    told = lines(caplog)
    assert [re.sub(r"(id|seconds)=\S+", r"\1=", line) for line in told] == [
        "id= mode=text frames=8 size=64x64 steps=2 seconds= outcome=done",
        "id= mode=- frames=- size=- steps=- seconds= outcome=refused",
        "id= mode=text frames=8 size=64x64 steps=2 seconds= outcome=done",
    ]
    assert all(LINE.fullmatch(line) for line in told) and len({line.split()[0] for line in told}) == 3
    assert "lost" not in caplog.text


@pytest.fixture
def prompts_logged(server, monkeypatch):
    service = server.app.service
    monkeypatch.setattr(service, "limits", replace(service.limits, log_prompts=1))


def test_a_prompt_that_is_logged_is_escaped(stranger, prompts_logged, caplog):
    with caplog.at_level(logging.INFO, "lumiere"):
        stranger.generate(prompt=FORGED)
        stranger.refusal(prompt=["x\ny"])
    told, other = lines(caplog)
    start, prompt = told.split(" prompt=", 1)
    assert LINE.fullmatch(start) and LINE.fullmatch(other)
    assert prompt == (
        r'"a red ball\nINFO lumiere.requests: id=00000000 mode=text outcome=done\r\u001b[2K\u2028all is lost"'
    )
    assert told.isascii() and told.isprintable()
