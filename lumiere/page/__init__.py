"""The web page: its components (templates, styles, scripts) and the Python modules that build and serve them.

Templates are static. User input reaches the page only as component values, which the scripts write with
`textContent`: a template that contained user input would execute it.
"""

from html import escape
from pathlib import Path
from urllib.parse import quote

from lumiere.loading.layout import ASSETS
from lumiere.page import strings

FOLDER = Path(__file__).parent
PICTURE = ASSETS / "pictures" / "share.png"  # 1200 x 630, for links in chats


def part(name: str) -> str:
    """Returns the text of a file in this folder.

    Args:
        name: path relative to `lumiere/page`.
    """
    return (FOLDER / name).read_text(encoding="utf-8")


def head(url: str = "") -> str:
    """Returns a Jinja template of what the page adds to the head of its document as served.

    Link previews read no scripts and need the public address of their picture.

    Args:
        url: public address without a trailing slash. Defaults to the address of the request.
    """
    base = escape(url) or "{{ config['root'] }}"
    picture = f"{base}/gradio_api/file={escape(quote(str(PICTURE)))}" if PICTURE.is_file() else ""
    values = {"@title": strings.TITLE, "@intro": strings.INTRO, "@url": base, "@picture": picture}
    previews = part("components/document/previews.html")
    for name, value in values.items():
        previews = previews.replace(name, value)
    if not picture:
        previews = "\n".join(line for line in previews.splitlines() if ":image" not in line)
    script = f"<script>\n{part('components/lib.js')}</script>\n"
    return previews + "{% raw %}" + script + part("components/document/head.html") + "{% endraw %}"


def css() -> str:
    """Returns the style sheet: the document's styles, then the components'."""
    files = FOLDER.glob("components/*/style.css")
    ordered = sorted(files, key=lambda file: (file.parent.name != "document", file))
    return "".join(file.read_text(encoding="utf-8") for file in ordered)
