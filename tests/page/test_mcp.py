"""`python app.py --mcp`: the endpoints as tools, by the client that agents use."""

import base64
import io
import json
import os
import re
import time
from contextlib import asynccontextmanager
from http.client import HTTPConnection

import httpx
import numpy as np
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image

from lumiere.media.video import read_clip
from lumiere.page import strings
from lumiere.page.endpoints import MODES
from tests.awaiting import awaited
from tests.security.server import Process
from tests.security.stranger import CLIP
from tests.security.trap import trap

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def process(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mcp")
    with Process(tiny_model, folder, "--mcp", LUMIERE_UPLOAD_MB="1") as process:
        yield process


@asynccontextmanager
async def session(process):
    async with streamablehttp_client(f"{process.address}/gradio_api/mcp/") as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            yield session


def call(process, tool: str, **arguments):
    async def once():
        async with session(process) as tools:
            return await tools.call_tool(tool, CLIP | arguments)

    return awaited(once())


def test_one_described_tool_per_mode(process):
    async def tools():
        async with session(process) as told:
            return (await told.list_tools()).tools

    found = {tool.name: tool for tool in awaited(tools())}
    assert set(found) == {name for name, _ in MODES.values()}
    generate = found["generate"]
    assert generate.description.startswith("Makes a clip from a prompt")
    assert generate.inputSchema["required"] == ["prompt"]
    assert "divisible" in generate.inputSchema["properties"]["frames"]["description"]


def test_a_tool_makes_a_clip_and_tells_its_settings(process, tmp_path):
    result = call(process, "generate")
    assert not result.isError
    told = " ".join(item.text for item in result.content)
    (tmp_path / "clip.mp4").write_bytes(httpx.get(re.search(r"http://[^']+\.mp4", told)[0]).content)
    assert read_clip(tmp_path / "clip.mp4")[0].shape[0] == 8
    assert f"'seed': {CLIP['seed']}" in told


def test_a_picture_is_given_as_a_data_uri(process):
    picture = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), (200, 60, 40), np.uint8)).save(picture, "PNG")
    sent = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    result = call(process, "image_to_video", image=sent)
    assert not result.isError, result.content


def test_a_call_may_be_as_large_as_an_upload(process):
    old = process.folder / "upload" / "old.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"somebody's")
    os.utime(old, (0, time.time() - 600))
    answer = httpx.post(f"{process.address}/gradio_api/mcp/", content=b" " * (2**20 + 1))
    assert answer.status_code == 413 and "at most 1048576 bytes" in answer.json()["detail"]
    liar = HTTPConnection("127.0.0.1", process.port)
    liar.putrequest("POST", "/gradio_api/mcp/")
    liar.putheader("Content-Length", str(10**12))
    liar.endheaders()
    assert liar.getresponse().status == 413
    assert old.exists()  # nothing is removed for what is not taken


def test_the_schema_says_what_a_file_is(process):
    async def tools():
        async with session(process) as told:
            return (await told.list_tools()).tools

    for tool in awaited(tools()):
        schema = json.dumps(tool.inputSchema)
        assert "http" not in schema, tool.name
        assert ("data URI" in schema) == (tool.name != "generate"), tool.name


@pytest.mark.parametrize(
    "sent", ["http://127.0.0.1/x.png", "/etc/passwd", "iVBORw0KGgo=", "data:image/png;base64,abcde"]
)
def test_another_file_is_refused_in_words(process, sent):
    result = call(process, "image_to_video", image=sent)
    assert result.isError and result.content[0].text == strings.DATA_URIS


def test_whole_numbers_may_be_written_with_a_point(process):
    result = call(process, "generate", frames=8.0, steps=2.0, seed=7.0, guidance=4.0)
    assert not result.isError, result.content
    assert call(process, "generate", frames=8.5).isError


def test_a_refusal_is_a_sentence(process):
    result = call(process, "generate", frames=18)
    assert result.isError and "divisible" in result.content[0].text and "18" in result.content[0].text


def test_no_address_is_fetched_and_no_file_of_the_server_read(process, tmp_path):
    with trap(tmp_path) as (address, asked):
        for sent in (f"{address}/x.png", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/"):
            assert call(process, "image_to_video", image=sent).isError, sent
    assert asked == []
