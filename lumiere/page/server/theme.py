"""The gradio theme of the page: warm paper in light mode, ink blue in dark mode, a lacquer red accent."""

import json

from gradio.themes import Base, Color, LocalFont, Size

from lumiere.page import part


def theme() -> Base:
    """Returns the theme of `components/document/theme.json`: gradio's colours, sizes and variables.

    Fonts come from gradio's files or from the system, never from a third party. Many font files of gradio
    6.31 lack Latin letters; Source Sans Pro has them at weights 400 and 700.
    """
    values = json.loads(part("components/document/theme.json"))
    neutral, accent = (Color(**values["colors"][name]) for name in ("neutral", "accent"))
    spacing, radius = (Size(**values["sizes"][name]) for name in ("spacing", "radius"))
    return Base(
        primary_hue=accent,
        secondary_hue=accent,
        neutral_hue=neutral,
        spacing_size=spacing,
        radius_size=radius,
        text_size="md",
        font=(LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(**values["variables"])
