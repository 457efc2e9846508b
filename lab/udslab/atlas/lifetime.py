"""LIF: what becomes of a socket file: permissions, unlink, rename, links, stale files."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from typing import Any, Union

from udslab import libc
from udslab.atlas import calls
from udslab.atlas.behaviour import TYPES, NotHere, behaviour
from udslab.atlas.kit import OTHER_UID, Kit, errno_of, python
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType
from udslab.support import fcntl

__all__: list[str] = []

LISTENING = (SocketType.STREAM, SocketType.SEQPACKET)
NEW_MOUNT_NAMESPACE = 0x00020000
MS_BIND, MS_PRIVATE_ALL = 0x1000, 0x44000


def _connect(kit: Kit, path: Any, type: Union[SocketType, str] = SocketType.STREAM) -> str:
    """How a connect that does not wait ends."""
    sock = kit.socket(type)
    sock.setblocking(False)
    return errno_of(sock.connect, path)


def _serve(kit: Kit, type: Union[SocketType, str], path: str, backlog: int = 16) -> socket.socket:
    return kit.socket(type, bind=path, listen=None if type == SocketType.DGRAM else backlog)


def _name(address: Any) -> str:
    return str(os.path.basename(address))


@behaviour(
    "LIF-01",
    "unlink takes the name alone: the listener and its connections go on, and new clients get ENOENT",
    source="unix(7), NOTES; unlink(2)",
    expected={"before": "ok", "connected": "hi", "waiting was accepted": "ho", "its name": "s", "after": "ENOENT"},
    over=LISTENING,
    notes="The server runs on and nobody finds it any more: look at the path, not only at the process.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path("s")
    listener = _serve(kit, type, path)
    first, second = kit.socket(type), kit.socket(type)
    before = errno_of(first.connect, path)
    connection = kit.close_at_end(listener.accept()[0])
    second.connect(path)
    os.unlink(path)
    first.send(b"hi")
    second.send(b"ho")
    waiting = kit.close_at_end(listener.accept()[0])
    return {
        "before": before,
        "connected": connection.recv(9).decode(),
        "waiting was accepted": waiting.recv(9).decode(),
        "its name": _name(listener.getsockname()),
        "after": _connect(kit, path, type),
    }


@behaviour(
    "LIF-02",
    "a renamed socket file leads to its socket, which keeps the name that it was bound to",
    source="rename(2); measured, no suite covers it",
    expected={"old": "ENOENT", "new": "ok", "getsockname": "old", "getpeername": "old"},
    over=TYPES,
    notes="So getsockname and /proc/net/unix tell where a socket was bound, not where it is to be found.",
)
def _(kit: Kit, type: SocketType) -> object:
    old, new = kit.path("old"), kit.path("new")
    server = _serve(kit, type, old)
    os.rename(old, new)
    client = kit.socket(type)
    return {
        "old": _connect(kit, old, type),
        "new": errno_of(client.connect, new),
        "getsockname": _name(server.getsockname()),
        "getpeername": _name(client.getpeername()),
    }


@behaviour(
    "LIF-03",
    "a hard link leads to the same socket, also when the first name is gone",
    source="link(2); measured, no suite covers it",
    expected={"link": "ok", "links": 2, "by the link": "ok", "without the first name": "ok", "getpeername": "first"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    first, second = kit.path("first"), kit.path("second")
    _serve(kit, type, first)
    link = errno_of(os.link, first, second)
    links = os.stat(first).st_nlink
    by_link = _connect(kit, second, type)
    os.unlink(first)
    client = kit.socket(type)
    without = errno_of(client.connect, second)
    peer = _name(client.getpeername()) if without == "ok" else ""
    return {
        "link": link,
        "links": links,
        "by the link": by_link,
        "without the first name": without,
        "getpeername": peer,
    }


@behaviour(
    "LIF-04",
    "a socket renamed over another's path replaces it with no client refused; unlink and bind lets clients fail",
    source="rename(2); measured, no suite covers it",
    expected={
        "unlink, bind, listen": ["ENOENT", "ECONNREFUSED", "ok"],
        "bind aside, listen, rename": ["ok", "ok", "ok"],
        "who then has the client": "the new one",
        "while clients connect": ["ok"],
    },
    notes="Bind to a name of its own in the same directory, listen, and only then rename. The old listener must go on "
    "accepting until its backlog is empty: what waits in it is reset when it is closed.",
)
def _(kit: Kit) -> object:
    path, aside = kit.path(), kit.path("aside")
    _serve(kit, "stream", path)
    os.unlink(path)
    steps = [_connect(kit, path)]
    new = kit.socket(bind=path)
    steps.append(_connect(kit, path))
    new.listen(16)
    steps.append(_connect(kit, path))
    newer = kit.socket(bind=aside)
    gentle = [_connect(kit, path)]
    newer.listen(1024)
    gentle.append(_connect(kit, path))
    os.rename(aside, path)
    gentle.append(_connect(kit, path))
    newer.setblocking(False)
    has = "the new one" if errno_of(newer.accept) == "ok" else "the old one"
    return {
        "unlink, bind, listen": steps,
        "bind aside, listen, rename": gentle,
        "who then has the client": has,
        "while clients connect": _replaced_under_load(kit, path, aside),
    }


def _replaced_under_load(kit: Kit, path: str, aside: str) -> list[str]:
    """How the connects of a child end while the path is replaced twenty times, each as soon as one has got through."""
    end, tell = os.pipe()

    def client() -> object:
        os.close(tell)
        seen = set()
        while not select.select([end], [], [], 0)[0]:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                seen.add(errno_of(sock.connect, path))
        return sorted(seen - {"EAGAIN"})  # nobody but the first is accepted

    child = kit.child(client)
    for _ in range(20):
        listener = _serve(kit, "stream", aside)
        os.rename(aside, path)
        listener.accept()[0].close()
    os.close(tell)
    seen: list[str] = child.result()
    return seen


@behaviour(
    "LIF-05",
    "unlink and bind at a live path: both sockets live, the first is told nothing, and all clients go to the second",
    source="unix(7), NOTES; measured, no suite covers it (CPython gh-121252 is a victim)",
    expected={
        "bind": "ok",
        "connect": "ok",
        "the first": [[], "EAGAIN"],
        "the second accepts": "ok",
        "names are equal": True,
    },
    over=LISTENING,
    notes="No error, no event, no line in a log: a server that unlinks before it binds steals silently. Ask whether "
    "somebody listens before, or hold a lock.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    first = _serve(kit, type, path)
    os.unlink(path)
    second = kit.socket(type)
    bound = errno_of(second.bind, path)
    second.listen(16)
    connect = _connect(kit, path, type)
    for each in (first, second):
        each.setblocking(False)
    poll = select.poll()
    poll.register(first, select.POLLIN)
    return {
        "bind": bound,
        "connect": connect,
        "the first": [poll.poll(0), errno_of(first.accept)],
        "the second accepts": errno_of(second.accept),
        "names are equal": first.getsockname() == second.getsockname(),
    }


@behaviour(
    "LIF-06",
    "a killed server leaves its file: connect gets ECONNREFUSED, bind EADDRINUSE",
    source="unix(7), NOTES; connect(2), ERRORS",
    expected={"before": "ok", "file": True, "connect": "ECONNREFUSED", "bind": "EADDRINUSE"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    ready, tell = os.pipe()

    def server() -> None:
        _serve(kit, type, path)
        os.write(tell, b"x")
        signal.pause()

    child = kit.child(server)
    os.read(ready, 1)
    before = _connect(kit, path, type)
    child.kill()
    return {
        "before": before,
        "file": os.path.exists(path),
        "connect": _connect(kit, path, type),
        "bind": errno_of(kit.socket(type).bind, path),
    }


@behaviour(
    "LIF-07",
    "a socket file cannot be taken to another file system: link and rename say EXDEV, and a copy's open says ENXIO",
    source="link(2), rename(2), open(2), ERRORS",
    expected={"link": "EXDEV", "rename": "EXDEV", "open": ["ENXIO", "ENXIO", "ENXIO"], "a plain file": "ok"},
    notes="So a rename over a live path must come from the same file system, best from the same directory.",
)
def _(kit: Kit) -> object:
    path = kit.path()
    _serve(kit, "stream", path)
    with tempfile.TemporaryDirectory(dir=_elsewhere(kit.directory)) as elsewhere:
        target = os.path.join(elsewhere, "s")
        link, rename = errno_of(os.link, path, target), errno_of(os.rename, path, target)
    plain = kit.path()
    with open(plain, "w"):
        pass
    return {
        "link": link,
        "rename": rename,
        "open": [errno_of(os.open, path, flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)],
        "a plain file": errno_of(os.open, plain, os.O_RDONLY),
    }


def _elsewhere(directory: str) -> str:
    """A directory on another file system, in which one may make files."""
    here = os.stat(directory).st_dev
    for other in ("/dev/shm", "/tmp", "/var/tmp", "/run"):  # noqa: S108 - a private directory is made there
        with suppress(OSError):
            if os.stat(other).st_dev != here and os.access(other, os.W_OK):
                return other
    raise NotHere("no second file system to write to")


@behaviour(
    "LIF-08",
    "a directory with a socket file in it cannot be removed; with a bound socket alone it can",
    source="rmdir(2), ERRORS",
    expected={"with the file": "ENOTEMPTY", "after unlink": "ok", "bound still": True},
)
def _(kit: Kit) -> object:
    directory = kit.path()
    os.mkdir(directory)
    path = os.path.join(directory, "s")
    listener = _serve(kit, "stream", path)
    with_file = errno_of(os.rmdir, directory)
    os.unlink(path)
    after = errno_of(os.rmdir, directory)
    return {"with the file": with_file, "after unlink": after, "bound still": listener.getsockname() == path}


@behaviour(
    "LIF-09",
    "unlink asks for write permission in the directory, not on the socket; in a sticky one for its ownership",
    source="unix(7), Pathname socket ownership and permissions; unlink(2), EACCES and EPERM",
    expected={
        "own, directory not writable": "EACCES",
        "another's, mode 0000": "ok",
        "another's, sticky": "EPERM",
        "own, sticky": "ok",
    },
    needs=(Requirement.OTHER_USER, Requirement.CHOWN),
    notes="In /tmp another user cannot take a socket file away, but can be there first.",
)
def _(kit: Kit) -> object:
    def attempt(mode: int, owner: int, permissions: int) -> str:
        directory = kit.path()
        os.mkdir(directory)
        path = os.path.join(directory, "s")
        kit.socket(bind=path)
        os.chmod(path, permissions)
        os.chown(path, owner, owner)
        os.chmod(directory, mode)
        return str(kit.as_other_user(lambda: errno_of(os.unlink, path)))

    return {
        "own, directory not writable": attempt(0o755, OTHER_UID, 0o777),
        "another's, mode 0000": attempt(0o777, 0, 0),
        "another's, sticky": attempt(0o1777, 0, 0o777),
        "own, sticky": attempt(0o1777, OTHER_UID, 0o777),
    }


@behaviour(
    "LIF-10",
    "an inheritable listener goes on listening through exec; one that is closed on exec does not",
    source="execve(2); fcntl(2), FD_CLOEXEC; measured, no suite covers it",
    expected={"inheritable": "ok", "close-on-exec": "ECONNREFUSED"},
    over=LISTENING,
    notes="Python makes descriptors close-on-exec (PEP 446). Socket activation lives on the other kind; a "
    "forgotten one keeps a path busy after its server has ended.",
)
def _(kit: Kit, type: SocketType) -> object:
    def held(inheritable: bool) -> str:
        path = kit.path()
        listener = _serve(kit, type, path)
        listener.set_inheritable(inheritable)
        with subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, close_fds=False
        ) as program:
            assert program.stdin
            assert program.stdout
            program.stdin.write(b"x")
            program.stdout.read(1)  # it is the other program by now
            listener.close()
            return _connect(kit, path, type)

    return {"inheritable": held(True), "close-on-exec": held(False)}


@behaviour(
    "LIF-11",
    "a bind-mounted socket file leads to its socket after the unlink, and never to one bound at the path later",
    source="mount(2), MS_BIND; measured, no suite covers it (moby#21109, moby#31403 are victims)",
    expected={
        "before": "ok",
        "after unlink": "ok",
        "rebound": ["ok", "ok"],
        "the first is closed": ["ok", "ECONNREFUSED"],
    },
    needs=(Requirement.MOUNT_NAMESPACE, Requirement.CTYPES),
    notes="A container to which a socket file was mounted loses a server that is started again. Mount its directory.",
)
def _(kit: Kit) -> object:
    path, mounted = kit.path(), kit.path()
    with open(mounted, "w"):
        pass

    def apart() -> object:
        if not libc.unshare(NEW_MOUNT_NAMESPACE):
            raise NotHere("no mount namespace of one's own may be made")
        calls.mount("none", "/", flags=MS_PRIVATE_ALL)
        first = _serve(kit, "stream", path)
        calls.mount(path, mounted, flags=MS_BIND)
        before = _connect(kit, mounted)
        os.unlink(path)
        after = _connect(kit, mounted)
        _serve(kit, "stream", path)
        rebound = [_connect(kit, path), _connect(kit, mounted)]
        first.close()
        closed = [_connect(kit, path), _connect(kit, mounted)]
        return {"before": before, "after unlink": after, "rebound": rebound, "the first is closed": closed}

    return kit.in_child(apart)


@behaviour(
    "LIF-12",
    "a socket file cannot be locked by flock: open says ENXIO, and a descriptor with O_PATH gets EBADF",
    source="open(2), ENXIO and O_PATH; flock(2); measured, no suite covers it",
    expected={"open": "ENXIO", "O_PATH": "EBADF", "a file beside": "ok", "the directory": "ok", "the socket": "ok"},
    notes="Lock the directory, or a file beside it. The bound socket's own descriptor can be locked, which nobody else "
    "sees: it is another inode.",
)
def _(kit: Kit) -> object:
    path, beside = kit.path(), kit.path()
    listener = _serve(kit, "stream", path)

    def lock(path: str, flags: int) -> str:
        fd = os.open(path, flags, 0o600)
        try:
            return errno_of(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)

    return {
        "open": errno_of(os.open, path, os.O_RDWR),
        "O_PATH": lock(path, os.O_PATH),
        "a file beside": lock(beside, os.O_RDWR | os.O_CREAT),
        "the directory": lock(kit.directory, os.O_RDONLY),
        "the socket": errno_of(fcntl.flock, listener.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB),
    }


@behaviour(
    "LIF-13",
    "a connect that does not wait tells stale from live: ECONNREFUSED, or ok, or EAGAIN where the backlog is full",
    source="connect(2), ERRORS; measured, no suite covers it",
    expected={"nothing": "ENOENT", "stale": "ECONNREFUSED", "bound": "ECONNREFUSED", "live": "ok", "full": "EAGAIN"},
    over=LISTENING,
    notes="But bound and not yet listening looks as stale does, and the probe stays in the backlog when it is closed.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    seen = {"nothing": _connect(kit, path, type)}
    kit.socket(type, bind=path).close()
    seen["stale"] = _connect(kit, path, type)
    os.unlink(path)
    listener = kit.socket(type, bind=path)
    seen["bound"] = _connect(kit, path, type)
    listener.listen(0)
    seen["live"] = _connect(kit, path, type)
    seen["full"] = _connect(kit, path, type)
    return seen


@behaviour(
    "LIF-14",
    "a bound socket's descriptor cannot be linked to a path; an O_PATH one of its file can, while that has a name",
    source="linkat(2), AT_SYMLINK_FOLLOW and ERRORS; measured, no suite covers it",
    expected={"the socket": "EXDEV", "O_PATH": "ok", "connect": "ok", "without a name": "ENOENT"},
    needs=Requirement.PROC,
    notes="A listener whose path was unlinked can never be given one again: the file's inode is gone for good.",
)
def _(kit: Kit) -> object:
    path, again, never = kit.path(), kit.path(), kit.path()
    listener = _serve(kit, "stream", path)
    opened = os.open(path, os.O_PATH)
    descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)

    def link(fd: int, target: str) -> str:
        return errno_of(lambda: os.link(str(fd), target, src_dir_fd=descriptors, follow_symlinks=True))

    seen = {"the socket": link(listener.fileno(), never), "O_PATH": link(opened, again)}
    seen["connect"] = _connect(kit, again)
    os.unlink(path)
    with suppress(OSError):
        os.unlink(again)
    seen["without a name"] = link(opened, never)
    return seen


@behaviour(
    "LIF-15",
    "asyncio.create_unix_server takes a live server's path; from Python 3.13 on it removes its own at close",
    source="Python, asyncio.loop.create_unix_server (cleanup_socket); CPython gh-111246, gh-121252",
    expected={"a live one before it": "replaced", "its file after close": "gone" if python() >= (3, 13) else "left"},
    notes="It unlinks whatever socket is at the path without asking whether somebody listens.",
)
def _(kit: Kit) -> object:
    import asyncio  # which takes long

    path = kit.path()
    first = _serve(kit, "stream", path)
    first.setblocking(False)

    async def second() -> str:
        try:
            server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), path)
        except OSError as error:
            return type(error).__name__
        connected = _connect(kit, path)
        told = "replaced" if connected == "ok" and errno_of(first.accept) == "EAGAIN" else "kept"
        server.close()
        await asyncio.sleep(0)
        return told

    replaced = asyncio.run(second())
    return {"a live one before it": replaced, "its file after close": "left" if os.path.exists(path) else "gone"}


@behaviour(
    "LIF-17",
    "chmod and chown of the file decide from then on who may connect; until then the umask does",
    source="unix(7), Pathname socket ownership and permissions; measured, no suite covers it",
    expected={
        "bound with umask 0": "ok",
        "chmod 0600": "EACCES",
        "fchmod of the socket": "EACCES",
        "chown to the other": "ok",
        "the connection of before": "hi",
    },
    over=LISTENING,
    needs=(Requirement.OTHER_USER, Requirement.CHOWN),
    notes="Whoever connects between bind and chmod stays connected: set the umask, or chmod before listen.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    os.umask(0)
    listener = _serve(kit, type, path)

    def connect() -> object:
        return _connect(kit, path, type)

    early = kit.socket(type)

    def early_connect() -> str:
        return errno_of(early.connect, path)

    seen = {"bound with umask 0": kit.as_other_user(early_connect)}
    os.chmod(path, 0o600)
    seen["chmod 0600"] = kit.as_other_user(connect)
    os.fchmod(listener.fileno(), 0o777)
    seen["fchmod of the socket"] = kit.as_other_user(connect)
    os.chown(path, OTHER_UID, OTHER_UID)
    seen["chown to the other"] = kit.as_other_user(connect)
    connection = kit.close_at_end(listener.accept()[0])
    early.send(b"hi")
    seen["the connection of before"] = connection.recv(9).decode()
    return seen
