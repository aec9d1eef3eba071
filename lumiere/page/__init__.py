"""The parts of the page that are not Python: templates, styles and scripts, and the parts that are.

Templates are static. Whatever comes from a person reaches the page as a value that the scripts write with
`textContent`; a template that contained it would execute it.
"""

import os
from pathlib import Path

from lumiere.page import words

FOLDER = Path(__file__).parent
PICTURE = FOLDER.parents[1] / "assets" / "pictures" / "share.png"  # 1200 x 630, for links in chats


def part(name: str) -> str:
    """The text of a file beside this one."""
    return (FOLDER / name).read_text(encoding="utf-8")


def head() -> str:
    """What the page brings into the head of its document.

    LUMIERE_URL or, on a Space, SPACE_HOST is the address that strangers see: a picture of a link needs it.
    """
    space = os.environ.get("SPACE_HOST")
    base = os.environ.get("LUMIERE_URL") or (f"https://{space}" if space else "")
    picture = f"{base.rstrip('/')}/gradio_api/file={PICTURE}"
    return part("components/document/head.html").replace("@intro", words.INTRO).replace("@picture", picture)
