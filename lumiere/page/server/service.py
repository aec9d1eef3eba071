"""What keeps a public page going: a line in the log per request, bounds on memory and disk, an end."""

import json
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.middleware import Middleware

from lumiere.limits import Bounds
from lumiere.media.video import ENCODE_SECONDS
from lumiere.page import words
from lumiere.page.server.disk import MB, Disk
from lumiere.page.server.request_guard import Gate
from lumiere.runtime import jobs

SWEEP_SECONDS = 30  # between looks at the disk and at mail that nobody fetched
UNREAD = 40  # messages: a preview takes 0.1 MB, and who reads along has none or two of them waiting
LAST_SECONDS = 2  # at the end, for the last words to reach those who still listen
SESSIONS = 100  # visitors whose state gradio keeps, 0.1 MB each; a page without gr.State needs none of it

log = logging.getLogger("lumiere.requests")


class Sorry(Exception):
    """A refusal, or a failure worth explaining: one sentence for whoever asked."""


@dataclass
class Entry:
    """One request on its way to one line in the log."""

    request: object = None
    outcome: str = "done"


class Service:
    """One per process, as the queue and the disk are. `loaded` tells whether the model is."""

    def __init__(self, bounds: Bounds, loaded: Callable[[], bool]):
        self.bounds, self.loaded, self.disk = bounds, loaded, Disk(bounds)
        self.ending = threading.Event()
        self.loading = ""  # how far the loading at the start is, in a sentence
        self._open = 0  # requests that are not yet answered
        self._answered = threading.Condition()
        self._demo = None
        self._waiting: set[tuple[str | None, threading.Event]] = set()  # for the model, at the start
        self._idle: set[str] = set()  # sessions with mail and nothing to wait for at the last look

    def tell_loading(self, sentence: str) -> None:
        """To whoever waits for the model, and to the console."""
        self.loading = sentence
        print(sentence, file=sys.stderr, flush=True)

    @contextmanager
    def waiting(self, owner: str | None) -> Iterator[threading.Event]:
        """For a session that waits for the model; the event tells that it no longer does."""
        entry = owner, threading.Event()
        self._waiting.add(entry)
        try:
            yield entry[1]
        finally:
            self._waiting.discard(entry)

    def stop_waiting(self, owner: str | None) -> bool:
        """Ends the waiting of this session; whether it was."""
        events = [event for name, event in list(self._waiting) if owner is not None and name == owner]
        for event in events:
            event.set()
        return bool(events)

    def launch(self, demo, **given) -> None:
        """Serves a page behind the gate, on a thread of its own, and minds it from then on."""
        tools = bool(given.get("mcp_server"))
        gate = Middleware(Gate, bounds=self.bounds, health=self.health, room=self.room, tools=tools)
        self._demo = demo
        # Gradio keeps ten thousand events and makes a table of them after each: for a page that is closed.
        demo._queue.ANALYTICS_MAX_EVENTS, demo._queue.ANAYLTICS_CACHE_FREQUENCY = 100, sys.maxsize
        demo.launch(
            app_kwargs={"middleware": [gate]},
            max_file_size=f"{self.bounds.upload_mb}mb",
            state_session_capacity=SESSIONS,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            show_error=False,
            quiet=True,
            prevent_thread_lock=True,
            **given,
        )
        self.disk.remove_parts("*", ENCODE_SECONDS)  # of a server that was killed; others may be at work
        threading.Thread(target=self._mind, name="lumiere-service", daemon=True).start()

    def admit(self) -> None:
        """Raises Sorry when no clip can be begun: at the end of the server, or when the disk is full."""
        if self.ending.is_set():
            raise Sorry(words.CLOSING)
        if not self.room():
            free, needed = self.disk.free() // MB, self.bounds.free_mb
            raise Sorry(words.disk_full(free, needed) if free < needed else words.DISK_FULL)

    def room(self, coming: int = 0, *kept: str) -> bool:
        """Whether so many bytes may be written; see `Disk.room`. What the page itself shows is kept, too."""
        blocks = list(self._demo.blocks.values()) if self._demo else []
        shown = {path for block in blocks for path in getattr(block, "keep_in_cache", ())}
        return self.disk.room(coming, shown.union(kept))

    # The log.

    @contextmanager
    def entry(self, prompt) -> Iterator[Entry]:
        """Writes one line about this request, whatever becomes of it; without the prompt unless told to."""
        entry, began, name = Entry(), time.monotonic(), secrets.token_hex(4)
        with self._answered:
            self._open += 1
        try:
            yield entry
        except GeneratorExit:
            entry.outcome = "left"
            raise
        except BaseException as error:
            entry.outcome = "refused" if isinstance(error, Sorry) else "failed"
            raise
        finally:
            with self._answered:
                self._open -= 1
                self._answered.notify_all()
            log.info("%s", self._line(name, entry, time.monotonic() - began, prompt))

    def _line(self, name: str, entry: Entry, seconds: float, prompt) -> str:
        """Fields without spaces, and nothing in them that a stranger wrote, but for the prompt."""
        facts, asked = {"id": name, "mode": "-", "frames": "-", "size": "-", "steps": "-"}, entry.request
        if asked is not None:
            facts |= {"mode": asked.mode, "frames": asked.frames, "size": f"{asked.width}x{asked.height}"}
            facts["steps"] = asked.steps
        facts |= {"seconds": f"{seconds:.2f}", "outcome": entry.outcome}
        if self.bounds.log_prompts and type(prompt) is str:
            facts["prompt"] = json.dumps(prompt[:2000])  # ASCII: whatever a terminal obeys is escaped
        return " ".join(f"{key}={value}" for key, value in facts.items())

    # Memory.

    def unread(self, session: str | None) -> bool:
        """Whether so much mail waits for a session that nobody can be reading it."""
        mail = self._demo and self._demo._queue.pending_messages_per_session.get(session)
        return bool(mail) and mail.qsize() > UNREAD

    def _mind(self) -> None:
        while not self.ending.wait(SWEEP_SECONDS):
            try:
                self.room()
                self.forget_unread()
            except Exception:
                log.exception("the sweep failed")

    def forget_unread(self) -> None:
        """Drops the mail of sessions that twice in a row had no event waiting or running: nobody came for it.

        Gradio would keep that of two thousand sessions, each with all previews of a clip.
        """
        queue = self._demo._queue
        busy = {event.session_hash for event in list(queue.event_ids_to_events.values())}
        idle = {name for name in list(queue.pending_messages_per_session) if name not in busy}
        for name in idle & self._idle:
            queue.pending_messages_per_session.pop(name, None)
            queue.pending_event_ids_session.pop(name, None)
        self._idle = idle - self._idle

    # The end.

    def health(self) -> tuple[bool, dict]:
        """Whether requests are taken, and in words and numbers how things stand."""
        state = "closing" if self.ending.is_set() else "ready" if self.loaded() else "loading"
        facts = {"status": state, "jobs": len(jobs.device), "free_mb": self.disk.free() // MB}
        return state == "ready", facts

    def end(self, *_) -> None:
        """For the signals that end a process; a second, or one before the model is there, ends it at once."""
        if self.ending.is_set() or not self.loaded():
            raise SystemExit(1)
        self.ending.set()

    def close(self) -> bool:
        """Refuses what comes, stops what runs and waits until everybody has an answer, at most the grace.

        Leaves no half-written file. Returns whether all were answered.
        """
        self.ending.set()
        jobs.device.close()
        with self._answered:
            answered = self._answered.wait_for(lambda: not self._open, self.bounds.grace_seconds)
        deadline = time.monotonic() + LAST_SECONDS
        while self._unsent() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.disk.remove_parts(f"{self.disk.mark}*")
        return answered

    def _unsent(self) -> bool:
        """Whether gradio still runs an event, or has mail that nobody has fetched yet."""
        queue = self._demo._queue
        mail = list(queue.pending_messages_per_session.values())
        return any(job is not None for job in queue.active_jobs) or any(box.qsize() for box in mail)
