"""HTML pages that need nothing else: they load nothing, and forbid themselves to."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from udslab.errors import Stage, Unsupported

__all__ = ["page"]


def page(name: str, **values: Any) -> str:
    """The page of ``templates/NAME.html``, with the style and script of all pages and its own, if it has any.

    Raises :class:`~udslab.errors.Unsupported` if jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise Unsupported("jinja2 is not installed", "pip install 'pytest-udslab[report]'", Stage.REPORT) from error
    # Everything is escaped that is not from the templates themselves.
    loader = PackageLoader("udslab.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = set(loader.list_templates())
    style, script = (
        "".join(loader.get_source(environment, each)[0] for each in (f"page.{kind}", f"{name}.{kind}") if each in own)
        for kind in ("css", "js")
    )
    return environment.get_template(f"{name}.html").render(
        style=style, script=script, style_hash=_hash(style), script_hash=_hash(script), **values
    )


def _hash(source: str) -> str:
    """By which a content security policy (CSP3) knows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
