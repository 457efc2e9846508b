"""A server around somebody's own handler: a function of the connection, in a thread for each, or a coroutine function
of reader and writer, on an event loop in a thread."""

from __future__ import annotations

import errno
import inspect
import os
import select
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Union, cast

from udslab.connection import Connection
from udslab.deadline import Deadline, now
from udslab.errors import ServiceError, Stage, TimedOut, UdsError
from udslab.listener import Listener
from udslab.socktype import SocketType, open_pair

if TYPE_CHECKING:
    import asyncio

    from _typeshed import WriteableBuffer

    from udslab.recording import Recorder

__all__ = ["Handler", "HandlerServer"]

Handler = Union[Callable[[Connection], object], Callable[[Any, Any], Coroutine[Any, Any, object]]]

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE = 0.05
"""Seconds until accepting is tried again where no descriptor was left."""
_HEAR_THE_END = 0.1
"""Seconds that a coroutine gets between the end of its connection and its cancelling."""
_GRACE = 1.0
"""Seconds in which a handler whose connection was shut down, or that was cancelled, must have ended."""
_BLOCKED = 1.0
"""Seconds by which an event loop may be late before a handler is said to keep it from running."""


class HandlerServer:
    """A stream or seqpacket server around ``handler``, in threads of this process; a context manager.

    A plain function is called with each :class:`~udslab.connection.Connection`, which is blocking, in a thread of its
    own. A coroutine function is called with asyncio's reader and writer, on an event loop of the server's own, for
    streams alone. Either way the connection is closed when the handler ends, after what was written is sent.

    What handlers raise is kept in ``failures``, from before the client sees its connection closed; nothing is printed,
    and others go on. Local variables are let go with it, so that no file stays open by a traceback.

    ``recorder`` is told what handlers read by the connection's methods, before they have it. ``drain``: how many
    seconds clients that are connected get once it is stopped. Then their connections are shut down, and what handlers
    raise for that (ConnectionError, EOFError, being cancelled) is no failure. One that has not ended a second later is
    an error of ``with``, which says where it stands; it cannot be ended, and is left behind.

    The listener is the server's from here on, also where this fails. Raises TypeError for a handler that cannot be
    called, :class:`~udslab.errors.ServiceError` for a coroutine function with seqpacket.
    """

    def __init__(
        self, listener: Listener, handler: Handler, *, recorder: Recorder | None = None, drain: float = 5.0
    ) -> None:
        try:
            self._on_loop = _runs_on_loop(handler, listener.type)
            self._waker, self._wakened = open_pair(SocketType.STREAM)
        except BaseException:
            listener.close()
            raise
        self.address = listener.address
        self.type = listener.type
        self.since = now()
        """See :class:`udslab.server.Server`."""
        self.failures: list[BaseException] = []
        """What handlers have raised, each with its traceback."""
        self._listener = listener
        self._handler = handler
        self._recorder = recorder
        self._drain = max(0.0, drain)
        self._cut = False
        self._comes_of_cutting: tuple[type[BaseException], ...] = (ConnectionError, EOFError)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"udslab {self.address}", daemon=True)
        self._threads: set[_Handling] = set()
        self._ended: deque[_Handling] = deque()
        self._closing = threading.Lock()
        """Held to close a connection and to shut connections down, or that met another socket of the same number."""
        listener.socket.setblocking(False)

    def __enter__(self) -> HandlerServer:
        self._pid = os.getpid()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if os.getpid() != self._pid:  # a forked child has the waker, but not the thread
            return
        self.stop()
        self._thread.join(self._drain + _HEAR_THE_END + _GRACE + _BLOCKED if self._on_loop else None)
        if self._thread.is_alive():
            self._listener.close()
            raise self._still_runs([_where_thread(self._thread)])
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Take no new clients, and end within the drain time and a second. From any thread; it does not wait."""
        with suppress(OSError):  # it has been asked often enough, or has ended
            self._waker.send(b"s")

    def _run(self) -> None:
        try:
            if self._on_loop:
                self._run_loop()
            else:
                self._run_threads()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for this one
            self._failure = error

    def _accept(self) -> Connection | None:
        """The next connection; None if nobody waits."""
        try:
            connection = self._listener.accept()
        except BlockingIOError:
            return None
        connection.setblocking(True)  # whatever setdefaulttimeout() has set
        if self._recorder is None:
            return connection
        try:
            return _RecordedConnection.take(connection, self._recorder)
        except BaseException:
            connection.close()
            raise

    def _rest(self) -> Iterable[Connection]:
        """Those who have connected until now. From here on nobody can."""
        if self._listener.fileno() < 0:
            return  # __exit__ has given us up
        if not self._listener.inherited:  # shut down, it would be for those who share it, too
            with suppress(OSError):  # not everywhere (gVisor); then those who come now are reset
                self._listener.socket.shutdown(socket.SHUT_RD)
        try:
            while True:
                connection = self._accept()
                if connection is None:
                    return
                yield connection
        except UdsError as error:
            if error.errno not in _NO_ROOM:
                raise

    def _fail(self, error: BaseException) -> None:
        if self._cut and isinstance(error, self._comes_of_cutting):
            return
        if any(error is kept for kept in self.failures):
            return  # of a task, which asyncio tells of again when the task is collected
        traceback.clear_frames(error.__traceback__)
        self.failures.append(error)

    def _still_runs(self, where: list[str]) -> TimedOut:
        name = getattr(self._handler, "__qualname__", None) or repr(self._handler)
        more = f" (and {len(where) - 1} more)" if len(where) > 1 else ""
        what = f"the handler {name} still runs, at {where[0]}{more}"
        return TimedOut(Stage.SERVICE, errno.ETIMEDOUT, str(self.address), "it ends when its connection does", what)

    # Plain functions

    def _run_threads(self) -> None:
        with ExitStack() as after:
            after.callback(self._end_threads)
            # After the waker, for removing the file takes two descriptors, which may be the last.
            after.enter_context(self._listener)
            with self._waker, self._wakened:
                self._accept_until_stopped()
            for connection in self._rest():
                self._start(connection)

    def _accept_until_stopped(self) -> None:
        waker = self._wakened.fileno()
        poll = select.poll()
        poll.register(waker, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        while waker not in dict(poll.poll()):
            try:
                connection = self._accept()
            except UdsError as error:
                if error.errno not in _NO_ROOM:
                    raise
                # Clients wait in the backlog, and the listener stays readable.
                poll.unregister(self._listener)
                poll.poll(_PAUSE * 1000)
                poll.register(self._listener, select.POLLIN)
            else:
                if connection is not None:
                    self._start(connection)

    def _start(self, connection: Connection) -> None:
        while self._ended:
            handling = self._ended.popleft()
            handling.join()
            self._threads.discard(handling)
        handling = _Handling(self, connection)
        try:
            handling.start()
        except RuntimeError as error:  # no thread is to be had
            self._fail(error)
            connection.close()
        else:
            self._threads.add(handling)

    def _handle(self, connection: Connection) -> None:
        """In the thread of a connection."""
        try:
            try:
                _check_result(cast("Callable[[Connection], object]", self._handler)(connection))
            finally:
                _note_end(connection)
        except BaseException as error:  # noqa: BLE001 - also SystemExit, and what test frameworks raise
            self._fail(error)
        finally:
            with self._closing:
                _close(connection)

    def _end_threads(self) -> None:
        self._join_threads(self._drain)
        with self._closing:
            self._cut = True
            for handling in self._threads:
                _shut_down(handling.connection)
        self._join_threads(_GRACE)
        running = [handling for handling in self._threads if handling.is_alive()]
        if running:
            raise self._still_runs([_where_thread(handling) for handling in running])

    def _join_threads(self, seconds: float) -> None:
        deadline = Deadline(seconds)
        for handling in self._threads:
            handling.join(deadline.left())

    # Coroutine functions

    def _run_loop(self) -> None:
        import asyncio  # dear, and for these alone

        self._comes_of_cutting += (asyncio.CancelledError, GeneratorExit)
        with self._listener, self._waker, self._wakened:
            # Not the policy's: a recorded connection is read by its methods on this one.
            loop = asyncio.SelectorEventLoop()
            try:
                loop.set_exception_handler(self._background_failed)
                serving = loop.create_task(self._serve_on_loop())
                while not serving.done():
                    try:
                        loop.run_until_complete(serving)
                    except (SystemExit, KeyboardInterrupt) as error:  # of a task that a handler has made
                        self._fail(error)
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
                self._failure = serving.result()
            finally:
                loop.close()

    def _background_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """In place of what asyncio prints: of callbacks, and of tasks whose exception nobody has asked for."""
        if isinstance(context.get("exception"), BaseException):
            self._fail(context["exception"])

    async def _serve_on_loop(self) -> OSError | None:
        """What has failed, for the loop has yet to be brought to its end."""
        import asyncio

        loop = asyncio.get_running_loop()
        stopping: asyncio.Future[OSError | None] = loop.create_future()
        connections: dict[asyncio.Task[None], Connection] = {}
        listener, waker = self._listener.fileno(), self._wakened.fileno()

        def start(connection: Connection) -> None:
            task = loop.create_task(self._handle_stream(connection))
            connections[task] = connection
            task.add_done_callback(connections.pop)

        def accept() -> None:
            try:
                connection = self._accept()
            except OSError as error:
                # Clients wait in the backlog, and the listener stays readable.
                loop.remove_reader(listener)
                if error.errno in _NO_ROOM:
                    loop.call_later(_PAUSE, accept_again)
                else:
                    stop(error)
            else:
                if connection is not None:
                    start(connection)

        def accept_again() -> None:
            if not stopping.done():
                loop.add_reader(listener, accept)

        def stop(error: OSError | None = None) -> None:
            if not stopping.done():
                stopping.set_result(error)

        loop.add_reader(waker, stop)
        accept_again()
        error = await stopping
        loop.remove_reader(waker)
        loop.remove_reader(listener)
        # Nobody needs it any more, and removing the file takes two descriptors, which may be the last.
        self._waker.close()
        self._wakened.close()
        try:
            for connection in self._rest():
                start(connection)
            self._listener.close()
        except OSError as failed:
            error = error or failed

        if connections:
            await asyncio.wait(connections, timeout=self._drain)
        self._cut = True
        for connection in connections.values():
            _shut_down(connection)
        if connections:
            await asyncio.wait(connections, timeout=_HEAR_THE_END)
        # Those of handlers, and what they have started and left.
        tasks = asyncio.all_tasks() - {cast("asyncio.Task[None]", asyncio.current_task())}
        for task in tasks:
            task.cancel()
        if tasks:
            _, running = await asyncio.wait(tasks, timeout=_GRACE)
            if running:
                error = self._still_runs([_where_task(task) for task in running])
                # What comes of tearing them down is not the handler's.
                loop.set_exception_handler(lambda loop, context: None)
                for task in running:
                    with suppress(RuntimeError):  # it refuses that, too
                        task.get_coro().close()
        return error

    async def _handle_stream(self, connection: Connection) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        # As open_connection() makes them for the other side.
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            try:
                await cast("Callable[..., Coroutine[Any, Any, object]]", self._handler)(reader, writer)
            finally:
                _note_end(connection)
        except BaseException as error:
            self._fail(error)
            if isinstance(error, GeneratorExit):
                raise  # it is torn down, and must not wait
        finally:
            # Not transport.abort(), which fails for one that has been closed.
            writer.close()
        with suppress(OSError):  # the client has gone, or is cut off without having read
            await writer.wait_closed()


class _Handling(threading.Thread):
    """The thread of one connection."""

    def __init__(self, server: HandlerServer, connection: Connection) -> None:
        super().__init__(name=f"udslab {server.address} handler", daemon=True)
        self._server = server
        self.connection = connection

    def run(self) -> None:
        self._server._handle(self.connection)
        self._server._ended.append(self)


class _RecordedConnection(Connection):
    """A connection that tells a recorder what is read by its methods, before the reader has it. A ``dup()`` of it
    tells nobody."""

    _recorder: Recorder | None = None
    _number = 0

    @classmethod
    def take(cls, connection: Connection, recorder: Recorder) -> _RecordedConnection:
        """Take over a connection, and tell who it is."""
        number = recorder.connected(connection.credentials, str(connection.peer_address))
        taken = cls(connection.family, connection.type, connection.proto, fileno=connection.detach())
        taken._recorder = recorder
        taken._number = number
        return taken

    def note_end(self) -> None:
        """Tell, once, that no more is read."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.ended(self._number)

    def _note(self, data: bytes, room: int, flags: int) -> None:
        if not data and room:
            self.note_end()
        elif not flags & socket.MSG_PEEK and self._recorder is not None:
            self._recorder.received(self._number, data)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        self._note(data, size, flags)
        return data

    def recvfrom(self, size: int, flags: int = 0, /) -> tuple[bytes, Any]:
        data, address = super().recvfrom(size, flags)
        self._note(data, size, flags)
        return data, address

    def recvmsg(self, size: int, ancillary_size: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        answer = super().recvmsg(size, ancillary_size, flags)
        self._note(answer[0], size, flags)
        return answer

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        size = super().recv_into(buffer, nbytes, flags)
        self._note_into([buffer], size, flags)
        return size

    def recvfrom_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        size, address = super().recvfrom_into(buffer, nbytes, flags)
        self._note_into([buffer], size, flags)
        return size, address

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], ancillary_size: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, Any]:
        buffers = list(buffers)  # it may be an iterator
        answer = super().recvmsg_into(buffers, ancillary_size, flags)
        self._note_into(buffers, answer[0], flags)
        return answer

    def _note_into(self, buffers: list[WriteableBuffer], size: int, flags: int) -> None:
        data, room = b"", 0
        for buffer in buffers:
            with memoryview(buffer) as view, view.cast("B") as octets:
                data += octets[: size - len(data)]
                room += len(octets)
        self._note(data, room, flags)


def _runs_on_loop(handler: object, type: SocketType) -> bool:
    """Whether it is a coroutine function, or an object whose ``__call__`` is one. Raises for what is no handler."""
    if not callable(handler):
        raise TypeError(
            "a handler is a function of the connection, or a coroutine function of reader and writer, "
            f"not {handler.__class__.__name__}"
        )
    if not (inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(handler.__class__.__call__)):
        return False
    if type is not SocketType.STREAM:
        raise ServiceError(
            f"a coroutine function cannot handle {type}: asyncio's streams know no records",
            "handle it by a plain function of the connection",
        )
    return True


def _check_result(result: object) -> None:
    """What a plain function gives counts for nothing, but for what shows that it has not run yet."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
        raise TypeError(f"the handler gave a {type(result).__name__}, which nothing runs")


def _note_end(connection: Connection) -> None:
    if isinstance(connection, _RecordedConnection):
        connection.note_end()


def _close(connection: Connection) -> None:
    """Close it although files that it has made (``makefile()``) may be open."""
    fd = connection.detach()
    if fd >= 0:
        os.close(fd)


def _shut_down(connection: Connection) -> None:
    with suppress(OSError):  # the handler has closed it, or the client has gone
        connection.shutdown(socket.SHUT_RDWR)


def _where_thread(thread: threading.Thread) -> str:
    """Where a thread stands, from the handler's own line to the innermost."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and not (frames and _is_ours(frame)):
        frames.append(frame)
        frame = frame.f_back
    return _lines(frames[::-1])


def _where_task(task: asyncio.Task[Any]) -> str:
    """The same of a task that waits."""
    frames: list[FrameType] = []
    waiting: Any = task.get_coro()
    while inspect.iscoroutine(waiting):
        frame = waiting.cr_frame
        if frame is not None and not _is_ours(frame):
            frames.append(frame)
        waiting = waiting.cr_await
    return _lines(frames)


def _is_ours(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == __name__


def _lines(frames: list[FrameType]) -> str:
    lines = [f"{frame.f_code.co_filename}:{frame.f_lineno}" for frame in frames]
    return ", in ".join(dict.fromkeys(lines[:1] + lines[-1:])) or "its end"
