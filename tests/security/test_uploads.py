"""Row 25: upload over the limit, 1000 files at once, `../../x`, a 300-character name."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from lumiere.page.server.disk import found
from lumiere.page.server.request_guard import PIECE
from tests.security.server import wait_for
from tests.security.stranger import PATIENCE

MB = 2**20
TYPE = {"content-type": "multipart/form-data; boundary=x"}
HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'


@pytest.fixture
def gate(server):
    gates, layer = [], server.app.service._demo.app.middleware_stack
    while layer is not None:
        gates += [layer] if hasattr(layer, "room") else []
        layer = getattr(layer, "app", None)
    (gate,) = gates
    return gate


@pytest.fixture
def small(server, gate, monkeypatch):
    """The page of an operator who allows uploads of one megabyte."""
    monkeypatch.setattr(gate, "limits", replace(gate.limits, upload_mb=1))
    return server


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(small, stranger):
    before = small.files()
    for sizes in ([MB + 1], [MB // 2] * 3, [20 * MB]):
        answer = stranger.upload(*[(f"{n}.mp4", b"x" * size) for n, size in enumerate(sizes)])
        assert answer.status_code == 413
        assert answer.json()["detail"].startswith(
            "An upload must be at most 1 MB, the maximum allowed size: "
        )
    assert small.files() == before
    assert stranger.upload(("a.mp4", b"x" * (MB // 2))).status_code == 200


def test_one_whose_length_is_not_told_is_ended_at_the_limit(small, stranger):
    before = small.files()

    def body():
        yield HEAD
        for _ in range(1000):
            yield b"x" * 65536

    try:
        headers = TYPE
        answer = stranger.http.post("/gradio_api/upload", content=body(), headers=headers)
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError):
        pass  # the server hung up
    wait_for(lambda: small.files() == before)


def test_many_at_once_do_not_fill_the_disk_past_its_bound(server, gate, monkeypatch):
    """Each of them is looked at again before each piece: at its beginning there was room for all."""
    before, service = server.files(), server.app.service
    there = -(-sum(size for _, size, _ in found(server.folder)) // MB)
    monkeypatch.setattr(service.disk, "limits", replace(service.limits, disk_mb=there + 16))
    looked, room = [], gate.room
    monkeypatch.setattr(gate, "room", lambda coming: room(coming) and not looked.append(coming))

    def body():
        yield HEAD
        wait_for(lambda: len(looked) >= 8)  # none is refused at its beginning
        for _ in range(12 * 16):
            yield b"x" * 65536
        yield b"\r\n--x--\r\n"

    def upload(stranger):
        headers = TYPE | {"content-length": str(length)}
        try:
            answers.append(
                stranger.http.post("/gradio_api/upload", content=body(), headers=headers).status_code
            )
        except (httpx.WriteError, httpx.ReadError):
            answers.append(None)  # the server hung up

    length, answers = len(HEAD) + 12 * MB + len(b"\r\n--x--\r\n"), []
    threads = [threading.Thread(target=upload, args=(server.stranger(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(answers) == 8 and set(answers) <= {200, 400, None}
    assert answers.count(200) * 12 * MB <= 16 * MB + 8 * PIECE
    wait_for(lambda: len(server.files() - before) == answers.count(200))
    for path in server.files() - before:
        path.unlink()
    assert server.stranger().upload(("a.mp4", b"x" * 12 * MB)).status_code == 200


def test_an_upload_that_breaks_off_is_swept_away_later(server, stranger):
    before = server.files()

    def body():
        yield HEAD + b"x" * 100_000
        raise InterruptedError

    headers = TYPE | {"content-length": "500000"}
    with pytest.raises(InterruptedError):
        stranger.http.post("/gradio_api/upload", content=body(), headers=headers)
    wait_for(lambda: server.files() - before)
    for path in server.files() - before:
        os.utime(path, (0, 0))
    assert server.app.service.room() and server.files() == before


def test_a_thousand_files_at_once_are_a_thousand_files_or_a_refusal(server, stranger):
    before = server.files()
    answer = stranger.upload(*[(f"{n}.txt", b"%d" % n) for n in range(1000)])
    assert answer.status_code == 200 and len(server.files() - before) == 1000
    answer = stranger.upload(*[(f"{n}.txt", b"%d" % n) for n in range(1001)])
    assert answer.status_code == 400 and "1000" in answer.text
    assert len(server.files() - before) == 1000
    for path in server.files() - before:
        path.unlink()


@pytest.mark.parametrize(
    "name",
    [
        "../../x.txt",
        "/etc/x.txt",
        "..\\..\\x.txt",
        "x" * 300 + ".mp4",
        "\u00e9\U0001f3c0" * 200 + ".mp4",
        "a\0b.txt",
        "a\r\nb: c.txt",
        "-rf.txt",
        "$(x) `y`; z.txt",
        "..",
        ".",
        " ",
        ".env",
        "con.txt",
    ],
)
def test_names_are_made_safe(server, stranger, name):
    before = server.files()
    answer = stranger.upload((name, b"unusual"))
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        (path,) = map(Path, answer.json())
        wait_for(path.exists)
        assert path.resolve().parent.parent == server.folder.resolve() and path.read_bytes() == b"unusual"
        assert len(path.name.encode()) <= 255 and not set(path.name) & set("/\\\0\r\n$`")
        path.unlink()
    assert not [path for path in server.files() - before if not path.name.startswith("tmp")]  # swept later


def test_what_is_uploaded_is_not_run_or_shown_by_the_page(stranger):
    """A page of a stranger's would run in the name of this one."""
    for name, data in (("x.html", b"<script>hurt()</script>"), ("x.svg", b"<svg onload='hurt()'/>")):
        path = stranger.uploaded(name, data)
        answer = stranger.fetch(path)
        assert "attachment" in answer.headers["content-disposition"]


def test_uploads_do_not_fill_the_disk_past_the_set_size(server, stranger, monkeypatch):
    disk = server.app.service.disk
    monkeypatch.setattr(disk, "limits", replace(disk.limits, disk_mb=8))
    monkeypatch.setattr("lumiere.page.server.disk.YOUNG", 0)
    for number in range(12):
        assert stranger.upload((f"{number}.bin", bytes([number]) * (2 * MB))).status_code == 200
        assert sum(path.stat().st_size for path in server.files()) <= 8 * MB
    monkeypatch.setattr("lumiere.page.server.disk.YOUNG", 1000)  # what was just sent stays
    answer = stranger.upload(("more.bin", b"x" * (7 * MB)))
    assert answer.status_code == 507 and answer.json()["detail"].startswith(
        "The disk of this machine is full"
    )
    for path in server.files():
        path.unlink()
