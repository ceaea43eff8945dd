"""A template of the package and what fills it, as one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any


def render(template: str, styles: Sequence[str], **words: Any) -> str:
    """The page as text; every word from the data is escaped, an unknown name in the template is an error."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    folder = files("foreshock") / "templates"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True
    )
    environment.filters["figure"] = figure
    environment.filters["soft"] = lambda name: Markup(str(escape(name)).replace("_", "_<wbr>"))
    css = "\n".join((folder / name).read_text("utf-8") for name in styles)
    return environment.from_string((folder / template).read_text("utf-8")).render(css=Markup(css), **words)


def figure(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where there is none.

    Example:
        >>> figure(0.12345), figure(float("nan")), figure(None)
        ('0.123', '–', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
