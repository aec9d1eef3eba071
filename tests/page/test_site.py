"""The page where people really run it: other variables, proxies, ports, link previews."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from lumiere.limits import ServerLimits, variable
from lumiere.page import PICTURE, head, strings
from lumiere.page.server import gradio_private
from lumiere.page.server.site import Site, ignore_others, without_proxies

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("value", ["abc", "0", "65536", "-1", "7.5", "78600000"])
def test_refuses_a_port_that_is_none(value):
    with pytest.raises(ValueError, match=f"GRADIO_SERVER_PORT must be .* 1 to 65535: received {value}."):
        Site.read({"GRADIO_SERVER_PORT": value})


def test_refuses_an_url_without_scheme():
    with pytest.raises(ValueError, match="LUMIERE_URL must be an address such as https://example.org"):
        Site.read({"LUMIERE_URL": "example.org"})


def test_the_address_of_a_space_is_its_url():
    assert Site.read({"SPACE_HOST": "a-b.hf.space"}).url == "https://a-b.hf.space"
    assert Site.read({"SPACE_HOST": "a-b.hf.space", "LUMIERE_URL": "https://c.org/"}).url == "https://c.org"


def test_only_four_variables_of_gradio_count():
    environment = {"GRADIO_SSR_MODE": "true", "GRADIO_NUM_WORKERS": "2", "GRADIO_SHARE": "true", "PATH": "/"}
    kept = {
        "GRADIO_SERVER_NAME": "::",
        "GRADIO_ROOT_PATH": "/a",
        "GRADIO_SERVER_PORT": "1",
        "GRADIO_TEMP_DIR": "/",
    }
    both = environment | kept | {"GRADIO_DEBUG": ""}
    assert ignore_others(both) == ["GRADIO_NUM_WORKERS", "GRADIO_SHARE", "GRADIO_SSR_MODE"]
    assert both == kept | {"PATH": "/"}


def test_proxies_are_hidden_for_our_own_address_and_come_back():
    environment = {
        "http_proxy": "http://a",
        "ALL_PROXY": "socks5h://a",
        "SSL_CERT_FILE": "/none",
        "HOME": "/",
    }
    before = dict(environment)
    with pytest.raises(OSError), without_proxies(environment):
        assert environment == {"HOME": "/"}
        raise OSError
    assert environment == before


def test_names_the_version_when_gradio_lacks_a_private_name(monkeypatch):
    import gradio

    with gradio.Blocks() as demo:
        pass
    gradio_private.check(demo)
    monkeypatch.delattr("gradio.networking.url_ok")
    with pytest.raises(RuntimeError, match=f"has no url_ok: install gradio {gradio_private.VERSION}"):
        gradio_private.check(demo)


@pytest.mark.parametrize("url", ["", "https://example.org/studio"])
def test_link_previews_are_ours(url):
    previews = head(url)
    base = url or "{{ config['root'] }}"
    assert f'<meta property="og:title" content="{strings.TITLE}">' in previews
    assert f'<meta property="og:image" content="{base}/gradio_api/file={PICTURE}">' in previews
    assert "@" not in previews.split("{% raw %}")[0]


def test_no_picture_without_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr("lumiere.page.PICTURE", tmp_path / "none.png")
    assert "og:image" not in head() and "twitter:image" not in head() and "og:title" in head()


def test_compose_passes_every_variable_and_one_upload_limit():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    for name in ("app0", "app1"):
        given = compose["services"][name]["environment"]
        assert {variable(each.name) for each in fields(ServerLimits)} <= set(given)
        assert {"LUMIERE_MODEL", "LUMIERE_MOTION", "LUMIERE_URL", "GRADIO_ROOT_PATH"} <= set(given)
        assert (
            compose["services"][name]["stop_grace_period"] == "65m"
        )  # above the most of LUMIERE_GRACE_SECONDS
    nginx = compose["configs"]["proxy"]["content"]
    most = re.search(r"client_max_body_size \$\{LUMIERE_UPLOAD_MB:-(\d+)\}m;", nginx)
    assert int(most[1]) == ServerLimits.upload_mb


def test_the_environment_changes_nothing_that_is_served(monkeypatch, tmp_path):
    import gradio

    from lumiere.page.server.service import Service

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for name in ("SSR_MODE", "SHARE", "MCP_SERVER", "RUN_HISTORY"):
        monkeypatch.setenv(f"GRADIO_{name}", "true")
    monkeypatch.setenv("GRADIO_NUM_WORKERS", "2")
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/etc")
    with gradio.Blocks(analytics_enabled=False) as demo:
        gradio.Textbox()
    service = Service(ServerLimits(), loaded=lambda: True)
    try:
        service.launch(demo)
        assert (demo.ssr_mode, demo.share, demo.run_history) == (False, False, False)
        assert (
            demo.node_process is None and not demo._node_is_proxy and not hasattr(demo, "_static_worker_pool")
        )
        assert not demo.mcp_server_obj and demo.allowed_paths == [str(PICTURE)]
    finally:
        service.ending.set()  # ends the sweep; `close` would close the queue of this process
        demo.close(verbose=False)


def started(code: str = "", *arguments: str, **environment: str) -> tuple[int, str]:
    """Status and output of `python app.py`, after other code in its process."""
    program = f"{code}\nimport sys; sys.argv = ['app.py', *{list(arguments)!r}]\nfrom app import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return ran.returncode, ran.stdout + ran.stderr


BROKEN = """
import sys, types
class Finder:
    def find_spec(self, name, *_):
        if name == "gradio": raise {error}
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "error, words",
    [
        ("ImportError('cannot import name x from y\\n(/a/b.py)')", "cannot import name x from y (/a/b.py)"),
        ("AttributeError('no attribute')", "no attribute (AttributeError)"),
        ("RuntimeError()", "no reason given (RuntimeError)"),
    ],
)
def test_an_error_of_a_library_is_one_sentence(error, words):
    status, said = started(BROKEN.format(error=error))
    assert status == 1 and said.count("\n") == 1 and "Traceback" not in said
    assert said.startswith("Lumiere cannot start: ") and words in said and "LUMIERE_DEBUG=1" in said
