"""Kiosk page: a large clip and a rotation of prompts. It stores nothing and has no settings."""

import logging
from collections.abc import Iterator, Mapping

import gradio as gr

from lumiere.errors import UserError
from lumiere.page import examples, results, strings
from lumiere.page.controller import Controller, News
from lumiere.page.events import LOST
from lumiere.page.results import status
from lumiere.page.widgets import QUIET, component

HOLD = 12  # seconds to show a finished clip

log = logging.getLogger("lumiere.showcase")


def blocks(controllers: Mapping[str, Controller]) -> gr.Blocks:
    """Returns the `gr.Blocks` of the showcase.

    Args:
        controllers: model name -> controller. The first model generates the clips.
    """
    controller = next(iter(controllers.values()))

    def film(http: gr.Request, asked: object) -> Iterator[tuple]:
        """Yields the previews of a clip, then all its frames, as values of the player and of the caption."""
        prompt = asked.get("prompt") if isinstance(asked, dict) else None
        fields = {"prompt": prompt, "seed": None, "mode": "text"}
        try:
            with controller.service.entry(prompt) as line:
                for news in controller.relay(fields, None, http.session_hash, line):
                    if isinstance(news, str):
                        yield gr.skip(), status("busy", news) if news else gr.skip()
                        continue
                    update = news.update
                    if update.ended:
                        break
                    shown = gr.skip()
                    if update.preview is not None:
                        shown = results.sheet(update.preview, news.request, update.length)
                    yield shown, status("busy", news.request.prompt, step=update.step, steps=update.steps)
            assert isinstance(news, News), "the last item"
            clip = None
            if news.update.result is not None:
                clip = results.sheet(results.reel(news.frames), news.request)
            yield clip, status("done", news.request.prompt)
        except UserError as error:
            yield None, status("refused", str(error))
        except Exception:
            log.exception("the clip was not made")
            yield None, status("refused", strings.FAILED)

    with gr.Blocks(title=strings.TITLE, analytics_enabled=False) as demo:
        with gr.Column(elem_id="showcase"):
            with gr.Column(elem_id="stage"):
                player = component("player", **strings.PLAYER)
            caption = component(
                "showcase",
                prompts=[prompt for prompt, _ in examples.EXAMPLES],
                hold=HOLD,
                keys=strings.SHOWCASE_KEYS,
                elem_id="caption",
            )
            rota = component("rotation")
        # "multiple": the next clip may be requested before the last update of the current one arrives.
        made = rota.submit(
            film,
            rota,
            [player, caption],
            concurrency_id="device",
            concurrency_limit=4,
            trigger_mode="multiple",
            **QUIET,
        )
        made.failure(None, None, caption, js=LOST, **QUIET)
        rota.clear(controller.stop, None, gr.Button(visible=False), queue=False, **QUIET)
    return demo.queue(max_size=controller.service.limits.queue, api_open=False)
