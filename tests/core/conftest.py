"""What the tests of the core share: namespaces and mounts of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def unshare(environment: dict[str, str]) -> Callable[..., Any]:
    """Runs Python source in new namespaces (`unshare` options), and gives back what it prints as JSON."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare(1), for namespaces and mounts")

    def run(options: str, source: str, *arguments: object) -> Any:
        done = subprocess.run(
            ["unshare", *options.split(), sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
