"""Builds the page of each model and binds its events. Their scripts are in `components/form/script.js`."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from lumiere.page import PICTURE, examples, strings, widgets
from lumiere.page.controller import Controller
from lumiere.page.endpoints import endpoints
from lumiere.page.results import status
from lumiere.page.widgets import QUIET

PLACES = 24  # queued jobs that report their position; each occupies one of gradio's 40 threads
# Arguments of the events that wait for the device
DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": PLACES}

# Client-side handlers: BEGIN runs on Generate before the request is sent, LOST and UNANSWERED when the server
# cannot be reached.
BEGIN = f"now => now?.state === 'busy' ? now : ({json.dumps(status('busy', strings.STARTING))})"
LOST = f"() => ({json.dumps(status('refused', strings.LOST))})"
UNANSWERED = f"() => ({json.dumps({'sentence': strings.LOST})})"


def blocks(controllers: Mapping[str, Controller]) -> gr.Blocks:
    """Returns the `gr.Blocks` with the pages of all models and the API endpoints.

    Args:
        controllers: model name -> controller. The first model is served at the root.
    """
    gr.set_static_paths([examples.FOLDER, PICTURE])
    first, *others = controllers.values()
    with gr.Blocks(title=strings.TITLE, analytics_enabled=False) as demo:
        bind(first)
        styles = first.entry.style.names if first.limits.styles else ()
        limits = [controller.limits for controller in controllers.values()]
        cameras = dict.fromkeys(move for each in limits for move in each.cameras)
        made = endpoints(
            first.answer,
            controllers,
            first.service.limits.video_side,
            styles=styles,
            cameras=cameras,
            adapter=any(each.adapter for each in limits),
        )
        for endpoint in made:
            gr.api(endpoint, **DEVICE)
    for controller in others:
        with demo.route(controller.name, controller.name):
            bind(controller)
    return demo.queue(max_size=first.service.limits.queue, api_open=False)  # all calls are queued


def bind(controller: Controller) -> None:
    """Builds the page of one controller inside the current `gr.Blocks` and binds its events."""
    page = widgets.page(
        controller.limits,
        controller.entry,
        controller.service.limits,
        controller.name,
        controller.addresses,
    )
    names = json.dumps(widgets.names(controller.limits))
    inputs = list(page.inputs.values())
    start = [page.generate.click, page.inputs["prompt"].submit]
    gr.on(start, None, page.status, page.status, js=BEGIN, **QUIET)
    made = gr.on(
        start,
        controller.make,
        [page.given, *inputs, *page.extra],
        [getattr(page, name) for name in widgets.OUTPUTS],
        js=f"(given, ...form) => [given, ...lumiere.ask({names}, ...form)]",
        **DEVICE,
        **QUIET,
    )
    made.failure(None, None, page.status, js=LOST, **QUIET)
    page.stop.click(controller.stop, None, page.stop, queue=False, **QUIET)
    prompt = page.inputs["prompt"]
    prompt.change(controller.note, prompt, page.note, trigger_mode="always_last", queue=False, **QUIET)
    merge = f"(filled, ...form) => lumiere.merge(filled, {names}, ...form)"
    filled = page.form.submit(None, [page.form, *inputs], inputs, js=merge, queue=False, **QUIET)
    filled.then(None, js="() => lumiere.begin()", queue=False, **QUIET)
    changed = f"(...form) => {{ lumiere.changed({names}, ...form) }}"
    gr.on([widget.change for widget in inputs], None, inputs, js=changed, queue=False, **QUIET)
    answered(page.deep_link, controller.deep_link, concurrency_limit=2)
    if page.models:
        answered(page.models, controller.models, concurrency_limit=4)
    answered(page.export, controller.export, concurrency_limit=1, concurrency_id="export")
    answered(page.thumbnail, controller.thumbnail, concurrency_limit=2)


def answered(asking: gr.HTML, handler: Callable, **options: Any) -> None:
    """Binds a handler to a component that sends questions and shows their answers.

    Args:
        asking: the component.
        handler: returns or yields its new values.
        options: how many calls run at once.
    """
    asked = asking.submit(handler, asking, asking, **options, **QUIET)
    asked.failure(None, None, asking, js=UNANSWERED, **QUIET)
