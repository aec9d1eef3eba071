"""Starts as operators and platforms start it: proxies, server-side rendering, a port that is taken."""

import signal
import socket

import pytest

from lumiere.page import strings
from tests.marks import soak
from tests.security.server import Process, wait_for
from tests.security.stranger import PATIENCE

pytestmark = pytest.mark.slow


@pytest.fixture
def surroundings():
    """These tests set their own."""


PROXIES = {
    "http": {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
    "socks": {"all_proxy": "socks5h://127.0.0.1:9"},
    "no proxy at all": {"https_proxy": "ftp://127.0.0.1:9", "HTTP_PROXY": "http://[::"},
    "certificates": {"SSL_CERT_FILE": "/none.pem", "SSL_CERT_DIR": "/none"},
}


@pytest.mark.parametrize("name", ["no proxy at all", *soak("http", "socks", "certificates")])
def test_opens_whatever_the_proxy(tiny_model, tmp_path, name):
    with Process(tiny_model, tmp_path, **PROXIES[name]) as process:
        assert process.stranger().generate()[0] == "complete"
        assert "Traceback" not in process.said()


def test_health_and_sigterm_hold_whatever_gradio_is_told(tiny_model, tmp_path):
    told = {"GRADIO_SSR_MODE": "true", "GRADIO_NUM_WORKERS": "1", "GRADIO_DEBUG": "1"}
    with Process(tiny_model, tmp_path, **told) as process:
        stranger = process.stranger()
        assert stranger.http.get("/health").json()["status"] == "ready"
        stranger.begin(steps=150)
        wait_for(lambda: stranger.http.get("/health").json()["jobs"] == 1)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(PATIENCE) == 0
        assert strings.ignored(sorted(told)) in process.said() and strings.closed(True) in process.said()


def test_a_port_that_is_taken_is_said(tiny_model, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Process(tiny_model, tmp_path, wait=False, GRADIO_SERVER_PORT=str(port)) as process:
            wait_for(lambda: process.process.poll() is not None)
            assert process.process.returncode == 1
            last = process.said().strip().splitlines()[-1]
            assert f"cannot be served at 127.0.0.1:{port}" in last and "GRADIO_SERVER_PORT" in last
            assert "Traceback" not in process.said()
