"""The images that places are made of: the lab's own bases of distributions, and any others."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import udslab
from udslab.containers import Engine
from udslab.errors import EngineError, ServiceError, Stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]  # pytest brings it

__all__ = ["check", "distributions", "image_of", "provide"]

_BASE = "udslab-base:"
_TOP = Path(udslab.__file__).parent
_SCRIPT = _TOP.parent.parent / "script" / "base-images"
"""In a checkout; it can make Debian without a registry."""


@functools.cache
def distributions() -> Mapping[str, Mapping[str, Any]]:
    """Those that the lab knows, and how a base image of each is made: lab/images/distros.toml."""
    for directory in (_TOP / "images", _TOP.parent / "images"):  # installed; in a checkout
        file = directory / "distros.toml"
        if file.is_file():
            known: dict[str, dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))
            return known
    raise ServiceError("the lab's list of distributions is missing")


def image_of(distro: str) -> str:
    """The lab's own base image of a distribution; what has a colon is an image already."""
    return distro if ":" in distro else _BASE + distro


def check(distro: str) -> None:
    """Raises :class:`~udslab.errors.ServiceError` for what is neither a distribution nor an image."""
    if ":" not in distro and distro not in distributions():
        known = ", ".join(distributions())
        raise ServiceError(f"no distribution is called {distro!r}", f"there are {known}; an image has its tag: a:b")


def provide(engine: Engine, distro: str) -> str:
    """The id of a distribution's image, which is made, or pulled, if the engine has not got it.

    Raises :class:`~udslab.errors.EngineError`.
    """
    image = image_of(distro)
    id = engine.image_id(image)
    if id:
        return id
    if ":" in distro:
        engine.pull(image)
    elif _SCRIPT.is_file() and engine.url.startswith("unix://"):
        _by_script(engine, distro)
    else:
        entry = distributions()[distro]
        engine.build(image, f"FROM {entry['base']}\nRUN {entry['install']}\n")
    return engine.image_id(image)


def _by_script(engine: Engine, distro: str) -> None:
    environment = {**os.environ, "DOCKER_HOST": engine.url}
    environment.pop("DOCKER_CONTEXT", None)
    done = subprocess.run([str(_SCRIPT), distro], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [""]
        raise EngineError(Stage.ENGINE, 0, engine.name, said[0], f"the image {image_of(distro)} could not be made")
