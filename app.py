"""The page and its API endpoints. Widgets are in `lumiere.page`, jobs run in `lumiere.runtime.jobs`.

    python app.py                              embedded model, http://127.0.0.1:7860
    python app.py --model sd15-animatediff     another model (see --help); repeatable, one page each
    python app.py --showcase                   kiosk: large clip, rotating prompts
    python app.py --mcp                        endpoints also as MCP tools.
GRADIO_SERVER_NAME and GRADIO_SERVER_PORT set the address; `lumiere/limits.py` lists the server limits.
"""

import argparse
import asyncio
import importlib.util
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass

import gradio as gr
import numpy as np

from lumiere import modes
from lumiere.errors import GenerationError
from lumiere.limits import Bounds
from lumiere.loading.hub import telling
from lumiere.loading.registry import saved_settings
from lumiere.page import events, files, head, part, restore, results, showcase, widgets, words
from lumiere.page.results import status
from lumiere.page.server.disk import own_folder
from lumiere.page.server.model_handle import Served, first_ready, there
from lumiere.page.server.service import Entry, Service, Sorry
from lumiere.page.theme import theme
from lumiere.page.widgets import OUTPUTS
from lumiere.request import MAX_TEXT, Limits, Request
from lumiere.runtime import jobs, model_cache, zerogpu
from lumiere.runtime.sources import prepare
from lumiere.sampling.allocator import keep_freed_memory

HEARTBEAT = 0.5  # s, maximum time between yields: gradio notices a closed tab only when a generator yields
STOP_SECONDS = 1.5  # maximum time from Generate to the first message of its job on a slow connection
log = logging.getLogger("lumiere.app")


@dataclass(frozen=True)
class News:
    """An update of a job, the request being processed and the frames to prepend to its clip."""

    request: Request
    update: jobs.Update
    before: np.ndarray | None

    @property
    def frames(self) -> np.ndarray:
        made = self.update.result.frames
        return made if self.before is None else np.concatenate([self.before, made])


class App:
    """Event handlers for the page of one model. Adds itself to `apps` (model name -> `App`) under `name`."""

    def __init__(
        self,
        entry: model_cache.Model,
        limits: Limits,
        bounds: Bounds | None = None,
        name: str = "model",
        apps: "dict[str, App] | None" = None,
    ):
        self.entry, self.limits, self.name = entry, limits, name
        self.model: Future = Future()  # resolves to the pipeline handle (`Served`) when the model is loaded
        self.zero: zerogpu.ZeroGPU | None = None
        self.apps = {} if apps is None else apps
        shared = [app.service for app in self.apps.values()]
        self.service = shared[0] if shared else Service(bounds or Bounds(), loaded=self.model.done)
        self.apps[name] = self

    @property
    def addresses(self) -> dict[str, str]:
        """Addresses of the pages of all models, relative to any page: model name -> address."""
        return {name: name if number else "./" for number, name in enumerate(self.apps)}

    def make(self, http: gr.Request, given, *form):
        """Generates a clip for the page; yields at least every `HEARTBEAT` s and ends with an idle page."""
        names = [*widgets.FORM, "style_weights"]  # a page without styles omits the last
        fields = dict(zip(names, form, strict=False))
        if fields.pop("randomise"):
            fields["seed"] = None
        for name, mode in (("strength", "video"), ("first_frame", "text")):
            if fields["mode"] != mode:
                del fields[name]
        try:
            opening = words.STARTING if self.model.done() else words.WARMING
            yield show(status=status("busy", opening), stop=gr.Button(words.STOP, interactive=True))
            with self.service.entry(fields["prompt"]) as entry:
                yield from self.film(fields, given, http.session_hash, entry)
        except Sorry as sorry:
            yield show(theatre=None, status=status("refused", str(sorry)))
        except Exception:
            log.exception("the clip was not made")
            yield show(theatre=None, status=status("refused", words.FAILED))

    def film(self, fields: dict, given, owner: str | None, entry: Entry) -> Iterator[list]:
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
            changes = {"status": results.told(request, update), "seed": request.seed}
            if update.preview is not None:
                changes["theatre"] = results.sheet(update.preview, request, update.length) | {"working": True}
                if not seen:
                    changes["note"] = self.note(request.prompt)  # the model may be newly loaded
                seen = True
            yield show(**changes)
        if update.result is None:
            if self.service.ending.is_set():
                raise Sorry(words.CLOSING)
            yield show(theatre=None, status=status("done", words.STOPPED_EARLY))
            return
        frames, facts = news.frames, words.facts(request)
        preview = results.sheet(results.some(frames), request, len(frames)) | {"working": True}
        yield show(theatre=preview, status=status("busy", words.DEVELOPING, facts, 1, 1))
        path = self.save(request, frames)
        yield show(
            theatre={"clip": files.address(path), "fps": request.fps},
            status=status("done", results.ending(update.result), facts),
            result=results.finished(request, frames, path, self.limits),
        )

    def answer(self, fields: dict, given: dict) -> Iterator[tuple]:
        """Generates a clip for the API: yields (None, None) as heartbeats, then the file and its settings."""
        name = fields.pop("model", None)  # defaults to this model
        try:
            with self.service.entry(fields["prompt"]) as entry:
                app = self.apps.get(name) if type(name) is str else self if name is None else None
                if app is None:
                    raise Sorry(words.unknown_model(self.apps))
                for news in app.relay(fields, given, None, entry):
                    if isinstance(news, str) or not news.update.ended:
                        yield None, None  # the type behind gr.api does not take gr.skip()
                if news.update.result is None:  # API calls stop only at shutdown
                    raise Sorry(words.CLOSING)
                path = app.save(news.request, news.frames)
                yield gr.FileData(path=path), json.loads(app.settings(news.request))
        except Sorry as sorry:
            raise gr.Error(str(sorry), print_exception=False) from None

    def relay(self, fields: dict, given, owner: str | None, entry: Entry) -> Iterator[News | str]:
        """Runs one job; yields its updates, or a status sentence or "" while there are none.

        Raises:
            Sorry: the request is refused, before any wait or device work; the job fails or the server closes.
        """
        known = {name: value for name, value in fields.items() if value is not None or name == "prompt"}
        own = model_cache.own(self.entry, self.limits) | known
        request = entry.request = asked(lambda: Request(**own).check(self.limits).with_seed())
        given = given if isinstance(given, dict) else {}  # {name: file}, untrusted
        needed = modes.NEEDS[request.mode]
        asked(lambda: modes.check(request, {name for name in needed if given.get(name)}))
        self.service.admit()
        sources = asked(lambda: files.sources(request, given, self.limits, self.service.bounds))
        with self.service.waiting(owner) as stopped:
            while not self.model.done():
                yield self.service.loading
                wait([self.model], HEARTBEAT)
                self.service.admit()
                if stopped.is_set():
                    entry.outcome = "stopped"
                    yield News(request, jobs.Update(ended=True), None)
                    return
        pipeline = self.model.result()
        prepared = asked(lambda: prepare(request, sources, self.limits))
        sources = None  # frees files of any size while the job is queued
        work = asked(lambda: zerogpu.work(pipeline, prepared.request, prepared.given, self.zero))
        job = jobs.Job(work, owner)
        try:
            for update in job.start().updates(HEARTBEAT, jobs.UPDATE_SECONDS):
                if update and update.ended and (update.result is None or update.result.stopped):
                    entry.outcome = "stopped"
                yield News(prepared.request, update, prepared.before) if update else ""
        except jobs.Closed:
            raise Sorry(words.CLOSING) from None
        except RuntimeError as error:
            raise Sorry(words.sentence(error)) if isinstance(error, GenerationError) else error from None
        finally:  # runs on the event loop when the tab is closed, so it only sets a flag
            job.abandon()

    def save(self, request: Request, frames: np.ndarray) -> str:
        try:
            return self.service.disk.save(request, frames, self.settings(request))
        except OSError as error:
            log.exception("the clip was not saved")
            raise Sorry(words.sentence(error)) from None

    def settings(self, request: Request) -> str:
        """Returns the JSON saved with a clip; with several models it includes the model's name in the API."""
        return saved_settings(request, self.entry, self.name if len(self.apps) > 1 else None)

    def note(self, prompt) -> dict:
        """Returns the line below the prompt: a tip, or the unknown words (ignored by the model) to mark."""
        if not self.model.done() or type(prompt) is not str or len(prompt) > MAX_TEXT:
            return words.note([])
        return words.note(self.model.result().unknown_words(prompt))

    def outside(self, sent) -> dict:
        """Returns the settings restored from {"query": link} or {"clip": upload}, both untrusted."""
        sent = sent if isinstance(sent, dict) else {}
        if "clip" in sent:
            others = {self.apps[name].entry.name: address for name, address in self.addresses.items()}
            return restore.read_clip_settings(
                sent["clip"],
                self.limits,
                version=self.entry.version,
                names={self.name, self.entry.name},
                others=others | self.addresses,
            )
        return restore.read_link(sent.get("query"), self.limits, self.entry.version)

    def export(self, sent) -> dict:
        return results.export(sent, self.limits, self.service)

    async def stop(self, http: gr.Request):
        """Stops the session's own job; waits up to `STOP_SECONDS` for a job that has not arrived yet."""
        deadline = time.monotonic() + STOP_SECONDS
        while not (jobs.device.stop(http.session_hash) or self.service.stop_waiting(http.session_hash)):
            if time.monotonic() > deadline:
                return gr.Button(words.STOP, interactive=True)
            await asyncio.sleep(0.05)  # blocks no thread, however often Stop is pressed
        return gr.Button(words.STOPPING, interactive=False)


def show(**changes) -> list:
    """Returns the outputs of the page's events in `OUTPUTS` order; outputs not in `changes` are skipped."""
    return [changes.get(name, gr.skip()) for name in OUTPUTS]


def asked(check: Callable):
    try:
        return check()
    except ValueError as refusal:
        raise Sorry(words.sentence(refusal)) from None


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    options = model_cache.options(words.INTRO)
    options.add_argument("--showcase", action="store_true", help="a large clip and a rotation of prompts")
    options.add_argument(
        "--mcp", action="store_true", help="serve the endpoints as tools for language models"
    )
    options = options.parse_args(given)
    if options.mcp and importlib.util.find_spec("mcp") is None:
        sys.exit(words.NO_MCP)
    return options


def main() -> None:
    options = arguments()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("lumiere").setLevel(logging.INFO)
    keep_freed_memory()
    try:
        own_folder()
        bounds, apps = Bounds.read(), {}
        for name, (model, limits) in there(model_cache.allowed(options)).items():
            App(model, limits, bounds, name, apps)
        first, *others = apps.values()
        demo = (showcase if options.showcase else events).blocks(apps)
        service = first.service
        if zerogpu.HERE:  # ZeroGPU needs the weights before the page
            first.zero = zerogpu.ZeroGPU(first.entry)
        for end in (signal.SIGTERM, signal.SIGINT):
            signal.signal(end, service.end)
        service.launch(
            demo, theme=theme(), css=part("components/document/page.css"), head=head(), mcp_server=options.mcp
        )
        print(words.opened(demo.local_url), flush=True)
        with telling(service.tell_loading):  # loads on this thread, so that a failure also ends the page
            told = first_ready(first.entry, options.device, alone=not others)
        for app in apps.values():
            app.model.set_result(Served(app.name, app.entry, options.device))
        print(told, flush=True)
    except (OSError, ValueError) as error:
        sys.exit(words.unloadable(error))
    service.ending.wait()
    print(words.closed(service.close()), flush=True)
    demo.close(verbose=False)


if __name__ == "__main__":
    main()
