"""Tests with real containers: on the engine that the docker command would use, with the lab's own base image.

Skipped where there is none; with ``--uds-require container`` they fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from images import IMAGE
from pytest_udslab.fixtures import SETTINGS
from pytest_udslab.options import lacking
from udslab.containers import Container, Engine, Session, Shared
from udslab.errors import EngineError
from udslab.needs import Backend


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The engine, if it answers and has the image."""
    try:
        engine = Engine()
    except EngineError as error:
        lacking(request.config.stash[SETTINGS], Backend.CONTAINER, str(error))
    with engine:
        try:
            engine.image_machine(IMAGE)
        except EngineError as error:
            hint = "make it: script/base-images"
            lacking(request.config.stash[SETTINGS], Backend.CONTAINER, f"{error}; {hint}")
        yield engine


@pytest.fixture(scope="session")
def lab(engine: Engine) -> Iterator[Session]:
    """One session for each worker: what a test makes in it itself goes with the test."""
    with Session(engine) as session:
        yield session


@pytest.fixture(scope="session")
def shared(lab: Session) -> Shared:
    """A directory of the host's, at the same path in the kept containers."""
    return lab.directory()


@pytest.fixture(scope="session")
def kept(lab: Session, shared: Shared) -> Container:
    """A container that is kept for all tests of a worker; what is started in it ends with the test."""
    return lab.container(IMAGE, shared)
