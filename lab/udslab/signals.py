"""Signals: as a loop is told of them, and as a process that is started finds them."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

from udslab.socktype import SocketType, open_pair

__all__ = ["reset_signals", "told_of"]


@contextlib.contextmanager
def told_of(*numbers: int) -> Iterator[socket.socket]:
    """Within the block these signals do nothing but that the number of each that comes can be read from the socket, a
    byte each. In the main thread; not where another wakeup descriptor (:func:`signal.set_wakeup_fd`) is in use.

    A loop waits on that socket besides its others, instead of for what Python's handlers do: they run between two steps
    of the interpreter, and that of a signal which comes just before a call that waits would run only when something
    else has ended the call."""
    wakened, waker = open_pair(SocketType.STREAM)
    with wakened, waker:
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        try:
            yield wakened
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)


def reset_signals() -> None:
    """Put every signal back to its default and let it through: a harness in the background hands down some ignored."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # those that the C library keeps for itself
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
