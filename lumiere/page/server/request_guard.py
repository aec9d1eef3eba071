"""What stands between the network and gradio: every request passes here before anything is done with it.

Gradio trusts the shape of a call more than a public page can: it fetches addresses that stand in the place of
files, takes bodies of any size, and serves tools of its own (a proxy, a recorder that runs ffmpeg) that this
page does not use. None of that is reached from here. `/health` is answered here, too.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable

from fastapi import HTTPException
from gradio.route_utils import MultiPartException
from gradio.utils import abspath, get_upload_folder, is_in_or_equal

from lumiere.limits import Bounds
from lumiere.page import words
from lumiere.page.server.disk import MB

API = "/gradio_api/"
CALLS = ("queue/join", "run/", "api/", "call/")  # what starts an event
POSTS = (*CALLS, "cancel", "reset", "upload")
TOOLS = 4  # calls of tools that are read at once, each as large as an upload
CLOSED = tuple("proxy= stream/ component_server process_recording dev/ deep_link vibe- undo-vibe-".split())
PIECE = 4 * MB  # of an upload: before each it is looked whether there is room
JSON_BYTES = 2**21  # of a call: a drawn region takes up to a megabyte, two full prompts 30 000
SESSION = 100  # characters of the name that a browser gives its session: gradio's have 11
ADDRESS = re.compile(r"\s*(//|\\\\|[a-z][a-z0-9+.-]+:)", re.IGNORECASE)  # two letters at least: c: is a disk
# Of a call; what else gradio takes there is meant for itself.
FIELDS = ("data", "fn_index", "session_hash", "trigger_id", "event_data")

log = logging.getLogger("lumiere.gate")


class Refused(Exception):
    """An HTTP status and a sentence, without anything that was received but numbers."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware. `health()` is the answer to load balancers: whether all is well, and facts in words.

    `room(bytes)` makes room for an upload, on a thread, and returns whether there is. tools: whether the
    endpoints are tools for language models, too.
    """

    def __init__(
        self,
        app,
        bounds: Bounds,
        health: Callable[[], tuple[bool, dict]],
        room: Callable[[int], bool],
        tools: bool = False,
    ):
        self.app, self.bounds, self.health, self.room = app, bounds, health, room
        self.posts = (*POSTS, "mcp") if tools else POSTS
        self.reading = asyncio.Semaphore(TOOLS)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = False

        async def told(message):
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._pass(scope, receive, told)
        except Refused as refused:
            await answer(send, refused.status, {"detail": str(refused)})
        except Exception as error:
            # A stranger's mistake is not worth a traceback: a call of any shape, news of an unknown session.
            if begun and isinstance(error.__cause__, HTTPException):
                return
            if begun or scope["method"] != "POST":
                raise
            log.warning("a call was not understood (%s)", type(error).__name__)
            await answer(send, 400, {"detail": "This was not understood: see the description of the API."})

    async def _pass(self, scope, receive, send) -> None:
        path = scope["path"]
        if path.rstrip("/") == "/health":
            well, facts = self.health()
            return await answer(send, 200 if well else 503, facts)
        inner = path[len(API) :] if path.startswith(API) else None
        closed = path.startswith("/monitoring") if inner is None else inner.startswith(CLOSED)
        if closed or (scope["method"] == "POST" and not (inner or "").startswith(self.posts)):
            raise Refused(404, "There is nothing here.")
        for prefix in ("file=", "file/"):
            if inner is not None and inner.startswith(prefix) and ADDRESS.match(inner[len(prefix) :]):
                raise Refused(403, "Only files of this server are served.")
        if scope["method"] == "POST":
            if inner.startswith("upload"):
                receive = await self._upload(scope, receive)
            elif inner.startswith("mcp"):  # calls of tools, with files in them
                async with self.reading:
                    body = await whole(scope, receive, self.bounds.upload_mb * MB)
                await self._make_room(len(body))
                receive = replayed(body, receive)
            else:
                body = await whole(scope, receive, JSON_BYTES)
                receive = replayed(check(scope["app"].get_blocks(), inner, body), receive)
        await self.app(scope, receive, send)

    async def _upload(self, scope, receive):
        """A `receive` that ends an upload at its limit, by the error after which gradio removes its files.

        Others that arrive meanwhile fill the disk, too, so that room is made again and again.
        """
        most, seen, room = self.bounds.upload_mb * MB, 0, PIECE
        sentence = f"An upload must be at most {self.bounds.upload_mb} MB, the maximum allowed size"
        announced = length(scope)
        if announced is not None and announced > most:
            raise Refused(413, f"{sentence}: received {announced} bytes.")
        await self._make_room(announced or most)

        async def counted():
            nonlocal seen, room
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise MultiPartException(f"{sentence}.")
            if seen > room:
                room = seen + PIECE
                if not await asyncio.to_thread(self.room, PIECE):
                    raise MultiPartException(words.DISK_FULL)
            return message

        return counted

    async def _make_room(self, coming: int) -> None:
        if not await asyncio.to_thread(self.room, coming):
            raise Refused(507, words.DISK_FULL)


def check(blocks, path: str, body: bytes) -> bytes:
    """The body of a call of the page's events, with what gradio need not know left out. Raises Refused."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        call = None
    if type(call) is not dict:
        raise Refused(400, f"A call must be a JSON object: received {len(body)} bytes that are not.")
    if not path.startswith(CALLS):  # to stop or forget an event
        return body
    if names_a_foreign_file(call):
        raise Refused(403, "A file must be uploaded: received the name of another, or an address.")
    if path.startswith("call/v2/"):  # fields by name, which gradio checks
        return body
    call = {name: call[name] for name in FIELDS if name in call}
    session, data = call.get("session_hash"), call.get("data")
    if session is not None and (type(session) is not str or not 0 < len(session) <= SESSION):
        raise Refused(400, f"session_hash must be text of 1 to {SESSION} characters.")
    event = _event(blocks, path, call.get("fn_index"))
    takes = {len(event.inputs), len([each for each in event.inputs if not each.skip_api])}
    if type(data) is not list or len(data) not in takes:
        received = f"{len(data)}" if type(data) is list else "something else"
        raise Refused(400, f"data must be a list of {len(event.inputs)} values: received {received}.")
    return json.dumps(call).encode()


def _event(blocks, path: str, index):
    """The event that a call is for, by its name in the path or else by its number."""
    name = "" if path.startswith("queue/join") else path.split("/")[1]
    if index is None:
        found = [event for event in blocks.fns.values() if name and event.api_name == name]
    else:
        found = [blocks.fns[index]] if type(index) is int and index in blocks.fns else []
    if found and found[0].fn is not None:  # some run in the browser alone
        return found[0]
    raise Refused(404, "There is no such endpoint: see the description of the API.")


def names_a_foreign_file(value) -> bool:
    """Whether a file is named that was not uploaded, or an address, which gradio would go and fetch."""
    left, folder = [value], get_upload_folder()
    while left:
        value = left.pop()
        if type(value) is dict:
            path = value.get("path")
            if type(path) is str and (ADDRESS.match(path) or not is_in_or_equal(abspath(path), folder)):
                return True
            left += value.values()
        elif type(value) is list:
            left += value
    return False


def length(scope) -> int | None:
    """The announced length of a body in bytes, None when none is; uvicorn has checked that it is a number."""
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values else None


async def whole(scope, receive, most: int) -> bytes:
    """All of a body, up to so many bytes. Raises Refused."""
    received, refused = bytearray(), Refused(413, f"A call must be at most {most} bytes.")
    if (length(scope) or 0) > most:
        raise refused
    while True:
        message = await receive()
        received += message.get("body", b"")
        if len(received) > most:
            raise refused
        if not message.get("more_body"):
            return bytes(received)


def replayed(body: bytes, receive):
    """A `receive` that gives this body, then what the connection has to say."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return left.pop() if left else await receive()

    return again


async def answer(send, status: int, content: dict) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"cache-control", b"no-store"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
