"""The pair probe: what is bound to a socket file, without the server noticing.

``connect`` is called on one end of an *already connected* socket pair, non-blocking, once with a stream pair and once
with a seqpacket pair. ``unix_stream_connect`` in the kernel's net/unix/af_unix.c looks at the other side first and at
its own state last, so that nothing is ever queued at a listener:

================================  ==========================  ==========================
what is bound to the inode        stream pair                 seqpacket pair
================================  ==========================  ==========================
listening stream                  EISCONN                     EPROTOTYPE
listening stream, backlog full    EAGAIN                      EPROTOTYPE
bound stream, not listening       ECONNREFUSED                EPROTOTYPE
listening seqpacket               EPROTOTYPE                  EISCONN, or EAGAIN: full
bound seqpacket, not listening    EPROTOTYPE                  ECONNREFUSED
datagram                          EPROTOTYPE                  EPROTOTYPE
nothing: a stale file             ECONNREFUSED                ECONNREFUSED
================================  ==========================  ==========================

Seen so on Linux 5.10 to 6.18. The kernel finds the socket by inode, so the answer is the same in every network, pid and
mount namespace. It needs write permission on the file. A datagram pair must never be used: connecting it would reach
the server.

One more thing makes "stale" certain. ``unix_bind_bsd`` makes the file and then attaches the socket to it, and between
the two the file looks stale (seen on Linux 6.18: 5 in 865,000 looks at a path that is bound again and again). All that
happens under the lock of the directory, so a look-up of a missing name in the same directory, which takes that lock
(``lookup_slow`` in the kernel's fs/namei.c), waits until the birth is over; the questions after it decide. The window
is wide where many watch the directory (inotify tells them in between).
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from contextlib import suppress
from typing import NamedTuple

from udslab.socktype import SocketType, open_pair, open_socket

__all__ = ["TRANSIENT", "Answer", "ask", "ask_name", "calibrated"]


class Answer(NamedTuple):
    """What the kernel said of a socket file.

    ``type``: of the socket that is bound to it (None: none is, or it may not be asked). ``asked``: the questions, by
    type of the asking socket, with the errno of the answer (0: success). ``innocent``: by the pair probe, and not by
    plain connects. ``settled``: no bind was half done when it was asked; False if that could not be made sure of, and
    then "stale" is not certain.
    """

    type: SocketType | None
    listening: bool = False
    full: bool = False
    denied: bool = False
    innocent: bool = True
    settled: bool = True
    asked: tuple[tuple[SocketType, int], ...] = ()

    @property
    def stale(self) -> bool:
        """Whether nothing is bound to it."""
        return self.type is None and not self.denied

    @property
    def said(self) -> str:
        """Questions and answers in words."""
        how = "pair probe" if self.innocent else "plain connect"
        return f"{how}: " + ", ".join(
            f"{type}: {errno.errorcode[number] if number else 'success'}" for type, number in self.asked
        )


_LISTENING = {0, errno.EISCONN, errno.EAGAIN}
_DENIED = {errno.EACCES, errno.EPERM}
_ANSWERS = _LISTENING | _DENIED | {errno.ECONNREFUSED, errno.EPROTOTYPE}


class _Question:
    """One question about one target, and the sockets that it takes: closed at the end."""

    def __init__(self, target: bytes, innocent: bool) -> None:
        self._target = target
        self._innocent = innocent
        self._ends: dict[SocketType, tuple[socket.socket, socket.socket]] = {}
        self._asked: list[tuple[SocketType, int]] = []

    def __enter__(self) -> _Question:
        return self

    def __exit__(self, *exc: object) -> None:
        for left, right in self._ends.values():
            left.close()
            right.close()

    def connect(self, type: SocketType) -> int:
        """The errno (0: success) of a non-blocking connect with a pair's end, or with a fresh socket."""
        if self._innocent:
            pair = self._ends.get(type)
            if pair is None:
                pair = self._ends[type] = open_pair(type)
            number = pair[0].connect_ex(self._target)
        else:
            with open_socket(type, blocking=False) as asker:
                number = asker.connect_ex(self._target)
        if number not in _ANSWERS:
            raise OSError(number, os.strerror(number))
        self._asked.append((type, number))
        return number

    def ask(self, pinned: os.stat_result, path: bytes, dir_fd: int | None) -> Answer:
        """Ask about the target, which ``pinned`` tells of; ``path``, seen from ``dir_fd``, is where it was found."""
        first = self.connect(SocketType.STREAM)
        if first in _LISTENING or first in _DENIED:
            return self.answer(SocketType.STREAM, first)
        settled = first != errno.ECONNREFUSED or _births_are_over(pinned, path, dir_fd)
        packet = self.connect(SocketType.SEQPACKET)
        if packet in _LISTENING or packet in _DENIED:
            return self.answer(SocketType.SEQPACKET, packet)
        if first == packet == errno.EPROTOTYPE:
            return self.answer(SocketType.DGRAM)
        # Asked again, for a socket may have been born before the second question, or closed.
        again = self.connect(SocketType.STREAM)
        if again in _LISTENING or again in _DENIED:
            return self.answer(SocketType.STREAM, again)
        if again == errno.EPROTOTYPE:
            return self.answer(SocketType.SEQPACKET if packet == errno.ECONNREFUSED else SocketType.DGRAM)
        if packet == errno.EPROTOTYPE:
            return self.answer(SocketType.STREAM)
        return Answer(None, False, False, False, self._innocent, settled, tuple(self._asked))

    def answer(self, type: SocketType | None, number: int = errno.ECONNREFUSED) -> Answer:
        """The answer, from the type found and the errno that told it."""
        denied = number in _DENIED
        listening = number in _LISTENING
        full = number == errno.EAGAIN
        return Answer(None if denied else type, listening, full, denied, self._innocent, True, tuple(self._asked))


_EFFECTIVE = os.access in os.supports_effective_ids


def _births_are_over(pinned: os.stat_result, path: bytes, dir_fd: int | None) -> bool:
    """Wait until no bind is half done in the directory in which ``pinned`` was found; False if that cannot be done."""
    directory, _, name = path.rpartition(b"/")
    try:
        parent = os.open(
            directory or (b"/" if path[:1] == b"/" else b"."), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd
        )
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (found.st_ino, found.st_dev) != (pinned.st_ino, pinned.st_dev):
                return False
            # A name that nobody has looked up before: the kernel remembers misses, and answers those without the lock.
            # By the effective user, who could look up the name above; there or not, the kernel has looked.
            os.access(b".udslab-" + os.urandom(8).hex().encode(), os.F_OK, dir_fd=parent, effective_ids=_EFFECTIVE)
            return True
        finally:
            os.close(parent)
    except OSError:
        return False


def ask(
    fd: int,
    path: bytes,
    innocent: bool = True,
    *,
    dir_fd: int | None = None,
    info: os.stat_result | None = None,
) -> Answer:
    """Ask about the socket file that the O_PATH descriptor ``fd`` pins, which was found at ``path``.

    ``info``: its ``fstat``, if it is known already.

    With ``innocent=False``, by an ordinary connect, which a listening server does notice: for where the pair probe
    does not :func:`calibrate <calibrated>`. Raises OSError when the kernel's answer is none of the above (no /proc).
    """
    with _Question(b"/proc/self/fd/%d" % fd, innocent) as question:
        return question.ask(info or os.fstat(fd), path, dir_fd)


def ask_name(name: bytes, innocent: bool = True) -> Answer:
    """Ask whether a stream or seqpacket socket listens on the abstract ``name`` (with its leading NUL).

    That is all that can be asked: for a socket that is bound and does not listen the kernel answers as for none.
    """
    with _Question(name, innocent) as question:
        for type in (SocketType.STREAM, SocketType.SEQPACKET):
            number = question.connect(type)
            if number in _LISTENING:
                return question.answer(type, number)
        return question.answer(None)


def _expect(directory: str, name: str, type: SocketType, backlog: int | None, want: Answer) -> bool:
    """Whether the probe answers ``want`` for a socket made so. ``backlog=None``: bound only; want stale: closed."""
    path = os.path.join(directory, name)
    with open_socket(type) as subject, open_socket(type) as caller:
        subject.bind(path)
        if backlog is not None:
            subject.listen(backlog)
            if want.full:
                caller.connect(path)
        if want.stale:
            subject.close()
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            answer = ask(fd, os.fsencode(path))
        finally:
            os.close(fd)
            os.unlink(path)
    return (answer.type, answer.listening, answer.full) == (want.type, want.listening, want.full)


def _remove(directory: str) -> None:
    for name, *_ in _CALIBRATION:
        with suppress(OSError):  # it has gone as soon as it was used, unless something failed
            os.unlink(os.path.join(directory, name))
    with suppress(OSError):
        os.rmdir(directory)


_CALIBRATION = (
    ("a", SocketType.STREAM, None, Answer(None)),
    ("b", SocketType.STREAM, None, Answer(SocketType.STREAM)),
    ("c", SocketType.STREAM, 5, Answer(SocketType.STREAM, listening=True)),
    ("d", SocketType.STREAM, 0, Answer(SocketType.STREAM, listening=True, full=True)),
    ("e", SocketType.SEQPACKET, None, Answer(SocketType.SEQPACKET)),
    ("f", SocketType.SEQPACKET, 5, Answer(SocketType.SEQPACKET, listening=True)),
    ("g", SocketType.DGRAM, None, Answer(SocketType.DGRAM)),
)


TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""Errnos that say nothing about what was asked: descriptors or memory are short."""


@functools.cache
def calibrated() -> bool:
    """Whether the pair probe tells the truth here: asked once a process, of private sockets of known state.

    False on gVisor (which says EISCONN for a stale file), without /proc, and where no directory can be written. Raises
    OSError, and asks again the next time, when descriptors or memory are short.
    """
    if not hasattr(os, "O_PATH"):
        return False
    for place in (os.environ.get("TMPDIR") or "/tmp", "/tmp", "/dev/shm"):  # noqa: S108 - by an unguessable name
        # Not by tempfile: with it come modules that make each fork of the agent dearer.
        directory = os.path.abspath(os.path.join(place, f"uds-probe-{os.urandom(8).hex()}"))
        # Bytes that are too many for sun_path say nothing about the kernel: try the next place.
        if len(os.fsencode(directory)) > 80:
            continue
        try:
            os.mkdir(directory, 0o700)
        except OSError as error:
            if error.errno in TRANSIENT:
                raise
            continue
        try:
            return all(_expect(directory, *case) for case in _CALIBRATION)
        except OSError as error:
            if error.errno in TRANSIENT:
                raise
        finally:
            _remove(directory)
    return False
