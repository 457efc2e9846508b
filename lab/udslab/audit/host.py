"""Where the instances of a subject run: as processes of this machine, or in containers of an image."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from udslab.audit.scene import Server, User
from udslab.audit.subject import search_path
from udslab.errors import AccessDenied, ServiceError
from udslab.scratch import remove_tree, scratch_directory, short_parent
from udslab.zygote import Zygote

if TYPE_CHECKING:
    from udslab.containers import Session

__all__ = ["ImageHost", "ProcessHost", "user_named"]

_ORDINARY = "nobody"
_PUBLIC = "/tmp"  # noqa: S108 - each gets a directory of our own


def user_named(name: str | None) -> User | None:
    """Whom a server is to run as: ``name``; unless given, an ordinary user if this is root; None: who audits.

    Raises :class:`~udslab.errors.ServiceError` if there is no such user, or this is not root.
    """
    if name is None and os.geteuid() != 0:
        return None
    import grp  # not on every platform
    import pwd

    try:
        found = pwd.getpwnam(name or _ORDINARY)
    except KeyError:
        if name is None:  # an image without users
            return User(_ORDINARY, 65534, 65534)
        raise ServiceError(f"no user is called {name!r}", "give the name of one that /etc/passwd has") from None
    if found.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise ServiceError(f"only root can run a server as {name}", "leave out --user, or audit as root")
    groups = [group.gr_gid for group in grp.getgrall() if found.pw_name in group.gr_mem]
    return User(found.pw_name, found.pw_uid, found.pw_gid, tuple(groups))


def _is_open(path: str) -> bool:
    """Whether anybody can pass through a directory and those above it."""
    return bool(os.stat(path).st_mode & 0o001) and (path == "/" or _is_open(os.path.dirname(path)))


class _Directories:
    """Fresh directories with short paths, in one that goes with its owner. A context manager."""

    def __init__(self, user: User | None) -> None:
        self._numbers = itertools.count(1)
        parent = short_parent()
        self._scratch = scratch_directory(parent if user is None or _is_open(parent) else _PUBLIC)

    def __enter__(self) -> _Directories:
        self._top = self._scratch.__enter__()
        for outer in (self._top, os.path.dirname(self._top)):
            os.chmod(outer, 0o711)  # noqa: S103 - to be passed through by the servers' user
        return self

    def __exit__(self, *exc: Any) -> None:
        self._scratch.__exit__(*exc)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        path = os.path.join(self._top, str(next(self._numbers)))
        os.mkdir(path, 0o755)
        os.chmod(path, 0o755)  # noqa: S103 - whatever the umask
        try:
            yield path
        finally:
            remove_tree(path)


class ProcessHost:
    """This machine, with a process of its own that starts the servers. A context manager."""

    is_image = False

    def __init__(self, user: User | None) -> None:
        self.user = user
        self._directories = _Directories(user)

    def __enter__(self) -> ProcessHost:
        self._directories.__enter__()
        try:
            self._zygote = Zygote()
        except BaseException:
            self._directories.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._zygote.close()
        finally:
            self._directories.__exit__(*exc)

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        umask: int | None = None,
        at: float | None = None,
        as_root: bool = False,
    ) -> Server:
        """See :class:`~udslab.audit.scene.Host`."""
        user = None if as_root or self.user is None else self.user
        who = user and {"uid": user.uid, "gid": user.gid, "groups": list(user.groups)}
        env = {**env, "PATH": search_path(env)}
        try:
            return self._zygote.supervise(command, env=env, cwd=cwd, umask=umask, user=who, at=at)
        except AccessDenied as error:
            if user is not None:
                error.hint += f"; it runs as {user.name}, or as whom user= (--user) names"
            raise

    def directory(self) -> Any:
        """See :class:`~udslab.audit.scene.Host`."""
        return self._directories.fresh()

    @property
    def alive(self) -> bool:
        """Whether it can start anything more."""
        return self._zygote.alive

    def cancel(self) -> None:
        """End all that runs: whoever waits for it is told (AgentGone). May be called by another thread."""
        self._zygote.cancel()


class ImageHost:
    """Containers of an image, each with one process that serves, in a session on an engine."""

    is_image = True

    def __init__(self, session: Session, image: str) -> None:
        self._session = session
        self._image = image
        self.user: User | None = User("lab", session.uid, session.gid) if os.geteuid() == 0 else None

    @contextmanager
    def directory(self) -> Iterator[str]:
        """See :class:`~udslab.audit.scene.Host`."""
        path = self._session.directory().path
        try:
            yield path
        finally:
            remove_tree(path)

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        umask: int | None = None,
        at: float | None = None,
        as_root: bool = False,
    ) -> Server:
        """See :class:`~udslab.audit.scene.Host`. The environment is the image's, with HOME."""
        from udslab.containers import Shared

        top = os.path.dirname(cwd)
        own = {key: value for key, value in env.items() if os.environ.get(key) != value}
        shared = Shared("bind", top, top, top)
        return self._session.program(self._image, command, shared, environment=own, cwd=cwd)
