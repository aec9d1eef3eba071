"""Builds the page of each model and binds its events. Their scripts are in `components/form/script.js`."""

import json
from collections.abc import Mapping

import gradio as gr

from lumiere.page import PICTURE, examples, widgets, words
from lumiere.page.endpoints import endpoints
from lumiere.page.results import status
from lumiere.page.widgets import QUIET

PLACES = 24  # queued jobs that report their position; each occupies one of gradio's 40 threads
DEVICE = dict(concurrency_id="device", concurrency_limit=PLACES)
SCRIPT = dict(queue=False, **QUIET)

# Client-side handlers: CHANGED runs at every form change, BEGIN on Generate before the request is sent, LOST
# and UNANSWERED when the server cannot be reached.
NAMES = json.dumps(widgets.FORM)
CHANGED = f"(...form) => {{ lumiere.changed({NAMES}, ...form) }}"
BEGIN = f"now => now?.state === 'busy' ? now : ({json.dumps(status('busy', words.STARTING))})"
LOST = f"() => ({json.dumps(status('refused', words.LOST))})"
UNANSWERED = f"() => ({json.dumps({'sentence': words.LOST})})"


def blocks(apps: Mapping) -> gr.Blocks:
    """Returns the `gr.Blocks` with the pages of all models and the API endpoints.

    Args:
        apps: model name -> `App` of `app.py`. The first model is served at the root.
    """
    gr.set_static_paths([examples.FOLDER, PICTURE])
    first, *others = apps.values()
    with gr.Blocks(title=words.TITLE, analytics_enabled=False) as demo:
        bind(first)
        styles = first.entry.style.names if first.limits.styles else ()
        for endpoint in endpoints(first.answer, apps, styles, first.service.bounds.video_side):
            gr.api(endpoint, **DEVICE)
    for app in others:
        with demo.route(app.name, app.name):
            bind(app)
    return demo.queue(max_size=first.service.bounds.queue, api_open=False)  # all calls are queued


def bind(app) -> None:
    """Builds the page of one `App` inside the current `gr.Blocks` and binds its events."""
    page = widgets.page(app.limits, app.entry, app.service.bounds.upload_mb, app.name, app.addresses)
    start = [page.generate.click, page.prompt.submit]
    gr.on(start, None, page.status, page.status, js=BEGIN, **QUIET)
    made = gr.on(
        start,
        app.make,
        [page.given, *page.form, *page.style],
        [getattr(page, name) for name in widgets.OUTPUTS],
        js=f"(given, ...form) => [given, ...lumiere.ask({NAMES}, ...form)]",
        **DEVICE,
        **QUIET,
    )
    made.failure(None, None, page.status, js=LOST, **QUIET)
    page.stop.click(app.stop, None, page.stop, queue=False, **QUIET)
    page.prompt.change(app.note, page.prompt, page.note, trigger_mode="always_last", queue=False, **QUIET)
    merge = f"(wish, ...form) => lumiere.merge(wish, {NAMES}, ...form)"
    filled = page.wish.submit(None, [page.wish, *page.form], page.form, js=merge, **SCRIPT)
    filled.then(None, js="() => lumiere.begin()", **SCRIPT)
    gr.on([widget.change for widget in page.form], None, page.form, js=CHANGED, **SCRIPT)
    asked = page.outside.submit(app.outside, page.outside, page.outside, concurrency_limit=2, **QUIET)
    asked.failure(None, None, page.outside, js=UNANSWERED, **QUIET)
    asked = page.export.submit(
        app.export, page.export, page.export, concurrency_limit=1, concurrency_id="export", **QUIET
    )
    asked.failure(None, None, page.export, js=UNANSWERED, **QUIET)
