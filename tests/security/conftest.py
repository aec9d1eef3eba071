"""One page with the tiny model for all rows that do not need a process of their own.

Rows that start a server run in all `SURROUNDINGS`; all but the plain ones belong to the soak ring.
"""

import sys
from pathlib import Path

import pytest

from lumiere.pipeline import LumierePipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.security.server import device_is_free, serving, watched  # noqa: E402
from tests.security.surroundings import PARAMETERS, SURROUNDINGS  # noqa: E402
from tests.security.trap import trap  # noqa: E402

# Of the rows that need a page:
QUICK = ("test_blank_prompt", "test_log_lines", "test_wrong_calls", "test_own_network", "test_served_files")


def pytest_collection_modifyitems(items):
    for item in items:
        if "server" in getattr(item, "fixturenames", ()) and "security" in item.path.parts:
            if not item.path.name.startswith(QUICK):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def pipeline(tiny_model) -> LumierePipeline:
    return LumierePipeline.from_pretrained(tiny_model, device="cpu")


def pytest_generate_tests(metafunc):
    """Rows that start a process take no fixture for it."""
    if hasattr(metafunc.module, "Process") and "surroundings" not in metafunc.fixturenames:
        metafunc.fixturenames.append("surroundings")
        metafunc.parametrize("surroundings", PARAMETERS, indirect=True, scope="session")


@pytest.fixture(scope="session", params=PARAMETERS)
def surroundings(request):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SURROUNDINGS[request.param].items():
            patch.setenv(name, value)
        yield request.param


@pytest.fixture(scope="session")
def page(surroundings, pipeline, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("security")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        running = serving(pipeline, tiny_model, folder)
        server = running.__enter__()
    yield server
    running.__exit__(None, None, None)


@pytest.fixture
def server(page, monkeypatch):
    """The page; when the test is over, the device must be free."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(page.folder))
    device_is_free()
    yield page
    device_is_free()


@pytest.fixture
def work(server):
    with watched(server.pipeline) as work:
        yield work


@pytest.fixture
def stranger(server):
    return server.stranger()


@pytest.fixture
def trapped(tmp_path):
    """The address of a server of the test's folder, and the list of what was asked of it."""
    with trap(tmp_path) as running:
        yield running
