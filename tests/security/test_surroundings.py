"""Starts as operators and platforms start it: proxies, server-side rendering, a port that is taken."""

import signal
import socket

import pytest

from lumiere.page import strings
from tests.security.server import Process, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def surroundings():
    """These tests set their own."""


@pytest.mark.parametrize(
    "environment",
    [
        {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
        {"all_proxy": "socks5h://127.0.0.1:9"},
        {"https_proxy": "ftp://127.0.0.1:9", "HTTP_PROXY": "http://[::"},
        {"SSL_CERT_FILE": "/none.pem", "SSL_CERT_DIR": "/none"},
    ],
    ids=["http", "socks", "no proxy at all", "certificates"],
)
def test_opens_whatever_the_proxy(tiny_model, tmp_path, environment):
    with Process(tiny_model, tmp_path, **environment) as process:
        assert process.stranger().generate()[0] == "complete"
        assert "Traceback" not in process.said()


@pytest.mark.parametrize("variable", ["GRADIO_SSR_MODE", "GRADIO_NUM_WORKERS", "GRADIO_DEBUG"])
def test_health_and_sigterm_hold_whatever_gradio_is_told(tiny_model, tmp_path, variable):
    value = "true" if variable == "GRADIO_SSR_MODE" else "1"
    with Process(tiny_model, tmp_path, **{variable: value}) as process:
        stranger = process.stranger()
        assert stranger.http.get("/health").json()["status"] == "ready"
        stranger.begin(steps=150)
        wait_for(lambda: stranger.http.get("/health").json()["jobs"] == 1)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(60) == 0
        assert strings.ignored([variable]) in process.said() and strings.closed(True) in process.said()


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
