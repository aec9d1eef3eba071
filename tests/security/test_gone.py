"""Row 27. The device is free within one step, whatever became of whoever asked."""

import socket
import subprocess
import sys
import threading
import time

import pytest

from lumiere.runtime import jobs
from tests.security.server import ROOT, device_is_free, wait_for
from tests.security.stranger import status

STEP = 0.4  # s; steps are made this long, so that it matters which of them is the last
NOTICED = 30  # s at most until the page notices, on a busy machine; the whole job would take twice that


@pytest.fixture
def slow(work, monkeypatch):
    """Steps take `STEP`; `work.noticed` is the number of the step in which the job was stopped or dropped."""
    work.before, work.noticed = lambda call: time.sleep(STEP), None

    def noting(usual):
        def note(job):
            work.noticed = work.noticed or work.unet
            usual(job)

        return note

    for name in ("stop", "abandon"):
        monkeypatch.setattr(jobs.Job, name, noting(getattr(jobs.Job, name)))
    return work


def freed(work, since: float) -> None:
    """The job ended in the step in which the page noticed, and did no step after that."""
    device_is_free()
    assert time.monotonic() - since < NOTICED
    assert work.unet <= work.noticed + 1  # one may begin between the count and the flag
    steps = work.unet
    time.sleep(2 * STEP)
    assert work.unet == steps < 100


def next_runs(server, work):
    work.before = None
    assert server.stranger().generate()[0] == "complete"


def test_stop_frees_the_device_within_a_step_and_keeps_the_clip(server, stranger, slow):
    stranger.press("make", stranger.form(steps=150))
    wait_for(lambda: slow.unet == 2)
    stranger.press("stop", [])
    asked, steps = time.monotonic(), slow.unet
    last = status(list(stranger.news()))
    assert slow.unet <= steps + 1 and last["text"].startswith(f"Stopped at step {slow.unet} of 150.")
    freed(slow, asked)
    next_runs(server, slow)


def test_a_closed_tab(server, stranger, slow):
    stranger.press("make", stranger.form(steps=150))
    for message in stranger.news():
        if '"sheet"' in str(message).replace("'", '"'):
            break  # leaves the stream, and closes it
    freed(slow, time.monotonic())
    next_runs(server, slow)


def test_a_program_that_hangs_up(server, stranger, slow):
    event = stranger.begin(steps=150)
    with stranger.listening(event):
        wait_for(lambda: slow.unet == 2)
    freed(slow, time.monotonic())
    next_runs(server, slow)


def test_a_program_that_cancels(server, stranger, slow):
    body = {"data": stranger.values(steps=150), "session_hash": stranger.session}
    event = stranger.post("call/generate", body).json()["event_id"]
    threading.Thread(target=lambda: list(stranger.news())).start()
    wait_for(lambda: slow.unet == 2)
    which = next(each["id"] for each in stranger.config["dependencies"] if each["api_name"] == "generate")
    stranger.post("cancel", {"session_hash": stranger.session, "event_id": event, "fn_index": which})
    freed(slow, time.monotonic())
    next_runs(server, slow)


CLIENT = """
import sys
sys.path.insert(0, {root!r})
from tests.security.stranger import Stranger
stranger = Stranger({address!r})
with stranger.listening(stranger.begin(steps=150)) as stream:
    for line in stream.iter_lines(): print(line, flush=True)
"""


def test_a_client_that_is_killed_in_the_middle_of_a_step(server, slow):
    code = CLIENT.format(root=str(ROOT), address=server.address)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as client:
        wait_for(lambda: slow.unet == 2)
        client.kill()
        freed(slow, time.monotonic())
    next_runs(server, slow)


def test_a_connection_that_is_reset(server, stranger, slow):
    event = stranger.begin(steps=150)
    line = socket.create_connection(server.line)
    path = f"{server.prefix}/gradio_api/call/generate/{event}"
    line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    wait_for(lambda: slow.unet == 2)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST rather than FIN
    line.close()
    freed(slow, time.monotonic())
    next_runs(server, slow)


def test_a_visitor_who_never_listens_does_not_pile_up_previews(server, stranger, work, monkeypatch):
    monkeypatch.setattr(jobs, "PREVIEW_SECONDS", 0)
    monkeypatch.setattr("lumiere.page.server.service.UNREAD", 5)
    work.before = lambda call: time.sleep(0.05)
    stranger.press("make", stranger.form(steps=150))
    wait_for(lambda: work.unet)
    device_is_free()
    assert work.unet < 100
    service = server.app.service
    queue = service._demo._queue
    assert stranger.session in queue.pending_messages_per_session
    service.forget_unread()
    service.forget_unread()
    assert stranger.session not in queue.pending_messages_per_session
    assert stranger.session not in queue.pending_event_ids_session
    next_runs(server, work)


def test_memory_comes_back(server, slow):
    """The tensors of a run that nobody waits for are gone with it."""
    import gc
    import weakref

    held = []
    hook = server.pipeline.lumiere.model.conv_out.register_forward_hook(
        lambda module, arguments, output: held.append(weakref.ref(output))
    )
    try:
        stranger = server.stranger()
        with stranger.listening(stranger.begin(steps=150)):
            wait_for(lambda: slow.unet == 3)
        device_is_free()
    finally:
        hook.remove()
    gc.collect()
    assert held and [tensor() for tensor in held] == [None] * len(held)
