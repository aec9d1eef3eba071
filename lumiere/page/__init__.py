"""The web page: its components (templates, styles, scripts) and the Python modules that build and serve them.

Templates are static. User input reaches the page only as component values, which the scripts write with
`textContent`: a template that contained user input would execute it.
"""

import os
from pathlib import Path

from lumiere.page import words

FOLDER = Path(__file__).parent
PICTURE = FOLDER.parents[1] / "assets" / "pictures" / "share.png"  # 1200 x 630, for links in chats


def part(name: str) -> str:
    """Returns the text of a file in this folder.

    Args:
        name: path relative to `lumiere/page`.
    """
    return (FOLDER / name).read_text(encoding="utf-8")


def head() -> str:
    """Returns the HTML that the page adds to the head of its document.

    A link preview needs the public address of its picture: LUMIERE_URL or, on a Space, SPACE_HOST.
    """
    space = os.environ.get("SPACE_HOST")
    base = os.environ.get("LUMIERE_URL") or (f"https://{space}" if space else "")
    picture = f"{base.rstrip('/')}/gradio_api/file={PICTURE}"
    return part("components/document/head.html").replace("@intro", words.INTRO).replace("@picture", picture)
