"""HTML pages, taken apart."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser

VOID = {"meta", "input", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """What is in a page; that its elements are closed in order is asserted on the way."""

    def __init__(self, source):
        super().__init__()
        self.open = []
        self.elements = []
        self.text = {}
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


class WholePage:
    """What holds for every page; the fixture ``page`` is one."""

    def test_it_loads_nothing_and_has_no_inline_handler_or_style(self, page):
        assert not {"img", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
        for _, attributes in page.elements:
            assert not {"src", "style"} & set(attributes)
            assert not [name for name in attributes if name.startswith("on")]

    def test_its_policy_allows_its_own_style_and_script_and_nothing_else(self, page):
        assert (len(page.all("script")), len(page.all("style"))) == (1, 1)
        (policy,) = (
            each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"
        )
        allowed = dict(part.split(" ", 1) for part in policy.split("; "))
        assert allowed["default-src"] == "'none'"
        for tag in ("style", "script"):
            digest = base64.b64encode(hashlib.sha256(page.text[tag].encode()).digest()).decode()
            assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
