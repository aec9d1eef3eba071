"""Row 22. A file that is given as an address: gradio would fetch it before any of our code is asked."""

import sys

import pytest

from lumiere.media.video import read_clip, write_clip
from tests.media.test_video import moving
from tests.security.media import UNREADABLE, refuse
from tests.security.stranger import sentence

pytestmark = pytest.mark.slow

HOSTS = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "127.1", "[::ffff:127.0.0.1]"]
ELSEWHERE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "HTTPS://192.168.0.1/x.png",
    " http://127.0.0.1/",
    "//127.0.0.1/x.png",
    "\\\\127.0.0.1\\x.png",
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "gopher://127.0.0.1:6379/_x",
    "concat:/etc/passwd",
]


class Connections:
    """Whatever this process connects to or looks up, as the interpreter itself reports it."""

    def __init__(self):
        self.seen, self.on = [], False
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if self.on and event in ("socket.getaddrinfo", "socket.gethostbyname"):
            self.seen.append(str(arguments[0]))
        elif self.on and event == "socket.connect":
            self.seen.append(str(arguments[1]))


hook = Connections()


@pytest.fixture
def connections(server):
    """Those other than to the page under test."""
    own = str(server.line[1])
    hook.seen.clear()
    hook.on = True
    yield lambda: [each for each in hook.seen if own not in each and each != "127.0.0.1"]
    hook.on = False


def places(address: str) -> list:
    """Where a file may stand in the values of a call."""
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    with_url = file | {"url": address, "orig_name": "x.png", "mime_type": "image/png", "size": 3}
    return [file, with_url, [file], {"a": [{"b": file}]}, {"image": file, "points": []}, {"path": address}]


def test_an_address_on_this_machine_is_refused_without_a_request(stranger, trapped, connections, work):
    address, asked = trapped
    port = address.rsplit(":", 1)[1]
    addresses = [f"http://{host}:{port}/x.png" for host in HOSTS] + ELSEWHERE
    for address in addresses:
        for value in places(address):
            told = stranger.refusal(prompt=value)
            assert told == "A file must be uploaded: received the name of another, or an address."
        answer = stranger.press("make", [places(address)[0], *stranger.form()[1:]])
        assert answer.status_code == 403 and sentence(answer.json()["detail"])
        answer = stranger.post("call/v2/generate", {"prompt": places(address)[0]})
        assert answer.status_code == 403
        answer = stranger.press("note", [places(address)[0]])
        assert answer.status_code == 403
    assert asked == [] and connections() == [] and not work.any


def test_nor_does_the_server_fetch_one_to_pass_it_on(stranger, trapped, connections):
    address, asked = trapped
    for url in (f"{address}/x.png", *ELSEWHERE):
        for way in ("file=", "file/", "proxy="):
            assert stranger.http.get(f"/gradio_api/{way}{url}").status_code in (403, 404), (way, url)
    assert asked == [] and connections() == []


def test_a_file_of_the_server_is_none_that_was_uploaded(stranger, work, tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    for path in (
        "/etc/passwd",
        "app.py",
        str(tmp_path / "x.png"),
        "../../../etc/passwd",
        "/proc/self/environ",
        "",
    ):
        for value in places(path):
            assert stranger.generate(prompt=value)[0] == "error"
            assert stranger.press("note", [value]).status_code == 403
    assert not work.any


def test_the_reader_takes_no_other_file_for_a_video():
    assert refuse("/etc/passwd") == f"{UNREADABLE}."


@pytest.mark.parametrize("address", ["concat:{0}|{0}", "subfile,,start,0,end,9999,,:{0}", "{1}/a.mp4"])
def test_the_reader_takes_no_address_for_a_file(tmp_path, trapped, address):
    write_clip(tmp_path / "a.mp4", moving(), 16)
    url, asked = trapped
    address = address.format(tmp_path / "a.mp4", url)
    with pytest.raises(ValueError) as refusal:
        read_clip(address)
    assert str(refusal.value) == f"there is no file {address}." and asked == []


@pytest.mark.parametrize(
    "endpoint, field", [("image_to_video", "image"), ("continue_clip", "clip"), ("cinemagraph", "region")]
)
def test_nor_in_the_place_of_a_picture_or_a_clip(stranger, trapped, connections, work, endpoint, field):
    address, asked = trapped
    for url in (f"{address}/x.png", *ELSEWHERE):
        for value in places(url):
            told = stranger.refusal(endpoint, **{field: value})
            assert told == "A file must be uploaded: received the name of another, or an address."
        assert stranger.generate(endpoint, **{field: url})[0] == "error"
    assert asked == [] and connections() == [] and not work.any
