"""Event handlers of the page and of the API endpoints. Jobs run in `lumiere.runtime.jobs`."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import gradio as gr
import numpy as np

from lumiere import modes
from lumiere.errors import GenerationError, UserError
from lumiere.limits import ServerLimits
from lumiere.loading.registry import saved_settings
from lumiere.page import models, restore, results, strings, widgets
from lumiere.page.results import status
from lumiere.page.server import files
from lumiere.page.server.model_handle import ModelHandle
from lumiere.page.server.service import Entry, Service
from lumiere.page.widgets import OUTPUTS
from lumiere.request import MAX_TEXT, Limits, Request, required
from lumiere.runtime import jobs, model_cache, zerogpu
from lumiere.runtime.sources import prepare

HEARTBEAT = 0.5  # s, maximum time between yields: gradio notices a closed tab only when a generator yields
STOP_SECONDS = 1.5  # maximum time from Generate to the first message of its job on a slow connection
log = logging.getLogger("lumiere.page")
T = TypeVar("T")


@dataclass(frozen=True)
class News:
    """An update of a job, the request being processed and the frames to prepend to its clip."""

    request: Request
    update: jobs.Update
    before: np.ndarray | None

    @property
    def frames(self) -> np.ndarray:
        """The frames of the finished clip, uint8 `t h w c`."""
        made = required(self.update.result).frames
        return made if self.before is None else np.concatenate([self.before, made])


class Controller:
    """Event handlers for the page of one model.

    Args:
        entry: registry entry of the model.
        limits: limits of the model.
        server_limits: limits of the server, for the first controller. Defaults to the usual ones.
        name: name of the model on the page.
        controllers: model name -> controller of every page; this one adds itself. They share one service.
    """

    def __init__(
        self,
        entry: model_cache.Model,
        limits: Limits,
        server_limits: ServerLimits | None = None,
        name: str = "model",
        controllers: "dict[str, Controller] | None" = None,
    ):
        self.entry, self.limits, self.name = entry, limits, name
        self.model: Future[ModelHandle] = Future()  # resolves when the model is loaded
        self.zero: zerogpu.ZeroGPU | None = None
        self.controllers = {} if controllers is None else controllers
        shared = [each.service for each in self.controllers.values()]
        self.service: Service = (
            shared[0] if shared else Service(server_limits or ServerLimits(), loaded=self.model.done)
        )
        self.controllers[name] = self

    @property
    def addresses(self) -> dict[str, str]:
        """Addresses of the pages of all models, relative to any page: model name -> address."""
        return {name: name if number else "./" for number, name in enumerate(self.controllers)}

    def make(self, http: gr.Request, given: object, *form: object) -> Iterator[list]:
        """Generates a clip for the page; yields at least every `HEARTBEAT` s and ends with an idle page."""
        names = widgets.names(self.limits) + widgets.extra_names(self.limits)
        fields = dict(zip(names, form, strict=True))
        if fields.pop("randomise"):
            fields["seed"] = None
        for name, mode in (("strength", "video"), ("first_frame", "text"), ("loop", "text")):
            if fields["mode"] != mode:
                del fields[name]
        try:
            opening = strings.STARTING if self.model.done() else strings.WARMING
            yield show(status=status("busy", opening), stop=gr.Button(strings.STOP, interactive=True))
            with self.service.entry(fields["prompt"]) as entry:
                yield from self.film(fields, given, http.session_hash, entry)
        except UserError as error:
            yield show(player=None, status=status("refused", str(error)))
        except Exception:
            log.exception("the clip was not made")
            yield show(player=None, status=status("refused", strings.FAILED))

    def film(self, fields: dict, given: object, owner: str | None, entry: Entry) -> Iterator[list]:
        """Yields the outputs for the previews of a job, then for its clip."""
        seen = False
        for news in self.relay(fields, given, owner, entry):
            if self.service.unread(owner):
                entry.outcome = "left"
                return
            if isinstance(news, str):
                yield show(status=status("busy", news)) if news else show()
                continue
            request, update = news.request, news.update
            if update.ended:
                break
            changes = {"status": results.progress(request, update), "seed": request.seed}
            if update.preview is not None:
                changes["player"] = results.sheet(update.preview, request, update.length) | {"working": True}
                if not seen:
                    changes["note"] = self.note(request.prompt)  # the model may be newly loaded
                seen = True
            yield show(**changes)
        assert isinstance(news, News), "the last item"
        if update.result is None:
            if self.service.ending.is_set():
                raise UserError(strings.CLOSING)
            yield show(player=None, status=status("done", strings.STOPPED_EARLY))
            return
        frames, facts = news.frames, strings.facts(request)
        preview = results.sheet(results.some(frames), request, len(frames)) | {"working": True}
        yield show(player=preview, status=status("busy", strings.DEVELOPING, facts, 1, 1))
        path, told = self.save(request, frames), [results.ending(update.result)]
        told += files.notes(request, given)
        told.append(self.model.result().close_keys(request) or "")
        yield show(
            player={"clip": files.address(path), "fps": request.fps},
            status=status("done", " ".join(filter(None, told)), facts),
            result=results.finished(request, frames, path, self.limits),
        )

    def answer(self, fields: dict, given: dict) -> Iterator[tuple]:
        """Generates a clip for the API: yields (None, None) as heartbeats, then the file and its settings."""
        name = fields.pop("model", None)  # defaults to this model
        try:
            with self.service.entry(fields["prompt"]) as entry:
                if name is not None and (type(name) is not str or name not in self.controllers):
                    raise UserError(strings.unknown_model(self.controllers))
                controller = self if name is None else self.controllers[name]
                for news in controller.relay(fields, given, None, entry):
                    if isinstance(news, str) or not news.update.ended:
                        yield None, None  # the type behind gr.api does not take gr.skip()
                assert isinstance(news, News), "the last item"
                if news.update.result is None:  # API calls stop only at shutdown
                    raise UserError(strings.CLOSING)
                path = controller.save(news.request, news.frames)
                yield gr.FileData(path=path), json.loads(controller.settings(news.request))
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def relay(self, fields: dict, given: object, owner: str | None, entry: Entry) -> Iterator[News | str]:
        """Runs one job; yields its updates, or a status sentence or "" while there are none.

        Raises:
            UserError: the request is refused, before any wait or device work; the job fails or the server
            closes.
        """
        known = {name: value for name, value in fields.items() if value is not None or name == "prompt"}
        own = model_cache.own(self.entry, self.limits) | known
        request = entry.request = asked(lambda: Request(**own).check(self.limits).with_seed())
        given = given if isinstance(given, dict) else {}  # {name: file}, untrusted
        needed = modes.NEEDS[request.mode]
        asked(lambda: modes.check(request, {name for name in needed if given.get(name)}))
        self.service.admit()
        sources = asked(lambda: files.sources(request, given, self.limits, self.service.limits))
        with self.service.waiting(owner) as stopped:
            while not self.model.done():
                yield self.service.loading
                wait([self.model], HEARTBEAT)
                self.service.admit()
                if stopped.is_set():
                    entry.outcome = "stopped"
                    yield News(request, jobs.Update(ended=True), None)
                    return
        prepared = asked(partial(prepare, request, sources, self.limits))
        del sources  # frees files of any size while the job is queued
        work: zerogpu.Work = partial(self.model.result().generate, prepared.request, given=prepared.given)
        if self.zero:
            work = asked(partial(self.zero.generate, prepared.request, prepared.given))
        job = jobs.Job(work, owner)
        try:
            for update in job.start().updates(HEARTBEAT, jobs.UPDATE_SECONDS):
                if update and update.ended and (update.result is None or update.result.stopped):
                    entry.outcome = "stopped"
                yield News(prepared.request, update, prepared.before) if update else ""
        except jobs.Closed:
            raise UserError(strings.CLOSING) from None
        except GenerationError as error:
            raise UserError(strings.sentence(error)) from None
        finally:  # runs on the event loop when the tab is closed, so it only sets a flag
            job.abandon()

    def save(self, request: Request, frames: np.ndarray) -> str:
        """Saves a clip and returns its path.

        Raises:
            UserError: the clip cannot be written.
        """
        try:
            return self.service.disk.save(request, frames, self.settings(request))
        except OSError as error:
            log.exception("the clip was not saved")
            raise UserError(strings.sentence(error)) from None

    def settings(self, request: Request) -> str:
        """Returns the JSON saved with a clip; with several models it includes the model's name in the API."""
        return saved_settings(request, self.entry, self.name if len(self.controllers) > 1 else None)

    def note(self, prompt: object) -> dict:
        """Returns the line below the prompt: a tip, or the unknown words (ignored by the model) to mark."""
        if not self.model.done() or type(prompt) is not str or len(prompt) > MAX_TEXT:
            return strings.note([])
        return strings.note(self.model.result().unknown_words(prompt))

    def deep_link(self, sent: object) -> dict:
        """Returns the settings restored from {"query": link} or {"clip": upload}, both untrusted."""
        sent = sent if isinstance(sent, dict) else {}
        if "clip" in sent:
            others = {self.controllers[name].entry.name: address for name, address in self.addresses.items()}
            return restore.read_clip_settings(
                sent["clip"],
                self.limits,
                version=self.entry.version,
                names={self.name, self.entry.name},
                others=others | self.addresses,
            )
        return restore.read_link(sent.get("query"), self.limits, self.entry.version)

    def thumbnail(self, sent: object) -> dict:
        """Returns a given file as a picture (see `results.thumbnail`)."""
        return results.thumbnail(sent, self.service.limits)

    def export(self, sent: object) -> dict:
        """Returns a clip in another format (see `results.export`)."""
        return results.export(sent, self.limits, self.service)

    def models(self, http: gr.Request, sent: object) -> Iterator[dict]:
        """Yields the table of models, and the progress of a download (see `models.panel`)."""
        limits = self.service.limits
        yield from models.panel(sent, models.may_fetch(limits, http), self.addresses, limits.free_mb)

    async def stop(self, http: gr.Request) -> gr.Button:
        """Stops the session's own job; waits up to `STOP_SECONDS` for a job that has not arrived yet."""
        deadline = time.monotonic() + STOP_SECONDS
        while not (jobs.device.stop(http.session_hash) or self.service.stop_waiting(http.session_hash)):
            if time.monotonic() > deadline:
                return gr.Button(strings.STOP, interactive=True)
            await asyncio.sleep(0.05)  # blocks no thread, however often Stop is pressed
        return gr.Button(strings.STOPPING, interactive=False)


def show(**changes: object) -> list:
    """Returns the outputs of the page's events in `OUTPUTS` order; outputs not in `changes` are skipped."""
    return [changes.get(name, gr.skip()) for name in OUTPUTS]


def asked(check: Callable[[], T]) -> T:
    """Returns the result of a check.

    Raises:
        UserError: the check raises a `ValueError`.
    """
    try:
        return check()
    except ValueError as refusal:
        raise UserError(strings.sentence(refusal)) from None
