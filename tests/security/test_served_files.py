"""Row 24: `/gradio_api/file=` for app.py, .env, ../, /proc/self/environ."""

import os
import socket
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.security.server import ROOT

SECRET = "root:x:0:0"


@pytest.fixture
def secrets(tmp_path):
    (tmp_path / ".env").write_text("TOKEN=1")
    (ROOT / ".env.test").write_text("TOKEN=1")
    yield [tmp_path / ".env", ROOT / ".env.test"]
    (ROOT / ".env.test").unlink()


def asked_raw(server, path: str) -> bytes:
    """The answer to a path as it is, which clients would tidy up."""
    with socket.create_connection(server.line) as line:
        line.sendall(f"GET {server.prefix}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while part := line.recv(65536):
            received += part
        return received


def test_other_files_are_not_served(server, stranger, secrets):
    folder, own = server.folder, str(ROOT / "app.py")
    paths = ["app.py", "README.md", "lumiere/request.py", own, "/etc/passwd", "/proc/self/environ"]
    paths += [*map(str, secrets), f"{folder}/../../../etc/passwd", f"{folder}/..", str(folder)]
    paths += ["../app.py", "../../etc/passwd", "....//....//etc/passwd", "/etc/./passwd", "//etc/passwd"]
    paths += ["/dev/zero", "/proc/self/mem", "~/.bashrc", "/etc/passwd\0.mp4", "file:///etc/passwd", "C:/x"]
    for path in paths:
        for way in ("file=", "file/"):
            for name in (path, quote(path, safe=""), quote(path, safe="/").replace(".", "%2e")):
                answer = asked_raw(server, f"/gradio_api/{way}{quote(name, safe='/%=:~')}")
                status = int(answer.split()[1])
                assert status in (400, 403, 404), (way, name, status)
                assert b"TOKEN" not in answer and b"root:" not in answer and b"PATH=" not in answer


def test_links_do_not_lead_out(server, stranger):
    """Nobody could put one there, but it must not be followed either."""
    (server.folder / "link.txt").symlink_to("/etc/passwd")
    (server.folder / "out").symlink_to("/etc")
    try:
        for name in ("link.txt", "out/passwd"):
            answer = stranger.fetch(str(server.folder / name))
            assert answer.status_code in (403, 404), (
                "nobody could put a link there, but it must not be followed"
            )
    finally:
        (server.folder / "link.txt").unlink()
        (server.folder / "out").unlink()


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/assets/../../app.py", "/static/%2e%2e/app.py", "/../app.py"]
)
def test_nor_from_the_folders_of_the_page(server, path):
    answer = asked_raw(server, path)
    assert b"def main" not in answer and int(answer.split()[1]) in (400, 403, 404)


def test_ones_own_clip_is_served(stranger):
    path = stranger.generate()[1][0]["path"]
    assert stranger.fetch(path).status_code == 200 and os.path.basename(path) == Path(path).name
