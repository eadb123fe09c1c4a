"""Pages as HTML that is read offline."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files as resources

from imgsubset.errors import UsageError
from imgsubset.results.page import Page

JINJA_MISSING = "a report needs a library that is not installed: pip install 'imgsubset[report]'"


def render_html(page: Page) -> str:
    """A page as HTML that loads nothing, runs no script, and takes names for nothing but text.

    Raises UsageError where Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise UsageError(JINJA_MISSING) from None
    room = resources("imgsubset.results")
    style = room.joinpath("report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["drawn"] = Markup
    template = environment.from_string(room.joinpath("report.html.jinja").read_text("utf-8"))
    return template.render(page=page, style=Markup(style), style_hash=f"sha256-{digest}")
