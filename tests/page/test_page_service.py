"""The page as whoever runs it sees it: health, the log, and its end. All in processes of their own."""

import os
import re
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from lumiere.media.video import ENCODE_SECONDS
from lumiere.page import strings
from tests.security.server import Process, wait_for
from tests.security.stranger import finished, status

pytestmark = pytest.mark.slow
LONG = {"steps": 150, "frames": 128}


@pytest.fixture
def process(tiny_model, tmp_path):
    with Process(tiny_model, tmp_path) as running:
        yield running


@dataclass(frozen=True)
class Started:
    """A page, its answers to /health until it was ready, and what lay half written in its folder.

    half: by a server that was killed. other: by one that may be at its work.
    """

    process: Process
    answers: list[tuple[int, str]]
    half: Path
    other: Path


@pytest.fixture(scope="module")
def started(tiny_model, tmp_path_factory):
    """For all tests that do not end the page."""
    folder = tmp_path_factory.mktemp("started")
    half, other = (folder / "clips" / ("a" * 32) / f".{n * 8}.part" for n in ("01", "10"))
    half.parent.mkdir(parents=True)
    for part in (half, other):
        part.write_bytes(b"half a clip")
    os.utime(half, (0, time.time() - ENCODE_SECONDS))
    with Process(tiny_model, folder, wait=False) as process:
        answers = []

        def ready():
            try:
                answer = health(process)
            except httpx.HTTPError:
                return False
            answers.append((answer.status_code, answer.json()["status"]))
            return answer.status_code == 200

        wait_for(ready)
        yield Started(process, answers, half, other)


def health(process) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{process.port}/health")


def test_health_before_the_model_is_there_and_after(started):
    process, answers = started.process, started.answers
    assert set(answers) <= {(503, "loading"), (200, "ready")} and answers[-1] == (200, "ready")
    assert health(process).json()["jobs"] == 0 and health(process).json()["free_mb"] > 0
    assert health(process).headers["cache-control"] == "no-store"


def begun(process) -> None:
    wait_for(lambda: health(process).json()["jobs"] >= 1)


def test_sigterm_gives_everybody_an_answer_and_leaves_no_partial_file(process):
    """One clip is in the making and keeps what there is; another waits, a third comes too late."""
    page, waiting, messages, told = process.stranger(), process.stranger(), [], []
    late = process.stranger()
    late.values()
    page.press("make", page.form(**LONG))
    reader = threading.Thread(target=lambda: messages.extend(page.news()))
    reader.start()
    wait_for(lambda: "sheet" in str(messages))
    event = waiting.begin(**LONG)

    def wait():
        with waiting.listening(event) as stream:
            told.append(finished(stream))

    other = threading.Thread(target=wait)
    other.start()
    wait_for(lambda: health(process).json()["jobs"] == 2)
    assert process.end() == 0
    reader.join(), other.join()
    assert status(messages)["text"].startswith("Stopped at step ")
    assert told == [("error", strings.CLOSING)]
    assert "Lumiere is closed." in process.said() and "Traceback" not in process.said()
    assert "outcome=stopped" in process.said() and "outcome=refused" in process.said()
    files = process.files()
    assert [path.suffix for path in files] == [".mp4"]
    with pytest.raises(httpx.HTTPError):
        late.generate()


def test_ctrl_c_ends_it_too_and_an_idle_server_at_once(process):
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(60) == 0
    assert "Lumiere is closed." in process.said() and "Traceback" not in process.said()


def test_what_was_half_written_when_a_server_was_killed_is_gone_after_the_next_start(started):
    wait_for(lambda: not started.half.exists())
    assert started.other.exists()


def test_the_log_has_a_line_for_each_request_and_no_prompt(started):
    process = started.process
    stranger = process.stranger()
    assert stranger.generate(prompt="a secret red ball")[0] == "complete"
    stranger.refusal(prompt="secret", steps=0)
    lines = [line for line in process.said().splitlines() if "lumiere.requests" in line]
    form = (
        r"INFO lumiere\.requests: id=\w{8} mode=text frames=8 size=64x64 steps=2 seconds=[\d.]+ outcome=done"
    )
    assert len(lines) == 2 and re.fullmatch(form, lines[0]) and lines[1].endswith("outcome=refused")
    assert "secret" not in process.said()
