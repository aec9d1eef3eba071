"""The parts of the page that are not Python: templates, styles and the script of the moving preview.

Templates are static. Whatever comes from a person reaches the page as a value that the scripts write with
`textContent`; a template that contained it would execute it.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def part(name: str) -> str:
    """The text of a file beside this one."""
    return (FOLDER / name).read_text(encoding="utf-8")
