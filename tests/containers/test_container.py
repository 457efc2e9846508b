"""A server in a container, and clients on both sides of its wall."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import udslab
from images import IMAGE

ROOT = Path(__file__).parents[2]


def test_a_client_outside_reaches_a_server_inside(kept, shared):
    path = f"{shared.path}/{kept.id[:8]}"
    with kept.serve(path, "upper", mode=0o666), udslab.connect(path) as client:
        client.sendall(b"hello")
        assert client.read_exactly(5) == b"HELLO"
        assert client.credentials.uid == int(kept.started.uid)
    assert udslab.status(path).state == "absent"


@pytest.mark.parametrize("document", ["README.md", "docs/containers.md"])
def test_the_examples_print_what_their_comments_say(engine, document):
    sources = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    examples = [source for source in sources if "udslab.containers" in source]
    assert examples
    for source in examples:
        promised = re.findall(r"print\(.*\)  # (.*)", source)
        assert promised
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source.replace("python:3.13-slim", IMAGE), document, "exec"), {})
        assert printed.getvalue().splitlines() == promised
