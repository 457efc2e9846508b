"""Foreign text (names, log lines, what was measured) in reports: made printable; for Markdown; for 80 columns."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any

from udslab.address import printable

__all__ = ["WIDTH", "clean", "code", "cut", "escape", "folded"]

WIDTH = 80
"""The columns of a terminal."""


def clean(value: Any) -> str:
    """The text, or the JSON of anything else, without what does not print."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return printable(text.encode("utf-8", "backslashreplace"))


def cut(text: str, width: int) -> str:
    """The text, or its beginning and three dots."""
    return text if len(text) <= width else text[: width - 3] + "..."


def folded(text: str, indent: str = "", first: str | None = None) -> list[str]:
    """Lines of no more than 80 columns, each behind the indent; the first one behind its own, if that is given."""
    start = indent if first is None else first
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False)


def escape(text: str) -> str:
    """For Markdown: the text as it is, whatever Markdown or HTML is in it."""
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # What makes a list at the beginning of a line.
    return re.sub(r"^(\d*)([-+.)])(?!\S)", r"\1\\\2", text)


def code(text: str) -> str:
    """For Markdown: a code span, whatever backticks are in it."""
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if len(ticks) > 1 else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"
