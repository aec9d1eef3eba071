"""Below a path of a proxy the guard closes what it closes without one."""

import httpx
import pytest

from lumiere.page.server.request_guard import RequestGuard
from lumiere.page.server.site import Site, root_prefix
from tests.awaiting import awaited

CLOSED = (
    "/gradio_api/proxy=http://127.0.0.1/",
    "/monitoring",
    "/monitoring/x",
    "/gradio_api/process_recording",
)


async def reached(root_path: str, path: str, method: str = "GET") -> tuple[list, int]:
    """The scope that the router got, if any, and the status of the answer."""
    scopes = []

    async def router(scope, receive, send):
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = RequestGuard(router, None, lambda: (True, {}), lambda *_: True, root_path)

    async def framework(scope, receive, send):
        scope["root_path"] = root_path  # as FastAPI sets it for every request
        await guard(scope, receive, send)

    transport = httpx.ASGITransport(framework)
    async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
        return scopes, (await client.request(method, path)).status_code


@pytest.mark.parametrize("root_path", ["", "/studio", "/a/b", "https://example.org/studio"])
@pytest.mark.parametrize("kept", [True, False])
def test_guard_and_router_see_one_path(root_path, kept):
    prefix = root_prefix(root_path) if kept else ""
    for path in CLOSED:
        assert awaited(reached(root_path, prefix + path)) == ([], 404), path
    assert awaited(reached(root_path, f"{prefix}/gradio_api/none", "POST"))[1] == 404
    (scope,), status = awaited(reached(root_path, f"{prefix}/config"))
    assert status == 200 and scope["root_path"] == prefix and scope["path"] == f"{prefix}/config"
    assert awaited(reached(root_path, f"{prefix}/health")) == ([], 200)


def test_redirects_to_the_folder():
    assert awaited(reached("/studio", "/studio?prompt=a"))[1] == 307


def test_a_path_that_only_begins_alike_is_another():
    (scope,), _ = awaited(reached("/studio", "/studios"))
    assert scope["root_path"] == ""


@pytest.mark.parametrize(
    "text, root_path",
    [
        ("studio", "/studio"),
        ("/studio/", "/studio"),
        ("/", ""),
        ("  ", ""),
        ("a/b/", "/a/b"),
        ("https://example.org/studio/", "https://example.org/studio"),
        ("https://example.org", "https://example.org"),
    ],
)
def test_root_path_is_normalised(text, root_path):
    assert Site.read({"GRADIO_ROOT_PATH": text}).root_path == root_path


@pytest.mark.parametrize("text", ["/a b", "/a?b", "/a#b", "ftp://example.org/a", "/a//b"])
def test_refuses_no_path(text):
    with pytest.raises(ValueError, match="GRADIO_ROOT_PATH must be a path such as /studio"):
        Site.read({"GRADIO_ROOT_PATH": text})
