"""Servers and clients in containers, driven from the host: a :class:`Session` on an :class:`Engine`.

    with Session() as lab:
        directory = lab.directory()
        container = lab.container("python:3.13-slim", directory)
        with container.serve(directory.path + "/s", "echo"), udslab.connect(directory.path + "/s") as client:
            ...

Needs the docker SDK: ``pip install 'pytest-udslab[docker]'``.
"""

from udslab.errors import Stage, Unsupported

try:
    import docker as _docker  # noqa: F401
except ImportError as error:
    raise Unsupported("the docker SDK is not installed", "pip install 'pytest-udslab[docker]'", Stage.ENGINE) from error

from udslab.containers.container import Container
from udslab.containers.engine import Engine
from udslab.containers.job import Job
from udslab.containers.leftovers import Kind, Leftover, find, sweep
from udslab.containers.program import Program
from udslab.containers.reach import Reach, reach, try_reach
from udslab.containers.session import Mount, Session, Shared

__all__ = [
    "Container",
    "Engine",
    "Job",
    "Kind",
    "Leftover",
    "Mount",
    "Program",
    "Reach",
    "Session",
    "Shared",
    "find",
    "reach",
    "sweep",
    "try_reach",
]
