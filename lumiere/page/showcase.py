"""Kiosk page: a large clip and a rotation of prompts. It stores nothing and has no settings."""

import logging
from collections.abc import Iterator, Mapping

import gradio as gr

from lumiere.page import examples, results, words
from lumiere.page.events import LOST
from lumiere.page.results import status
from lumiere.page.server.service import Sorry
from lumiere.page.widgets import QUIET, component

HOLD = 12  # seconds to show a finished clip

log = logging.getLogger("lumiere.showcase")


def blocks(apps: Mapping) -> gr.Blocks:
    """Returns the `gr.Blocks` of the showcase.

    Args:
        apps: model name -> `App` of `app.py`. The first model generates the clips.
    """
    app = next(iter(apps.values()))

    def film(http: gr.Request, asked) -> Iterator[tuple]:
        """Yields the previews of a clip, then all its frames, as values of the player and of the caption."""
        prompt = asked.get("prompt") if isinstance(asked, dict) else None
        fields = {"prompt": prompt, "seed": None, "mode": "text"}
        try:
            with app.service.entry(prompt) as line:
                for news in app.relay(fields, None, http.session_hash, line):
                    if isinstance(news, str):
                        yield gr.skip(), status("busy", news) if news else gr.skip()
                        continue
                    update = news.update
                    if update.ended:
                        break
                    shown = gr.skip()
                    if update.preview is not None:
                        shown = results.sheet(update.preview, news.request, update.length)
                    yield shown, status("busy", prompt, step=update.step, steps=update.steps)
            clip = None
            if update.result is not None:
                clip = results.sheet(results.reel(news.frames), news.request)
            yield clip, status("done", prompt)
        except Sorry as sorry:
            yield None, status("refused", str(sorry))
        except Exception:
            log.exception("the clip was not made")
            yield None, status("refused", words.FAILED)

    with gr.Blocks(title=words.TITLE, analytics_enabled=False) as demo:
        with gr.Column(elem_id="showcase"):
            with gr.Column(elem_id="stage"):
                theatre = component("player", label=words.STAGE_LABEL, clip_label=words.CLIP_LABEL)
            caption = component(
                "showcase",
                prompts=[prompt for prompt, _ in examples.EXAMPLES],
                hold=HOLD,
                keys=words.SHOWCASE_KEYS,
                elem_id="caption",
            )
            rota = component("rotation")
        # "multiple": the next clip may be requested before the last update of the current one arrives.
        line = dict(concurrency_id="device", concurrency_limit=4, trigger_mode="multiple")
        made = rota.submit(film, rota, [theatre, caption], **line, **QUIET)
        made.failure(None, None, caption, js=LOST, **QUIET)
        rota.clear(app.stop, None, gr.Button(visible=False), queue=False, **QUIET)
    return demo.queue(max_size=app.service.bounds.queue, api_open=False)
