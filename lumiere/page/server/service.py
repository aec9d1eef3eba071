"""The service behind the page: one log line per request, memory and disk limits, graceful shutdown."""

import json
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from lumiere.errors import UserError
from lumiere.limits import ServerLimits
from lumiere.media.video import ENCODE_SECONDS
from lumiere.page import PICTURE, head, strings
from lumiere.page.server import gradio_private
from lumiere.page.server.disk import MB, Disk
from lumiere.page.server.request_guard import RequestGuard
from lumiere.page.server.site import Site, without_proxies
from lumiere.request import Request, required
from lumiere.runtime import jobs

SWEEP_SECONDS = 30  # between sweeps of the disk and of unread messages
UNREAD = 100  # messages, 15 s of them; a preview takes 0.1 MB, and a busy browser may fall behind
LAST_SECONDS = 2  # for the last messages to reach connected clients at shutdown
SESSIONS = 100  # sessions whose state gradio keeps, 0.1 MB each; a page without gr.State needs no state

log = logging.getLogger("lumiere.requests")


@dataclass
class Entry:
    """The log entry of one request.

    Attributes:
        request: the validated request; None until it passes validation.
        outcome: "done", "stopped", "left", "refused" or "failed".
    """

    request: Request | None = None
    outcome: str = "done"


class Service:
    """The service of the process; there is one, shared by all models, like the queue and the disk.

    Args:
        limits: limits of the server.
        loaded: returns whether the model is loaded.
    """

    def __init__(self, limits: ServerLimits, loaded: Callable[[], bool]):
        self.limits, self.loaded, self.disk = limits, loaded, Disk(limits)
        self.ending = threading.Event()
        self.loading = ""  # latest loading message
        self._open = 0  # unanswered requests
        self._answered = threading.Condition()
        self._demo: gr.Blocks | None = None
        self._waiting: set[tuple[str | None, threading.Event]] = set()  # sessions waiting for the model
        self._idle: set[str] = set()  # sessions with unread messages but no event at the last sweep

    def tell_loading(self, sentence: str) -> None:
        """Publishes a loading message to waiting clients and to the console."""
        self.loading = sentence
        print(sentence, file=sys.stderr, flush=True)

    @contextmanager
    def waiting(self, owner: str | None) -> Iterator[threading.Event]:
        """Registers a session that waits for the model; `stop_waiting` sets the yielded event.

        Args:
            owner: session hash; None for an API call, which cannot be stopped.
        """
        entry = owner, threading.Event()
        self._waiting.add(entry)
        try:
            yield entry[1]
        finally:
            self._waiting.discard(entry)

    def stop_waiting(self, owner: str | None) -> bool:
        """Stops a session from waiting for the model.

        Args:
            owner: session hash.

        Returns:
            Whether the session was waiting.
        """
        events = [event for name, event in list(self._waiting) if owner is not None and name == owner]
        for event in events:
            event.set()
        return bool(events)

    def launch(self, demo: gr.Blocks, site: Site | None = None, tools: bool = False, **given: Any) -> None:
        """Serves a page behind the request guard on a new thread and starts the periodic sweep.

        Every argument that gradio would read from the environment is set: the environment must not change
        what is promised (see `site.py`).

        Args:
            demo: the page to serve.
            site: where to serve it. Defaults to a free port of this machine.
            tools: also serve the endpoints as MCP tools.
            **given: further arguments of `gr.Blocks.launch`.

        Raises:
            OSError: the address cannot be used.
            RuntimeError: gradio lacks a private name.
        """
        site = site or Site()
        guard = Middleware(
            RequestGuard,
            limits=self.limits,
            health=self.health,
            room=self.room,
            root_path=site.root_path,
            tools=tools,
        )
        self._demo = demo
        gradio_private.check(demo)
        gradio_private.keep_few_analytics(demo)
        gradio_private.serve_head(head(site.url))
        try:
            with without_proxies():
                demo.launch(
                    server_name=site.host,
                    server_port=site.port,
                    root_path=site.root_path,
                    app_kwargs={"middleware": [guard]},
                    max_file_size=f"{self.limits.upload_mb}mb",
                    state_session_capacity=SESSIONS,
                    # Server-side rendering puts a Node process in front of the page. It answers /health
                    # itself and replaces our signal handlers: SIGTERM would abort the clip in the making.
                    ssr_mode=False,
                    num_workers=0,  # static workers would serve files and uploads past the request guard
                    share=False,
                    mcp_server=tools,
                    allowed_paths=[str(PICTURE)],
                    pwa=False,
                    footer_links=[],
                    run_history=False,
                    enable_monitoring=False,
                    show_error=False,
                    quiet=True,
                    prevent_thread_lock=True,
                    **given,
                )
        except OSError:
            raise OSError(strings.no_address(site.host, site.port)) from None
        if tools:
            gradio_private.fit_tools(demo, UserError, strings.DATA_URIS)
        self.disk.remove_parts("*", ENCODE_SECONDS)  # left by killed servers; younger files may be in use
        threading.Thread(target=self._mind, name="lumiere-service", daemon=True).start()

    def admit(self) -> None:
        """Checks that a new clip can be started.

        Raises:
            UserError: the server is shutting down, or the disk is full.
        """
        if self.ending.is_set():
            raise UserError(strings.CLOSING)
        if not self.room():
            free, needed = self.disk.free() // MB, self.limits.free_mb
            raise UserError(strings.disk_full(free, needed) if free < needed else strings.DISK_FULL)

    def room(self, coming: int = 0, *kept: str) -> bool:
        """Makes room on the disk (see `Disk.room`), keeping the files that the page itself shows.

        Args:
            coming: bytes about to be written.
            *kept: further paths to keep.

        Returns:
            Whether `coming` bytes may be written.
        """
        shown: set[str] = gradio_private.shown_files(self._demo) if self._demo else set()
        return self.disk.room(coming, shown.union(kept))

    # Log

    @contextmanager
    def entry(self, prompt: object) -> Iterator[Entry]:
        """Logs one line for a request, whatever its outcome.

        Args:
            prompt: logged only if `limits.log_prompts` is set; untrusted.

        Yields:
            The entry, for the caller to fill in.
        """
        entry, began, name = Entry(), time.monotonic(), secrets.token_hex(4)
        with self._answered:
            self._open += 1
        try:
            yield entry
        except GeneratorExit:
            entry.outcome = "left"
            raise
        except BaseException as error:
            entry.outcome = "refused" if isinstance(error, UserError) else "failed"
            raise
        finally:
            with self._answered:
                self._open -= 1
                self._answered.notify_all()
            log.info("%s", self._line(name, entry, time.monotonic() - began, prompt))

    def _line(self, name: str, entry: Entry, seconds: float, prompt: object) -> str:
        """Formats the log line: fields without spaces and, apart from the prompt, without user text."""
        facts: dict[str, object] = {"id": name, "mode": "-", "frames": "-", "size": "-", "steps": "-"}
        asked = entry.request
        if asked is not None:
            facts |= {"mode": asked.mode, "frames": asked.frames, "size": f"{asked.width}x{asked.height}"}
            facts["steps"] = asked.steps
        facts |= {"seconds": f"{seconds:.2f}", "outcome": entry.outcome}
        if self.limits.log_prompts and type(prompt) is str:
            facts["prompt"] = json.dumps(prompt[:2000])  # ASCII: escapes terminal control characters
        return " ".join(f"{key}={value}" for key, value in facts.items())

    # Memory

    def unread(self, session: str | None) -> bool:
        """Returns whether a session has more unread messages than a connected client would leave."""
        return self._demo is not None and gradio_private.unread(self._demo, session) > UNREAD

    def _mind(self) -> None:
        while not self.ending.wait(SWEEP_SECONDS):
            try:
                self.room()
                self.forget_unread()
            except Exception:
                log.exception("the sweep failed")

    def forget_unread(self) -> None:
        """Drops the messages of sessions without a queued or running event in two consecutive sweeps.

        Gradio would keep the messages of 2000 sessions, each with all previews of a clip.
        """
        demo = required(self._demo)
        idle = gradio_private.idle_sessions(demo)
        for name in idle & self._idle:
            gradio_private.forget(demo, name)
        self._idle = idle - self._idle

    # Shutdown

    def health(self) -> tuple[bool, dict]:
        """Returns whether requests are accepted, and the status, job count and free MB for `/health`."""
        state = "closing" if self.ending.is_set() else "ready" if self.loaded() else "loading"
        facts = {"status": state, "jobs": len(jobs.device), "free_mb": self.disk.free() // MB}
        return state == "ready", facts

    def end(self, *_: object) -> None:
        """Signal handler: starts the shutdown.

        Raises:
            SystemExit: on a second signal, or before the model is loaded.
        """
        if self.ending.is_set() or not self.loaded():
            raise SystemExit(1)
        self.ending.set()

    def close(self) -> bool:
        """Refuses new requests, stops running jobs and waits up to `limits.grace_seconds` for open requests.

        Deletes partial files.

        Returns:
            Whether all requests were answered.
        """
        self.ending.set()
        jobs.device.close()
        with self._answered:
            answered = self._answered.wait_for(lambda: not self._open, self.limits.grace_seconds)
        deadline = time.monotonic() + LAST_SECONDS
        while gradio_private.unsent(required(self._demo)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.disk.remove_parts(f"{self.disk.mark}*")
        return answered
