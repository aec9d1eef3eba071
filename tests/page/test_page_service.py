"""The page as whoever runs it sees it: health, the log, and its end. All in processes of their own."""

import os
import re
import signal
import threading
import time

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


def health(process) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{process.port}/health")


def test_health_before_the_model_is_there_and_after(tiny_model, tmp_path):
    with Process(tiny_model, tmp_path, wait=False) as process:
        seen = []

        def ready():
            try:
                answer = health(process)
            except httpx.HTTPError:
                return False
            seen.append((answer.status_code, answer.json()["status"]))
            return answer.status_code == 200

        wait_for(ready)
        assert set(seen) <= {(503, "loading"), (200, "ready")} and seen[-1] == (200, "ready")
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
    began = time.monotonic()
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(30) == 0 and time.monotonic() - began < 15
    assert "Lumiere is closed." in process.said() and "Traceback" not in process.said()


def test_what_was_half_written_when_a_server_was_killed_is_gone_after_the_next_start(tiny_model, tmp_path):
    folder = tmp_path / "clips" / ("a" * 32)
    folder.mkdir(parents=True)
    half, other = folder / ".0123456789abcdef.part", folder / ".fedcba9876543210.part"
    for part in (half, other):
        part.write_bytes(b"half a clip")
    os.utime(half, (0, time.time() - ENCODE_SECONDS))  # the other may be another server's at its work
    with Process(tiny_model, tmp_path) as process:
        wait_for(lambda: process.files() == {other})


def test_the_log_has_a_line_for_each_request_and_no_prompt(process):
    stranger = process.stranger()
    assert stranger.generate(prompt="a secret red ball")[0] == "complete"
    stranger.refusal(prompt="secret", steps=0)
    lines = [line for line in process.said().splitlines() if "lumiere.requests" in line]
    form = (
        r"INFO lumiere\.requests: id=\w{8} mode=text frames=8 size=64x64 steps=2 seconds=[\d.]+ outcome=done"
    )
    assert len(lines) == 2 and re.fullmatch(form, lines[0]) and lines[1].endswith("outcome=refused")
    assert "secret" not in process.said()
