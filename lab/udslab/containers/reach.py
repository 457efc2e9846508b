"""What works between this process and containers on an engine: found by trying, and told as a reason where it does not.

With a remote engine, Docker Desktop, user-namespace remapping or a runtime with a kernel of its own (gVisor), a
directory of the host's is not what it is on a local engine with runc.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from udslab.connection import Connection, connect
from udslab.containers.session import Session, Shared
from udslab.errors import EngineError, UdsError
from udslab.remote import Remote, RemoteConnection
from udslab.server import serve
from udslab.state import State, status

__all__ = ["Reach", "reach", "try_reach"]

_PATIENCE = 5.0


@dataclass(frozen=True)
class Reach:
    """Of each thing why it does not work; None where it does."""

    directory: str | None = None
    """A directory of this machine's is the same in the container."""
    users: str | None = None
    """A user id in the container is the same user outside."""
    inward: str | None = None
    """A client here reaches a server in the container."""
    outward: str | None = None
    """A client in the container reaches a server here."""
    credentials: str | None = None
    """SO_PEERCRED tells the user of a process on the other side, in both directions."""

    @property
    def lacks(self) -> dict[str, str]:
        """What does not work, and why."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: why for name, why in found.items() if why is not None}


def reach(session: Session, image: str, *, runtime: str | None = None) -> Reach:
    """Try it, with one container of ``image``.

    Raises :class:`~udslab.errors.EngineError` if no container can be made, with or without a directory of the host's.
    """
    shared = session.directory()
    try:
        container = session.container(image, shared, runtime=runtime)
    except EngineError as error:
        with session.container(image, runtime=runtime):
            return _without_directory(f"the engine cannot mount a directory of this machine's: {error.strerror}")
    with container:
        return try_reach(container, shared, session.uid)


def _without_directory(why: str) -> Reach:
    return Reach(why, *("there is no directory to meet in" for _ in fields(Reach)[1:]))


def try_reach(container: Remote, shared: Shared, uid: int) -> Reach:
    """The same with a container that is there, which sees ``shared`` and runs as ``uid``."""
    token = os.path.join(shared.path, "token")
    with open(token, "wb"):
        os.chown(token, uid, -1)
    seen = container.status(token)
    if seen.state is not State.NOT_A_SOCKET:
        return _without_directory(f"what is written to it here is not seen in the container: {seen.describe()}")
    inside, outside = os.path.join(shared.path, "in"), os.path.join(shared.path, "out")
    users = _users(seen.uid, uid, "a file of this user's is uid {} in the container")
    credentials = inward = outward = None
    try:
        with container.serve(inside, "echo", mode=0o666):
            made = status(inside).uid
            if made is not None:  # gVisor keeps its sockets to itself
                users = users or _users(made, uid, "a file made in the container is uid {} here")
            with connect(inside, timeout=_PATIENCE) as client:
                _echo(client)
                credentials = _users(
                    client.credentials.uid, uid, "a server in the container is uid {} to a client here"
                )
    except OSError as error:
        inward = f"a socket that is bound in the container does not lead into it: {error.strerror or error}"
    with serve(outside, "echo", mode=0o666):
        try:
            with container.connect(outside, timeout=_PATIENCE) as client:
                _echo(client)
                told = None if client.credentials is None else client.credentials.uid
                here = "a server here is uid {} to a client in the container"
                credentials = credentials or _users(told, os.geteuid(), here)
        except UdsError as error:
            outward = f"a socket that is bound here is not seen by the container: {error.strerror}"
    return Reach(None, users, inward, outward, credentials or (inward and outward))


def _echo(client: Connection | RemoteConnection) -> None:
    client.settimeout(_PATIENCE)
    client.sendall(b"?")
    client.read_exactly(1)


def _users(seen: int | None, uid: int, what: str) -> str | None:
    return None if seen == uid else f"{what.format(seen)}, and not {uid}"
