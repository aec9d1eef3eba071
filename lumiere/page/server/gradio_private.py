"""All private names of gradio that the page needs, written for gradio 6.31.

Gradio documents none of them, so `check` asserts that they exist before the page is served. No other
module of this project may use a private name of gradio.
"""

import re
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio
import gradio.mcp
from gradio import networking, route_utils, routes, utils
from jinja2 import ChoiceLoader, DictLoader

from lumiere.request import required

VERSION = "6.31"
MultiPartError = route_utils.MultiPartException  # gradio answers it with 413 and deletes the files
upload_folder = utils.get_upload_folder
is_inside = utils.is_in_or_equal
absolute = utils.abspath

_INDEX = "frontend/index.html"
_LOADER = required(routes.templates.env.loader)
_FOREIGN = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>|<link rel="manifest"[^>]*>')
_FILE_FORMAT = "a data URI: data:image/png;base64,…"


def check(demo: gradio.Blocks) -> None:
    """Checks that gradio still has the private names.

    Args:
        demo: the page.

    Raises:
        RuntimeError: a name is missing.
    """
    needed = (
        (demo, "blocks fns _queue"),
        (
            demo._queue,
            "ANALYTICS_MAX_EVENTS ANAYLTICS_CACHE_FREQUENCY pending_messages_per_session "
            "pending_event_ids_session event_ids_to_events active_jobs",
        ),
        (gradio.mcp, "DEFAULT_TEMP_DIR Client"),
        (gradio.mcp.GradioMCPServer, "simplify_filedata_schema convert_strings_to_filedata"),
        (networking, "url_ok"),
    )
    missing = [f"{name}" for owner, names in needed for name in names.split() if not hasattr(owner, name)]
    source, _, _ = _LOADER.get_source(routes.templates.env, _INDEX)
    missing += [f"{mark} in {_INDEX}" for mark in ("</head>", "og:title") if mark not in source]
    if missing:
        raise RuntimeError(
            f"gradio {gradio.__version__} has no {missing[0]}: install gradio {VERSION}, which this page was "
            "written for."
        )


def set_temp_folder(folder: str) -> None:
    """Sets the folder for files of MCP calls, which gradio reads from the environment only at import."""
    gradio.mcp.DEFAULT_TEMP_DIR = folder


def keep_few_analytics(demo: gradio.Blocks) -> None:
    """Keeps 100 events of the disabled analytics page; gradio keeps 10 000 and tabulates them anew."""
    demo._queue.ANALYTICS_MAX_EVENTS, demo._queue.ANAYLTICS_CACHE_FREQUENCY = 100, sys.maxsize


def serve_head(head: str) -> None:
    """Adds HTML to the head of the document as served, in place of gradio's own link previews.

    Args:
        head: a Jinja template; `config['root']` is the address of the request.
    """
    source, _, _ = _LOADER.get_source(routes.templates.env, _INDEX)
    page = _FOREIGN.sub("", source).replace("</head>", f"{head}</head>", 1)
    routes.templates.env.loader = ChoiceLoader([DictLoader({_INDEX: page}), _LOADER])
    required(routes.templates.env.cache).clear()


def fit_tools(demo: gradio.Blocks, refused: type[Exception], sentence: str) -> None:
    """Fits gradio's MCP tools to what the endpoints take.

    Files are data URIs only, and the schema says so. Numbers that JSON writes as 8.0 are 8. Our own address
    is reached without a proxy.

    Args:
        demo: the launched page.
        refused: error to raise for another file.
        sentence: its message.
    """
    tools = required(demo.mcp_server_obj)
    gradio.mcp.Client = partial(_CLIENT, httpx_kwargs={"trust_env": False})  # no proxy
    simplify, convert = tools.simplify_filedata_schema, tools.convert_strings_to_filedata

    def described(schema: Any) -> tuple[Any, list]:
        simple, positions = simplify(schema)
        for node in _nodes(simple):
            if str(node.get("format", "")).startswith("Gradio File Input"):
                node["format"] = _FILE_FORMAT
        return simple, positions

    def converted(value: Any, positions: list) -> Any:
        files = [value[name] for (name, *_) in positions if name in value]
        if not all(isinstance(file, str) and file.startswith("data:") for file in files):
            raise refused(sentence)
        try:
            return convert({name: _whole(each) for name, each in value.items()}, positions)
        except ValueError:  # not base64
            raise refused(sentence) from None

    vars(tools).update(simplify_filedata_schema=described, convert_strings_to_filedata=converted)


_CLIENT = gradio.mcp.Client


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _nodes(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(inner)


# Events and messages


def event(blocks: gradio.Blocks, name: str, index: object) -> Any | None:
    """Returns the event of a call by its index, or else by its name; None if the server runs none.

    Args:
        blocks: the page.
        name: name of the endpoint, empty for none.
        index: index of the event, untrusted; None to go by the name.
    """
    if index is None:
        found = [each for each in blocks.fns.values() if name and each.api_name == name]
    else:
        found = [blocks.fns[index]] if type(index) is int and index in blocks.fns else []
    return found[0] if found and found[0].fn is not None else None  # without fn it runs in the browser only


def input_counts(event: Any) -> set[int]:
    """Returns how many values a call may have: all inputs of the event, or the inputs of the API."""
    return {len(event.inputs), len([each for each in event.inputs if not each.skip_api])}


def shown_files(demo: gradio.Blocks) -> set[str]:
    """Returns the paths of the files that the page itself shows."""
    return {path for block in demo.blocks.values() for path in getattr(block, "keep_in_cache", ())}


def unread(demo: gradio.Blocks, session: str | None) -> int:
    """Returns the number of messages that a session has not read."""
    mail = demo._queue.pending_messages_per_session.get(session)
    return mail.qsize() if mail else 0


def idle_sessions(demo: gradio.Blocks) -> set[str]:
    """Returns the sessions that have messages but no queued or running event."""
    queue = demo._queue
    busy = {each.session_hash for each in list(queue.event_ids_to_events.values())}
    return {name for name in list(queue.pending_messages_per_session) if name not in busy}


def forget(demo: gradio.Blocks, session: str) -> None:
    """Drops the messages of a session."""
    demo._queue.pending_messages_per_session.pop(session, None)
    demo._queue.pending_event_ids_session.pop(session, None)


def unsent(demo: gradio.Blocks) -> bool:
    """Returns whether gradio still runs an event or holds unread messages."""
    queue = demo._queue
    mail = list(queue.pending_messages_per_session.values())
    return any(job is not None for job in queue.active_jobs) or any(box.qsize() for box in mail)
