"""What can be in a server's way at its path: put there for real, and taken away again."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from udslab.address import Address, AddressLike
from udslab.errors import AddressError, Stage, Unsupported, failure
from udslab.obstacle_kinds import Obstacle
from udslab.socketfile import open_directory, remove_pinned, split
from udslab.socktype import SocketType, open_socket
from udslab.state import pin

__all__ = ["Obstacle", "obstacle"]


@contextmanager
def obstacle(kind: Obstacle | str, path: AddressLike, owner: tuple[int, int] | None = None) -> Iterator[str]:
    """Put it at ``path``, and take it away at the end, unless something else has come in its place; gives the path that
    it is in the way of. ``owner``: the uid and gid to whom it then belongs, if not to this process's user.

    Raises :class:`~udslab.errors.AddressInUse` if something is there already, :class:`~udslab.errors.Unsupported` where
    it cannot be had: for root there is no path without permission.
    """
    kind = Obstacle(kind)
    address = Address.parse(path)
    if not address.is_pathname:
        raise AddressError(
            Stage.ADDRESS, errno.EINVAL, str(address), "give a path", "it has no file to be in the way of"
        )
    name = os.fsdecode(address.name)
    with ExitStack() as exits:
        try:
            where = _put(kind, name, owner, exits)
        except FileExistsError as error:
            raise failure(Stage.BIND, errno.EADDRINUSE, address) from error
        yield where


def _put(kind: Obstacle, path: str, owner: tuple[int, int] | None, exits: ExitStack) -> str:
    target = kind.target
    if target is not None:
        os.symlink(_put(target, f"{path}.{target}", owner, exits), path)
    elif kind is Obstacle.DANGLING_LINK:
        os.symlink(f"{path}.missing", path)
    elif kind is Obstacle.MISSING_PARENT:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        return os.path.join(path, "s")
    elif kind is Obstacle.NO_PERMISSION:
        if (os.geteuid() if owner is None else owner[0]) == 0:
            raise Unsupported("root has every permission", "run the tests as another user", Stage.BIND)
        os.mkdir(path, 0)
        exits.callback(_remove_directory, path, os.getpid())
        _give(path, owner)
        return os.path.join(path, "s")
    elif kind is Obstacle.REGULAR_FILE:
        with open(path, "x") as file:
            file.write("somebody's work\n")
    elif kind is Obstacle.DIRECTORY:
        os.mkdir(path)
        exits.callback(_remove_directory, path, os.getpid())
        _give(path, owner)
        return path
    elif kind is Obstacle.FIFO:
        os.mkfifo(path)
    else:
        _bind(kind, path, exits)
    exits.enter_context(_removed_at_the_end(path))
    _give(path, owner)
    return path


def _give(path: str, owner: tuple[int, int] | None) -> None:
    if owner is not None:
        os.chown(path, *owner, follow_symlinks=False)


def _bind(kind: Obstacle, path: str, exits: ExitStack) -> None:
    sock = exits.enter_context(open_socket(SocketType.STREAM))
    try:
        sock.bind(Address.pathname(os.fsencode(path)).sun_path())
    except OSError as error:
        if isinstance(error, AddressError):
            raise
        raise failure(Stage.BIND, error, path) from error
    if kind is Obstacle.LISTENER:
        sock.listen(socket.SOMAXCONN)
    elif kind is Obstacle.STALE:
        sock.close()


@contextmanager
def _removed_at_the_end(path: str) -> Iterator[None]:
    directory, name = split(Address.pathname(os.fsencode(path)))
    pid = os.getpid()
    with open_directory(directory) as dir_fd, pin(name, dir_fd=dir_fd) as fd:
        try:
            yield
        finally:
            if os.getpid() == pid:  # in a forked child it is the parent's
                with suppress(OSError):  # the directory may have gone
                    remove_pinned(dir_fd, name, os.fstat(fd))


def _remove_directory(path: str, pid: int) -> None:
    if os.getpid() == pid:
        with suppress(OSError):  # it has gone, or somebody has put something into it
            os.rmdir(path)
