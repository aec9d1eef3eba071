"""Row 28: Stop while queued; twice; on someone else's job."""

import threading

import pytest

from lumiere.runtime import jobs
from tests.security.server import wait_for
from tests.security.stranger import PATIENCE, status


@pytest.fixture
def held(work):
    """A device that is busy until the test lets it go on."""
    go = threading.Event()
    work.before = lambda call: go.wait()
    yield work, go
    go.set()


def ask(stranger, **fields):
    """Presses Generate and reads along; the messages come into the list that is returned."""
    messages = []
    stranger.press("make", stranger.form(**fields)).raise_for_status()
    reader = threading.Thread(target=lambda: messages.extend(stranger.news()))
    reader.start()
    return reader, messages


def test_stop_while_queued_twice_and_on_someone_elses_job(server, held):
    work, go = held
    running, queued, other = (server.stranger() for _ in range(3))
    first, first_messages = ask(running, steps=3)
    wait_for(lambda: work.unet == 1)
    second, second_messages = ask(queued, steps=2)
    third, third_messages = ask(other, steps=2)
    wait_for(lambda: len(jobs.device) == 3)

    queued.press("stop", [])  # its own, which waits; twice, and once more when it is gone
    queued.press("stop", [])
    second.join(PATIENCE)
    assert not second.is_alive() and len(jobs.device) == 2
    assert status(second_messages)["text"].startswith("Stopped before the first step")
    queued.press("stop", [])
    assert len(jobs.device) == 2 and work.unet == 1  # nobody else's was stopped

    go.set()
    for reader, messages in ((first, first_messages), (third, third_messages)):
        reader.join()
        assert status(messages)["text"].startswith("Done in ")
    assert work.unet == 3 + 2


def test_nobody_stops_a_job_by_the_name_of_another_session(server, held):
    work, go = held
    owner, thief = server.stranger(), server.stranger()
    reader, messages = ask(owner, steps=3)
    wait_for(lambda: work.unet == 1)
    make = owner.event("make")["id"]
    thief.press("stop", [])
    for session in ("", "*"):
        stop = {"data": [], "fn_index": owner.event("stop")["id"], "session_hash": session or None}
        thief.post("run/stop", stop)
        thief.post("cancel", {"session_hash": session, "event_id": "x", "fn_index": make})
    thief.post("reset", {"event_id": "x"})
    go.set()
    reader.join()
    assert status(messages)["text"].startswith("Done in ") and work.unet == 3


def test_a_stop_with_nothing_to_stop_is_nothing(stranger, work):
    assert stranger.press("stop", []).status_code == 200
    assert not work.any
    assert stranger.make()["state"] == "done"
