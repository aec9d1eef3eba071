"""Settings from outside: a link and a clip that was made here. Both come from strangers."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from urllib.parse import parse_qsl, urlencode

from lumiere.media.video import read_settings
from lumiere.page import words
from lumiere.page.files import uploaded
from lumiere.request import Limits, Request

KINDS = {field.name: field.type for field in fields(Request)}
MOST_QUERY = 16384  # characters of a link; two full prompts, escaped, are longer than any browser sends
STAND_IN = "a clip"  # a link need not have a prompt, but a request must
VERSION = "model_version"  # key of `saved_settings`; in links only on the way to another model's page


def link(request: Request) -> str:
    """The query that makes the same request again, given pixels aside: `?prompt=…&seed=…`."""
    usual = Request(STAND_IN)
    keep = ("prompt", "frames", "height", "width", "steps", "guidance", "scheduler", "seed")
    values = {name: getattr(request, name) for name in KINDS}
    values = {n: v for n, v in values.items() if v is not None and (n in keep or v != getattr(usual, n))}
    return "?" + urlencode({n: _written(v) for n, v in values.items()})


def _written(value):
    """A value of a request as it stands in a link: `0.8,0.5` for the weights of a style."""
    if type(value) is tuple:
        return ",".join(map(_written, value))
    return f"{value:g}" if type(value) is float else value


def form(request: Request, names=tuple(KINDS)) -> dict:
    """The settings of the form that make this request again."""
    values = {name: value for name, value in request.saved().items() if name in names}
    return values | ({"randomise": values["seed"] is None} if "seed" in values else {})


def read_link(query: str, limits: Limits, version: str | None = None) -> dict:
    """{"settings": …} for the form, or {"sentence": …} that tells why there are none; both with a warning.

    Args:
        query: what follows the `?` of the page's address.
        limits: of the page's model.
        version: of the page's model; None compares none.
    """
    if type(query) is not str or len(query) > MOST_QUERY:
        return {"sentence": words.BAD_LINK}
    try:
        pairs = parse_qsl(query, True, max_num_fields=64)
    except ValueError:  # more fields than any link of ours
        return {"sentence": words.BAD_LINK}
    given = {name: _value(name, text) for name, text in pairs if name in KINDS}
    try:
        own = {"prompt": STAND_IN, "height": limits.default_height, "width": limits.default_width}
        request = Request(**own | given).check(limits)
    except ValueError as refusal:
        return {"sentence": words.sentence(refusal)}
    made_by = dict(pairs).get(VERSION)
    warning = "" if made_by is None else _version_warning(made_by, version)
    return {"settings": form(request, tuple(given))} | _sentence(request, warning)


def read_clip_settings(
    sent,
    limits: Limits,
    version: str | None = None,
    names: Collection[str] = (),
    others: Mapping[str, str] | None = None,
) -> dict:
    """As `read_link`, from an uploaded clip; or the {"address": …} where another model's page restores it.

    Args:
        sent: what the page sends of an uploaded file.
        limits: of the page's model.
        version: of the page's model; None compares none.
        names: of the page's model in saved settings; a clip that names no model counts as made by it.
        others: addresses of pages by the names of their models.
    """
    try:
        text = read_settings(uploaded(sent))
        if text is None:
            return {"sentence": words.NO_SETTINGS}
        request, saved = Request.from_json(text), json.loads(text)
        model, made_by = saved.get("model"), saved.get(VERSION)
        if type(model) is str and model not in names and model in (others or {}):
            return {"address": others[model] + link(request) + "&" + urlencode({VERSION: _shown(made_by)})}
        request.check(limits)
    except ValueError as refusal:
        return {"sentence": words.sentence(refusal)}
    foreign = type(model) is str and model not in names
    warning = words.OTHER_MODEL if foreign else _version_warning(made_by, version)
    return {"settings": form(request)} | _sentence(request, warning)


def _sentence(request: Request, warning: str) -> dict:
    """What the page says when settings are back, if anything."""
    reminder = "" if request.mode == "text" else words.give_again(request.mode)
    said = " ".join(filter(None, (reminder, warning)))
    return {"sentence": said} if said else {}


def _version_warning(made_by, version: str | None) -> str:
    return "" if version in (None, made_by) else words.other_version(_shown(made_by), version)


def _shown(version) -> str:
    """A model version from a file or link if it may be shown, else nothing."""
    fits = type(version) is str and re.fullmatch(r"[A-Za-z0-9.+/-]{1,32}", version)
    return version if fits else ""


def _value(name: str, text: str):
    """The text of a query as what the field takes; what is none stays text, and `Request` refuses it."""
    kind = str(KINDS[name])
    if "tuple" in kind:
        return [_value("strength", each) for each in text.split(",")]
    if "int" in kind and re.fullmatch(r"-?\d{1,20}", text):
        return int(text)
    if "float" in kind and re.fullmatch(r"-?\d{1,9}(\.\d{0,9})?", text):
        return float(text)
    return text
