"""A session: its containers, volumes and directories, which all go with it."""

from __future__ import annotations

import contextlib
import itertools
import os
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from docker.errors import NotFound
from docker.types import Mount

from udslab.containers.container import Container
from udslab.containers.engine import Engine
from udslab.containers.job import Job
from udslab.containers.labels import Owner
from udslab.containers.leftovers import sweep
from udslab.containers.program import Program
from udslab.reaper import Reaper
from udslab.scratch import remove_tree, scratch_directory, short_parent

__all__ = ["LAB_ID", "Mount", "Session", "Shared"]

LAB_ID = 10001
"""The uid and gid in containers when this process is root: they never are."""
_INNER = "d"


@dataclass(frozen=True)
class Shared:
    """A directory of the host's (``kind`` bind) or a volume of the engine's, mounted in containers at ``mountpoint``;
    ``path`` is the directory in it, or the same, that containers of this session may write."""

    kind: Literal["bind", "volume"]
    source: str
    mountpoint: str
    path: str

    def mount(self, *, read_only: bool = False) -> Mount:
        """For the engine. Never with the content and owner of the image's directory: these are copied to an *empty*
        volume each time it is mounted, also under a running server."""
        volume = self.kind == "volume"
        return Mount(self.mountpoint, self.source, type=self.kind, read_only=read_only, no_copy=volume)

    @property
    def read_only(self) -> Mount:
        """The same, mounted so that it cannot be written."""
        return self.mount(read_only=True)


class Session:
    """Containers, volumes and directories of this process on one engine. A context manager.

    All goes at its end, in the opposite order; and when this process dies, however it dies, its reaper
    (:mod:`udslab.reaper`) removes it within seconds. At its start it removes what dead sessions have left: only what
    never ran or has exited, and is older than some minutes.
    """

    def __init__(self, engine: Engine | str | None = None) -> None:
        """``engine``: one, which is left open, or what :class:`~udslab.containers.engine.Engine` takes.

        Raises :class:`~udslab.errors.EngineError`.
        """
        self._exits = contextlib.ExitStack()
        self.engine = engine if isinstance(engine, Engine) else self._exits.enter_context(Engine(engine))
        self.owner = Owner.this_process()
        uid, gid = os.geteuid(), os.getegid()
        self.uid, self.gid = (uid, gid) if uid else (LAB_ID, LAB_ID)
        """Who runs in its containers, and whose its directories and volumes are."""
        self._numbers = itertools.count(1)
        self._bare: dict[str, int] = {}
        """The volumes that have no inner directory yet, and the mode that it is to have."""

    def __enter__(self) -> Session:
        try:
            self._root = self._exits.enter_context(scratch_directory(short_parent()))
            reap = "udslab.containers.leftovers:reap"
            self._exits.enter_context(Reaper(reap, self.engine.again, self.owner.session, self._root))
            sweep(self.engine)
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if os.getpid() == int(self.owner.pid):  # not in a forked child: it is the parent's
            self._exits.close()

    def directory(self) -> Shared:
        """A fresh directory of the host's with a short path, the same in every container: any client on the host can
        connect to what is served in it, if the engine is local."""
        path = os.path.join(self._root, str(next(self._numbers)))
        os.mkdir(path, 0o700)
        if os.geteuid() == 0:  # and the containers are not
            for above in (self._root, os.path.dirname(self._root)):
                os.chmod(above, 0o711)  # noqa: S103 - its content is for them alone
            os.chown(path, self.uid, self.gid)
        return Shared("bind", path, path, path)

    def volume(self, mountpoint: str = "/run/lab", *, tmpfs: bool = False, mode: int = 0o770) -> Shared:
        """A named volume of the engine's, on its disk or in memory (``tmpfs``). ``mode``: of the directory in it."""
        name = f"udslab-{uuid.uuid4().hex[:12]}"
        options = {}
        if tmpfs:
            options = {"type": "tmpfs", "device": "tmpfs", "o": f"uid={self.uid},gid={self.gid},mode={mode:o}"}
        self._exits.callback(self._remove_volume, name)  # first: it may be made and we not be told
        with self.engine.telling("no volume could be made"):
            self.engine.client.volumes.create(name, driver_opts=options, labels=self.owner.labels)
        if tmpfs:
            return Shared("volume", name, mountpoint, mountpoint)
        self._bare[name] = mode
        return Shared("volume", name, mountpoint, f"{mountpoint}/{_INNER}")

    def discard(self, shared: Shared) -> None:
        """Remove a directory or volume before the session's end; no container may use it any more."""
        if shared.kind == "bind":
            remove_tree(shared.source)
        else:
            self._remove_volume(shared.source)
            self._bare.pop(shared.source, None)

    def _remove_volume(self, name: str) -> None:
        with self.engine.telling(f"the volume {name} cannot be removed"), contextlib.suppress(NotFound):
            self.engine.client.api.remove_volume(name, force=True)

    def container(self, image: str, *mounts: Shared | Mount, user: str | None = None, **options: Any) -> Container:
        """A container of ``image`` with an agent in it, which sees ``mounts``. ``user``: instead of the session's uid
        and gid. ``options``: see :class:`~udslab.containers.container.Container`.

        Raises :class:`~udslab.errors.EngineError`.
        """
        bare = self._bare_of(mounts)
        container = Container(
            self.engine,
            image,
            labels=self.owner.labels,
            user=user or f"{self.uid}:{self.gid}",
            mounts=[mount.mount() if isinstance(mount, Shared) else mount for mount in mounts],
            put=self._put(bare),
            **options,
        )
        self._no_longer(bare)
        return self._exits.enter_context(container)

    def _bare_of(self, mounts: Sequence[Shared | Mount]) -> list[Shared]:
        return [mount for mount in mounts if isinstance(mount, Shared) and mount.source in self._bare]

    def _put(self, bare: Sequence[Shared]) -> dict[str, bytes]:
        """The top of a volume is root's, and nobody in a container may change that: a directory is put into it."""
        return {mount.mountpoint: _directory(_INNER, self.uid, self.gid, self._bare[mount.source]) for mount in bare}

    def _no_longer(self, bare: Sequence[Shared]) -> None:
        for mount in bare:
            self._bare.pop(mount.source, None)

    def job(
        self, image: str, module: str, *arguments: str, mounts: Sequence[Shared | Mount] = (), **options: Any
    ) -> Job:
        """A container of ``image`` that runs a module of the in-container half, and sees ``mounts``. ``options``: see
        :class:`~udslab.containers.job.Job`.

        Raises :class:`~udslab.errors.EngineError`.
        """
        bare = self._bare_of(mounts)
        job = Job(
            self.engine,
            image,
            module,
            *arguments,
            labels=self.owner.labels,
            mounts=[mount.mount() if isinstance(mount, Shared) else mount for mount in mounts],
            put=self._put(bare),
            **options,
        )
        self._no_longer(bare)
        return self._exits.enter_context(job)

    def program(
        self,
        image: str,
        command: Sequence[str],
        *mounts: Shared | Mount,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> Program:
        """A container of the user's own image that runs ``command`` in it, in ``cwd`` (the image's), and sees
        ``mounts``. ``user``: instead of the session's uid and gid.

        Raises :class:`~udslab.errors.EngineError`.
        """
        return Program(
            self.engine,
            image,
            command,
            labels=self.owner.labels,
            user=user or f"{self.uid}:{self.gid}",
            mounts=[mount.mount() if isinstance(mount, Shared) else mount for mount in mounts],
            environment=environment or {},
            cwd=cwd,
        )


def _directory(name: str, uid: int, gid: int, mode: int) -> bytes:
    """A tar archive of one directory."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, uid, gid
    # And no more zeros than end it: podman stops to read there, and fails now and then (buildah issue 6573).
    return entry.tobuf() + bytes(2 * tarfile.BLOCKSIZE)
