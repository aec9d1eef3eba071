"""The page and its endpoint for programs. Widgets are in `lumiere.page`, the work runs in `lumiere.jobs`.

    python app.py                              the embedded model at http://127.0.0.1:7860
    python app.py --model sd15-animatediff     another model: --help tells which

GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where the page is served, lumiere/bounds.py how much it takes.
"""

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

import gradio as gr

from lumiere import jobs, models, zerogpu
from lumiere.allocator import keep_freed_memory
from lumiere.bounds import Bounds
from lumiere.page import part, widgets, words
from lumiere.page.disk import own_folder
from lumiere.page.service import Entry, Service, Sorry
from lumiere.page.theme import theme
from lumiere.request import MAX_TEXT, Limits, Request

HEARTBEAT = 0.5  # s between yields at most: gradio notices a closed tab only when a generator yields
PLACES = 24  # jobs in the line for the device, each told its place; each holds one of gradio's 40 threads
STOP_SECONDS = 2  # between Generate and the first message of its job, on a slow link
PREVIEW_FRAMES = 24  # of a finished clip, to play under the video until that is loaded
OUTPUTS = ("theatre", "status", "clip", "download", "seed", "stop", "note")

log = logging.getLogger("lumiere.app")


class App:
    """What the events do. `model` is the pipeline once it is loaded; the page opens before."""

    def __init__(self, limits: Limits, bounds: Bounds | None = None):
        self.limits = limits
        self.model: Future = Future()
        self.zero: zerogpu.ZeroGPU | None = None
        self.service = Service(bounds or Bounds(), loaded=self.model.done)

    def make(self, http: gr.Request, prompt, *settings):
        """One clip for the page: yields at least every half second, and ends with the page ready again."""
        fields = {"prompt": prompt, **dict(zip(widgets.SETTINGS, settings, strict=True))}
        if fields.pop("randomise"):
            fields["seed"] = None
        try:
            opening = words.STARTING if self.model.done() else words.WARMING
            yield show(status=status("busy", opening), stop=gr.Button(words.STOP, interactive=True))
            with self.service.entry(prompt) as entry:
                yield from self.film(fields, http.session_hash, entry)
        except Sorry as sorry:
            yield show(theatre=None, status=status("refused", str(sorry)))
        except Exception:
            log.exception("the clip was not made")
            yield show(theatre=None, status=status("refused", words.FAILED))

    def film(self, fields: dict, owner: str | None, entry: Entry) -> Iterator[list]:
        """The previews of a job as they come, then its clip."""
        seen = False
        for news in self.relay(fields, owner, entry):
            if self.service.unread(owner):
                entry.outcome = "left"
                return
            if news is None:
                yield show()
                continue
            request, update = news
            if update.ended:
                break
            changes = {"status": told(request, update), "seed": request.seed}
            if update.preview is not None:
                changes["theatre"] = sheet(update.preview, request)
                if not seen:  # the clip before this one stays until there is something in its place
                    changes.update(clip=None, download=gr.DownloadButton(value=None, interactive=False))
                    changes["note"] = self.note(request.prompt)  # the model may have come after the typing
                seen = True
            yield show(**changes)
        result = update.result
        if result is None:
            if self.service.ending.is_set():
                raise Sorry(words.CLOSING)
            yield show(theatre=None, status=status("done", words.STOPPED_EARLY))
            return
        facts = words.facts(request)
        some = result.frames[:: -(-len(result.frames) // PREVIEW_FRAMES)]
        yield show(theatre=sheet(some, request), status=status("busy", words.DEVELOPING, facts, 1, 1))
        path = self.save(result)
        yield show(
            theatre=None,  # a sheet in the last value would stay in the history of runs
            status=status("done", ending(result), facts),
            clip=path,
            download=gr.DownloadButton(value=path, interactive=True),
        )

    def generate(
        self,
        prompt: str,
        frames: int = 16,
        fps: int = 16,
        height: int | None = None,
        width: int | None = None,
        steps: int = 20,
        guidance: float = 4.0,
        scheduler: str = "dpm++ 2m",
        seed: int | None = None,
        negative_prompt: str = "",
    ) -> tuple[gr.FileData, dict]:
        """Makes a clip from a prompt; returns the MP4 file and the settings that made it, seed included.

        Parameters:
            prompt: What should happen, at most 2000 characters.
            frames: Length of the clip; must be divisible by the model's temporal downsample factor.
            fps: Frames shown per second, 1 to 60.
            height: In pixels; the model's own when none is given.
            width: In pixels; the model's own when none is given.
            steps: Denoising steps, 1 to 150.
            guidance: How closely to follow the prompt, 0 to 30; 1 switches guidance off.
            scheduler: One of ddim, dpm++ 2m, euler, euler a, unipc, lcm.
            seed: 0 to 4294967295; a random one when none is given.
            negative_prompt: What the clip should not show.
        """
        # A generator, although it has one result: gradio can only close generators when a client goes away.
        fields = {name: value for name, value in locals().items() if name != "self"}
        try:
            with self.service.entry(prompt) as entry:
                for news in self.relay(fields, None, entry):
                    if news is None or not news[1].ended:
                        yield None, None  # the type behind gr.api does not take gr.skip()
                result = news[1].result
                if result is None:  # only the end of the server stops it
                    raise Sorry(words.CLOSING)
                yield gr.FileData(path=self.save(result)), json.loads(result.request.to_json())
        except Sorry as sorry:
            raise gr.Error(str(sorry), print_exception=False) from None

    def relay(
        self, fields: dict, owner: str | None, entry: Entry
    ) -> Iterator[tuple[Request, jobs.Update] | None]:
        """Runs one job and yields its updates, or None when there is no news. Raises Sorry.

        A refusal comes before anything is waited for and costs no device work.
        """
        given = {name: value for name, value in fields.items() if value is not None or name == "prompt"}
        own = {"height": self.limits.default_height, "width": self.limits.default_width}
        request = entry.request = asked(lambda: Request(**own | given).check(self.limits).with_seed())
        self.service.admit()
        while not self.model.done():
            yield None
            wait([self.model], HEARTBEAT)
            self.service.admit()
        pipeline = self.model.result()
        job = jobs.Job(asked(lambda: zerogpu.work(pipeline, request, self.zero)), owner)
        try:
            for update in job.start().updates(HEARTBEAT):
                if update and update.ended and (update.result is None or update.result.stopped):
                    entry.outcome = "stopped"
                yield update and (request, update)
        except jobs.Closed:
            raise Sorry(words.CLOSING) from None
        except RuntimeError as error:
            from lumiere.pipeline import GenerationError  # torch is there by now, and not when the page opens

            raise Sorry(sentence(error)) if isinstance(error, GenerationError) else error from None
        finally:  # runs on the server's event loop when the tab is closed: a flag and nothing else
            job.abandon()

    def save(self, result) -> str:
        try:
            return self.service.disk.save(result)
        except OSError as error:
            log.exception("the clip was not saved")
            raise Sorry(sentence(error)) from None

    def note(self, prompt) -> str:
        """The line below the prompt: a tip, or the words that the model will leave out."""
        if not self.model.done() or type(prompt) is not str or len(prompt) > MAX_TEXT:
            return words.TIP
        return words.ignored(self.model.result().unknown_words(prompt))

    @staticmethod
    def stop(http: gr.Request):
        """Stops the visitor's own job; one that is still on its way here is waited for."""
        deadline = time.monotonic() + STOP_SECONDS
        while not jobs.device.stop(http.session_hash):
            if time.monotonic() > deadline:
                return gr.Button(words.STOP, interactive=True)
            time.sleep(0.05)
        return gr.Button(words.STOPPING, interactive=False)

    def blocks(self, entry: models.Model) -> gr.Blocks:
        with gr.Blocks(title=words.TITLE, analytics_enabled=False) as demo:
            page = widgets.page(self.limits, entry)
            device = dict(concurrency_id="device", concurrency_limit=PLACES)
            quiet = dict(show_progress="hidden", api_visibility="private", preprocess=False)
            start = [page.generate.click, page.prompt.submit]
            gr.on(start, None, page.status, page.status, js=BEGIN, **quiet)
            made = gr.on(
                start,
                self.make,
                [page.prompt, *page.settings],
                [getattr(page, name) for name in OUTPUTS],
                **device,
                **quiet,
            )
            made.failure(None, None, page.status, js=LOST, **quiet)
            page.stop.click(self.stop, None, page.stop, queue=False, **quiet)
            page.prompt.change(
                self.note, page.prompt, page.note, trigger_mode="always_last", queue=False, **quiet
            )
            gr.api(self.generate, api_name="generate", **device)
        return demo.queue(max_size=self.service.bounds.queue, api_open=False)  # nothing goes past the line


def show(**changes) -> list:
    """The outputs of the page's generator in their order; whatever is not named stays as it is."""
    return [changes.get(name, gr.skip()) for name in OUTPUTS]


def status(state: str, text: str, facts: str = "", step: int = 0, steps: int = 0) -> dict:
    """state: idle, busy, done or refused."""
    return {"state": state, "text": text, "facts": facts, "step": step, "steps": steps}


# In the browser: at the press of Generate, before the server has heard of it, and when it cannot be reached.
BEGIN = f"now => now?.state === 'busy' ? now : ({json.dumps(status('busy', words.STARTING))})"
LOST = f"() => ({json.dumps(status('refused', words.LOST))})"


def told(request: Request, update: jobs.Update) -> dict:
    if update.ahead:
        text = words.waiting(update.ahead)
    elif update.step == update.steps:
        text = words.DEVELOPING
    else:
        text = words.working(update.step, update.steps, update.seconds_per_step, update.seconds_left)
    return status("busy", text, words.facts(request), update.step, update.steps)


def ending(result) -> str:
    if result.stopped:
        return words.stopped(result.steps_done, result.request.steps)
    return words.done(result.seconds)


def asked(check: Callable[[], Request]) -> Request:
    try:
        return check()
    except ValueError as refusal:
        raise Sorry(sentence(refusal)) from None


def sentence(error: Exception) -> str:
    """`negative_prompt must be …` -> `Negative prompt must be …`"""
    text = str(error).replace("_", " ")
    return text[:1].upper() + text[1:]


def sheet(frames, request: Request) -> dict:
    """Preview frames uint8 (t h w c) as the value of the canvas, played in the time of the whole clip."""
    from lumiere.preview import sprite_sheet  # torch, which is there by now, and not when the page opens

    made = sprite_sheet(frames)
    return {
        "sheet": made.data_uri,
        "columns": made.columns,
        "count": made.count,
        "width": made.width,
        "height": made.height,
        "fps": request.fps * made.count / request.frames,
        "aspect": f"{request.width} / {request.height}",
    }


def main() -> None:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("lumiere").setLevel(logging.INFO)
    keep_freed_memory()
    options = models.options(words.INTRO).parse_args()
    try:
        own_folder()
        model = models.chosen(options)
        app = App(models.limits(model), Bounds.read())
        demo = app.blocks(model)
        if zerogpu.HERE:  # where weights come before the page
            app.zero = zerogpu.ZeroGPU(model)
        for end in (signal.SIGTERM, signal.SIGINT):
            signal.signal(end, app.service.end)
        app.service.launch(demo, theme=theme(), css=part("page.css"), head=part("head.html"))
        print(words.opened(demo.local_url), flush=True)
        # The model follows on this thread: if it cannot be loaded, no half-alive page stays behind.
        pipeline = models.get(model, options.device)
        app.model.set_result(pipeline)
        print(words.ready(pipeline.device.type), flush=True)
    except (OSError, ValueError) as error:
        sys.exit(words.unloadable(error))
    app.service.ending.wait()
    print(words.closed(app.service.close()), flush=True)
    demo.close(verbose=False)


if __name__ == "__main__":
    main()
