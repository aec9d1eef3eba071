"""The model panel: the table of models, and downloads that visitors start where the server permits it.

A public server must not let strangers fill its disk: see `ServerLimits.fetch`.
"""

import logging
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from huggingface_hub import constants

from lumiere.limits import ServerLimits
from lumiere.loading import catalogue
from lumiere.loading.hub import telling
from lumiere.loading.registry import MODELS
from lumiere.page import strings
from lumiere.page.server.disk import MB

LOOK_SECONDS = 0.5  # between progress messages
EVERYONE, THIS_MACHINE = 1, 2  # of `ServerLimits.fetch`
LOOPBACK = ("127.0.0.1", "::1", "localhost")
FORWARDED = ("forwarded", "x-forwarded", "x-real-ip", "via")  # headers that proxies add

log = logging.getLogger("lumiere.page")
_fetching = threading.Lock()  # one download at a time


def may_fetch(limits: ServerLimits, http: gr.Request) -> bool:
    """Returns whether a visitor may download models of the table.

    Args:
        limits: limits of the server.
        http: the visitor's request. A proxy makes visitors look local, but adds headers.
    """
    if limits.fetch != THIS_MACHINE:
        return limits.fetch == EVERYONE
    headers = {name.lower(): value for name, value in dict(http.headers).items()}
    asked = urlsplit(f"//{headers.get('host', '')}").hostname
    direct = not any(name.startswith(FORWARDED) for name in headers)
    return direct and asked in LOOPBACK and bool(http.client) and http.client.host in LOOPBACK


def panel(asked: object, permitted: bool, addresses: Mapping[str, str], free_mb: int) -> Iterator[dict]:
    """Yields values of the panel: the "rows" of the table, and a "sentence" about a download.

    Args:
        asked: {"fetch": name of a model} from the browser, untrusted; anything else asks for the table.
        permitted: whether this visitor may download.
        addresses: name of a served model -> address of its page.
        free_mb: disk space in MB that a download must leave.
    """
    name = asked.get("fetch") if isinstance(asked, dict) else None
    if name is not None:
        for sentence in _fetch(name, permitted, free_mb):
            yield {"sentence": sentence, "busy": True}
        yield {"rows": _rows(permitted, addresses), "sentence": sentence}
    else:
        yield {"rows": _rows(permitted, addresses)}


def _rows(permitted: bool, addresses: Mapping[str, str]) -> list[dict]:
    return [
        {
            "name": row.name,
            "facts": strings.model_facts(row),
            "state": strings.ON_DISK if row.on_disk else strings.NOT_ON_DISK,
            "fetch": permitted and not row.on_disk,
            "address": addresses.get(row.name),
            "command": None if row.name in addresses else f"python app.py --model {row.name}",
        }
        for row in catalogue.rows()
    ]


def _fetch(name: object, permitted: bool, free_mb: int) -> Iterator[str]:
    """Yields the progress of a download, and the outcome last. A visitor who leaves does not end it."""
    model = MODELS.get(name) if type(name) is str else None
    if not permitted or model is None:
        yield strings.unknown_model(MODELS) if permitted else strings.NO_FETCH
        return
    needed, free = round(1000 * (model.download or 0)) + free_mb, _free()
    if free < needed:
        yield strings.disk_full(free, needed)
        return
    if not _fetching.acquire(blocking=False):
        yield strings.FETCHING
        return
    news, ended = deque([strings.fetching(str(name))], maxlen=1), threading.Event()
    outcome = [strings.not_fetched(str(name))]

    def work() -> None:
        try:
            with telling(news.append):
                catalogue.fetch(model)
            outcome[0] = strings.fetched(str(name))
        except OSError as error:
            log.error("%s", error)
        finally:
            _fetching.release()
            ended.set()

    threading.Thread(target=work, name="lumiere-fetch", daemon=True).start()
    while not ended.wait(LOOK_SECONDS):
        yield news[0]
    yield outcome[0]


def _free() -> int:
    """Returns the free disk space in MB where downloads are kept."""
    folder = Path(constants.HF_HUB_CACHE)
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free // MB
