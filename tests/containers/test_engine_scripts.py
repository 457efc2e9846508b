"""With an engine and an image there, the scripts have nothing to do."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from images import IMAGE

ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "script" / command[0], *command[1:]], capture_output=True, text=True, check=False, timeout=60
    )


def test_an_engine_that_answers_is_left_alone(engine):
    done = run("engine")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"an engine answers: Docker {engine.version}\n"


def test_an_image_that_is_there_is_not_made_again(engine):
    before = engine.client.images.get(IMAGE).id
    start = time.monotonic()
    done = run("base-images", IMAGE.partition(":")[2])
    assert (done.returncode, done.stdout) == (0, f"{IMAGE}\n")
    assert engine.client.images.get(IMAGE).id == before
    assert time.monotonic() - start < 20  # making it takes half a minute
