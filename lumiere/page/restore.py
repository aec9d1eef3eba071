"""Restores settings from a deep link or from the metadata of a generated clip. Both are untrusted."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import parse_qsl, urlencode

from lumiere.media.video import read_settings
from lumiere.page import strings
from lumiere.page.server.files import uploaded
from lumiere.request import Limits, Request

KINDS = {field.name: field.type for field in fields(Request)}
MOST_QUERY = 16384  # maximum characters in a query; two full prompts, escaped, exceed what browsers send
STAND_IN = "a clip"  # placeholder: the prompt is optional in a link but required in a `Request`
VERSION = "model_version"  # key of `saved_settings`; in links only when redirecting to another model's page


def link(request: Request) -> str:
    """Returns the query string that restores a request, without its input files: `?prompt=…&seed=…`."""
    usual = Request(STAND_IN)
    keep = ("prompt", "frames", "height", "width", "steps", "guidance", "scheduler", "seed")
    values = {name: getattr(request, name) for name in KINDS}
    values = {n: v for n, v in values.items() if v is not None and (n in keep or v != getattr(usual, n))}
    return "?" + urlencode({n: _written(v) for n, v in values.items()})


def _written(value: object) -> object:
    """Formats a field for a query string: style weights as `0.8,0.5`, cameras as `zoom-in:0.8`."""
    if type(value) is tuple:
        return ",".join(f"{each[0]}:{each[1]:g}" if type(each) is tuple else f"{each:g}" for each in value)
    if type(value) is bool:
        return str(value).lower()
    return f"{value:g}" if type(value) is float else value


def form(request: Request, names: Collection[str] = tuple(KINDS)) -> dict:
    """Returns the form settings that reproduce a request.

    Args:
        request: the request to reproduce.
        names: fields to include. Defaults to all fields.
    """
    values = {name: value for name, value in request.saved().items() if name in names}
    return values | ({"randomise": values["seed"] is None} if "seed" in values else {})


def read_link(query: object, limits: Limits, version: str | None = None) -> dict:
    """Reads settings from the query string of a deep link.

    Args:
        query: query string of the page's URL, without the `?`; untrusted.
        limits: limits of the page's model.
        version: version of the page's model. None skips the version check.

    Returns:
        {"settings": …} for the form, with a "sentence" if there is a reminder or warning; or only
        {"sentence": …}, the reason why the link is refused.
    """
    if type(query) is not str or len(query) > MOST_QUERY:
        return {"sentence": strings.BAD_LINK}
    try:
        pairs = parse_qsl(query, True, max_num_fields=64)
    except ValueError:  # more fields than our links have
        return {"sentence": strings.BAD_LINK}
    given = {name: _value(name, text) for name, text in pairs if name in KINDS}
    try:
        own: dict[str, Any] = {"height": limits.default_height, "width": limits.default_width}
        request = Request(**{"prompt": STAND_IN} | own | given).check(limits)
    except ValueError as refusal:
        return {"sentence": strings.sentence(refusal)}
    made_by = dict(pairs).get(VERSION)
    warning = "" if made_by is None else _version_warning(made_by, version)
    return {"settings": form(request, tuple(given))} | _sentence(request, warning)


def read_clip_settings(
    sent: object,
    limits: Limits,
    version: str | None = None,
    names: Collection[str] = (),
    others: Mapping[str, str] | None = None,
) -> dict:
    """Reads settings from the metadata of an uploaded clip.

    Args:
        sent: uploaded file, untrusted.
        limits: limits of the page's model.
        version: version of the page's model. None skips the version check.
        names: names of the page's model in saved settings. A clip without a model name counts as its own.
        others: model name -> address of its page, for the other models.

    Returns:
        The same dict as `read_link`, or {"address": …} of the page whose model made the clip.
    """
    others = others or {}
    try:
        text = read_settings(uploaded(sent))
        if text is None:
            return {"sentence": strings.NO_SETTINGS}
        request, saved = Request.from_json(text), json.loads(text)
        model, made_by = saved.get("model"), saved.get(VERSION)
        if type(model) is str and model not in names and model in others:
            return {"address": others[model] + link(request) + "&" + urlencode({VERSION: _shown(made_by)})}
        request.check(limits)
    except ValueError as refusal:
        return {"sentence": strings.sentence(refusal)}
    foreign = type(model) is str and model not in names
    warning = strings.OTHER_MODEL if foreign else _version_warning(made_by, version)
    return {"settings": form(request)} | _sentence(request, warning)


def _sentence(request: Request, warning: str) -> dict:
    """Returns the message shown after settings are restored; an empty dict if there is none."""
    reminder = "" if request.mode == "text" else strings.give_again(request.mode)
    skipped = strings.no_clip_skip(request.clip_skip) if request.clip_skip else ""
    said = " ".join(filter(None, (reminder, warning, skipped)))
    return {"sentence": said} if said else {}


def _version_warning(made_by: object, version: str | None) -> str:
    if version is None or version == made_by:
        return ""
    return strings.other_version(_shown(made_by), version)


def _shown(version: object) -> str:
    """Returns a version from a file or link if it is safe to display, else an empty string."""
    if type(version) is str and re.fullmatch(r"[A-Za-z0-9.+/-]{1,32}", version):
        return version
    return ""


def _value(name: str, text: str) -> object:
    """Parses a query value as the type of its field; invalid text is kept for `Request` to refuse."""
    kind = str(KINDS[name])
    if name == "cameras":
        pairs = [each.rpartition(":")[::2] for each in text.split(",") if each]
        return [(move, _value("strength", weight)) for move, weight in pairs]
    if "bool" in kind and text in ("true", "false"):
        return text == "true"
    if "tuple" in kind:
        return [_value("strength", each) for each in text.split(",")]
    if "int" in kind and re.fullmatch(r"-?\d{1,20}", text):
        return int(text)
    if "float" in kind and re.fullmatch(r"-?\d{1,9}(\.\d{0,9})?", text):
        return float(text)
    return text
