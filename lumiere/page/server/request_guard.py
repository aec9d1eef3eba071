"""ASGI middleware that validates every request before gradio processes it.

Gradio trusts the shape of a call more than a public page can. It fetches URLs passed as files and accepts
bodies of any size. It serves routes that this page does not use: a proxy, and a recorder that runs ffmpeg.
The middleware blocks all of these, and answers `/health`.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable

import gradio as gr
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lumiere.limits import ServerLimits
from lumiere.page import strings
from lumiere.page.server import gradio_private
from lumiere.page.server.disk import MB
from lumiere.page.server.site import root_prefix

API = "/gradio_api/"
CALLS = ("queue/join", "run/", "api/", "call/")  # paths that start an event
POSTS = (*CALLS, "cancel", "reset", "upload")
TOOLS = 4  # MCP calls read concurrently, each as large as an upload
CLOSED = tuple("proxy= stream/ component_server process_recording dev/ deep_link vibe- undo-vibe-".split())
PIECE = 4 * MB  # the free space is checked before each piece of an upload
JSON_BYTES = 2**21  # maximum size of a call; a drawn region takes up to 1 MB, two full prompts 30 000 bytes
SESSION = 100  # maximum characters of a session hash; gradio's have 11
ADDRESS = re.compile(r"\s*(//|\\\\|[a-z][a-z0-9+.-]+:)", re.IGNORECASE)  # two letters or more: c: is a drive
# Fields of a call that are passed on; gradio reserves the others for internal use.
FIELDS = ("data", "fn_index", "session_hash", "trigger_id", "event_data")

log = logging.getLogger("lumiere.request_guard")


class Refused(Exception):
    """A refused request.

    Args:
        status: HTTP status.
        sentence: message, which repeats nothing of the request but numbers.
    """

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class RequestGuard:
    """ASGI middleware that refuses invalid requests.

    Args:
        app: the wrapped ASGI app.
        limits: limits of the server.
        health: returns (healthy, JSON body for load balancers).
        room: makes room for n bytes and returns whether they fit. Called on a thread.
        root_path: path or address of the page behind a proxy. Defaults to none.
        tools: also serve the endpoints as MCP tools. Defaults to False.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: ServerLimits,
        health: Callable[[], tuple[bool, dict]],
        room: Callable[[int], bool],
        root_path: str = "",
        tools: bool = False,
    ):
        self.app, self.limits, self.health, self.room = app, limits, health, room
        self.prefix = root_prefix(root_path)
        self.posts = (*POSTS, "mcp") if tools else POSTS
        self.reading = asyncio.Semaphore(TOOLS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; refused and malformed requests get a JSON error."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = False

        async def told(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._pass(scope, receive, told)
        except Refused as refused:
            await answer(refused.status, {"detail": str(refused)})(scope, receive, send)
        except Exception as error:
            # No traceback for a client error: a malformed call, or updates of an unknown session.
            if begun and isinstance(error.__cause__, HTTPException):
                return
            if begun or scope["method"] != "POST":
                raise
            log.warning("a call was not understood (%s)", type(error).__name__)
            detail = "This was not understood: see the description of the API."
            await answer(400, {"detail": detail})(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        # A proxy keeps the prefix or strips it. The router removes `root_path` from the front of the path,
        # so that both are set here: the guard and the router see the same path. Gradio sets it for every
        # request.
        kept = bool(self.prefix) and (path == self.prefix or path.startswith(f"{self.prefix}/"))
        scope["root_path"] = self.prefix if kept else ""
        if kept:
            path = path[len(self.prefix) :]
        if kept and not path:  # addresses on the page are relative to the folder
            query = scope["query_string"].decode("latin-1")
            address = f"{self.prefix}/?{query}" if query else f"{self.prefix}/"
            return await RedirectResponse(address)(scope, receive, send)
        if path.rstrip("/") == "/health":
            well, facts = self.health()
            return await answer(200 if well else 503, facts)(scope, receive, send)
        inner = path[len(API) :] if path.startswith(API) else None
        closed = path.startswith("/monitoring") if inner is None else inner.startswith(CLOSED)
        if closed or (scope["method"] == "POST" and not (inner or "").startswith(self.posts)):
            raise Refused(404, "There is nothing here.")
        for prefix in ("file=", "file/"):
            if inner is not None and inner.startswith(prefix) and ADDRESS.match(inner[len(prefix) :]):
                raise Refused(403, "Only files of this server are served.")
        if scope["method"] == "POST" and inner is not None:
            if inner.startswith("upload"):
                receive = await self._upload(scope, receive)
            elif inner.startswith("mcp"):  # MCP calls may contain files
                async with self.reading:
                    body = await whole(scope, receive, self.limits.upload_mb * MB)
                await self._make_room(len(body))
                receive = replayed(body, receive)
            else:
                body = await whole(scope, receive, JSON_BYTES)
                receive = replayed(check(scope["app"].get_blocks(), inner, body), receive)
        await self.app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive) -> Receive:
        """Returns a `receive` that raises `MultiPartError` at the limit; gradio then deletes the files.

        Concurrent uploads fill the disk too, so the free space is checked again for every piece.
        """
        most, seen, room = self.limits.upload_mb * MB, 0, PIECE
        sentence = f"An upload must be at most {self.limits.upload_mb} MB, the maximum allowed size"
        announced = length(scope)
        if announced is not None and announced > most:
            raise Refused(413, f"{sentence}: received {announced} bytes.")
        await self._make_room(announced or most)

        async def counted() -> Message:
            nonlocal seen, room
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise gradio_private.MultiPartError(f"{sentence}.")
            if seen > room:
                room = seen + PIECE
                if not await asyncio.to_thread(self.room, PIECE):
                    raise gradio_private.MultiPartError(strings.DISK_FULL)
            return message

        return counted

    async def _make_room(self, coming: int) -> None:
        if not await asyncio.to_thread(self.room, coming):
            raise Refused(507, strings.DISK_FULL)


def check(blocks: gr.Blocks, path: str, body: bytes) -> bytes:
    """Validates the JSON body of a call and drops the fields that gradio does not need.

    Args:
        blocks: the page with the events.
        path: path below `API`.
        body: received bytes.

    Returns:
        The body to pass on.

    Raises:
        Refused: the call is malformed, names an unknown event or a file that was not uploaded.
    """
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        call = None
    if type(call) is not dict:
        raise Refused(400, f"A call must be a JSON object: received {len(body)} bytes that are not.")
    if not path.startswith(CALLS):  # cancel or reset
        return body
    if names_a_foreign_file(call):
        raise Refused(403, "A file must be uploaded: received the name of another, or an address.")
    if path.startswith("call/v2/"):  # named fields, validated by gradio
        return body
    call = {name: call[name] for name in FIELDS if name in call}
    session, data = call.get("session_hash"), call.get("data")
    if session is not None and (type(session) is not str or not 0 < len(session) <= SESSION):
        raise Refused(400, f"session_hash must be text of 1 to {SESSION} characters.")
    name = "" if path.startswith("queue/join") else path.split("/")[1]
    event = gradio_private.event(blocks, name, call.get("fn_index"))
    if event is None:
        raise Refused(404, "There is no such endpoint: see the description of the API.")
    if type(data) is not list or len(data) not in gradio_private.input_counts(event):
        received = f"{len(data)}" if type(data) is list else "something else"
        raise Refused(400, f"data must be a list of {len(event.inputs)} values: received {received}.")
    return json.dumps(call).encode()


def names_a_foreign_file(value: object) -> bool:
    """Returns whether a JSON value names a file that was not uploaded, or a URL, which gradio would fetch."""
    left, folder = [value], gradio_private.upload_folder()
    while left:
        value = left.pop()
        if type(value) is dict:
            path = value.get("path")
            if type(path) is str and (
                ADDRESS.match(path) or not gradio_private.is_inside(gradio_private.absolute(path), folder)
            ):
                return True
            left += value.values()
        elif type(value) is list:
            left += value
    return False


def length(scope: Scope) -> int | None:
    """Returns the Content-Length in bytes, or None without the header. uvicorn has validated the number."""
    value = Headers(scope=scope).get("content-length")
    return None if value is None else int(value)


async def whole(scope: Scope, receive: Receive, most: int) -> bytes:
    """Reads a whole request body.

    Args:
        scope: ASGI scope.
        receive: ASGI receive.
        most: maximum size in bytes.

    Raises:
        Refused: the body is larger than `most`.
    """
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


def replayed(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that replays a body, then continues with the connection's messages."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def answer(status: int, content: dict) -> JSONResponse:
    """Returns a JSON response that must not be cached."""
    return JSONResponse(content, status, {"cache-control": "no-store"})
