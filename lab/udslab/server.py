"""Servers around a service: one selectors loop for any number of clients, of which silent ones cost nobody anything."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from udslab.address import Address, AddressLike
from udslab.caller import caller_by_file
from udslab.connection import Connection
from udslab.credentials import Credentials
from udslab.deadline import Deadline, now
from udslab.errors import CallerRejected, UdsError
from udslab.listener import Listener, OnExisting, bind, listen
from udslab.services import Output, Peer, Service, Session, pieces, resolve
from udslab.signals import told_of
from udslab.socketfile import BoundSocket
from udslab.socktype import SocketType, open_pair

__all__ = ["ConnectionServer", "DatagramServer", "Server", "run_until_signal", "serve"]

LOG = logging.getLogger("udslab.server")

_CHUNK = 1 << 16
_RECORD = 1 << 20
"""More than a send buffer can be made to hold without CAP_NET_ADMIN (2 * net.core.wmem_max, socket(7))."""
_BATCH = 64
"""How many connections, datagrams or pieces in a row before the others have their turn."""
_CLOSED, _DRAINED, _FAILED = "closed by the client", "drained", "the service failed"
_NORMAL_ENDS = (_CLOSED, _DRAINED)
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Server:
    """What stream, seqpacket and datagram servers share: the loop, the thread, stopping.

    ``run()`` serves in this thread until ``stop()``; as a context manager it serves in a thread of its own.
    """

    def __init__(self, sock: Listener | BoundSocket, service: str | Service, drain: float, log: logging.Logger) -> None:
        self.address = sock.address
        self.type = sock.type if isinstance(sock, Listener) else SocketType.of(sock.type)
        self._socket = sock
        self._service = resolve(service)
        self._drain = drain
        self.log = log
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakened = open_pair(SocketType.STREAM)
        self._selector.register(self._wakened, selectors.EVENT_READ, self._stop_asked)
        self._stopping: Deadline | None = None
        self._timer: float | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.since = now()
        """When it was made, on the monotonic clock; of one that the lab has made anew, the first of them."""

    def run(self) -> None:
        """Serve until :meth:`stop` is called, then drain, remove the socket file, and close everything."""
        try:
            while not self._finished():
                for key, mask in self._selector.select(self._pause()):
                    key.data(mask)
                if self._timer is not None and now() >= self._timer:
                    self._timer = None
                    self._timer_due()
        finally:
            self._close()

    def stop(self) -> None:
        """Take no new clients, answer what has come, and end within the drain time. From any thread."""
        with suppress(OSError):  # it has been asked often enough, or has ended
            self._waker.send(b"s")

    def stop_when_readable(self, sock: socket.socket) -> None:
        """Stop as soon as something comes on ``sock``, which stays the caller's."""

        def came(mask: int) -> None:
            sock.recv(_CHUNK)
            self._stop_now()

        self._selector.register(sock, selectors.EVENT_READ, came)

    def __enter__(self) -> Server:
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run_in_thread, name=f"udslab {self.address}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if os.getpid() != self._pid:  # a forked child has the waker, but not the thread
            return
        self.stop()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for this one
            self._failure = error

    def _pause(self) -> float | None:
        """Seconds until something is due."""
        due = [] if self._timer is None else [max(0.0, self._timer - now())]
        if self._stopping is not None:
            due.append(self._stopping.left() or 0.0)
        return min(due) if due else None

    def _set_timer(self, seconds: float) -> None:
        at = now() + seconds
        self._timer = at if self._timer is None else min(self._timer, at)

    def _stop_asked(self, mask: int) -> None:
        self._wakened.recv(_CHUNK)
        self._stop_now()

    def _stop_now(self) -> None:
        if self._stopping is None:
            self._stopping = Deadline(self._drain)
            self._begin_to_stop()

    def _close_waker(self) -> None:
        self._selector.unregister(self._wakened)
        self._waker.close()
        self._wakened.close()

    def _close(self) -> None:
        self._selector.close()
        self._waker.close()
        self._wakened.close()
        self._socket.close()

    def _finished(self) -> bool:
        raise NotImplementedError

    def _begin_to_stop(self) -> None:
        raise NotImplementedError

    def _timer_due(self) -> None:
        raise NotImplementedError


class ConnectionServer(Server):
    """A stream or seqpacket server around ``service``.

    ``drain``: how many seconds clients get, once it is stopped, to be answered and to take their answers. ``once``:
    serve one client, then end. ``identify``: tell callers by the file that they have bound, too, remove the file, and
    turn away those whose file is not in order (:func:`udslab.caller.caller_by_file`).

    One line in the ``log``, ``udslab.server`` unless another is given, for each client, with its credentials, before it
    gets its first byte; at level DEBUG another when it has gone, and a warning if it did not go in peace. Where no
    descriptor is left, it waits for some to come back, and clients wait in the backlog.
    """

    def __init__(
        self,
        listener: Listener,
        service: str | Service = "upper",
        *,
        drain: float = 5.0,
        once: bool = False,
        identify: bool = False,
        log: logging.Logger = LOG,
    ) -> None:
        super().__init__(listener, service, drain, log)
        self._listener = listener
        self._once = once
        self._identify = identify
        self._records = listener.type is SocketType.SEQPACKET
        self._clients: set[_Client] = set()
        self._numbers = itertools.count(1)
        self._accepting = False
        self._starved = False
        self._listener.socket.setblocking(False)
        self._accept_again()

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    def _finished(self) -> bool:
        if self._stopping is None:
            return False
        if self._clients and self._stopping.passed:
            self.log.warning("cut off after %g s of draining: %d", self._stopping.seconds, len(self._clients))
        return not self._clients or self._stopping.passed

    def _accept_again(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept_no_more(self) -> None:
        if self._accepting:
            self._accepting = False
            self._selector.unregister(self._listener)

    def _accept(self, mask: int) -> None:
        if self._socket_closed():
            return  # it became readable in the same round in which we were stopped
        for _ in range(_BATCH):
            try:
                connection = self._listener.accept()
            except BlockingIOError:
                return
            except UdsError as error:
                if error.errno not in _NO_ROOM:
                    raise
                # Not tried again and again, for the listener stays readable: after one has gone, or after a while.
                if not self._starved:
                    self.log.warning("%s; clients wait in the backlog until descriptors come back", error)
                self._starved = True
                self._accept_no_more()
                self._set_timer(0.1)
                return
            self._starved = False
            self._welcome(connection)
            if self._once:
                self._accept_no_more()
                self._socket.close()
                return

    def _welcome(self, connection: Connection) -> None:
        number = next(self._numbers)
        credentials = connection.credentials
        address = connection.peer_address
        who = f"client {number}: {credentials}"
        if address.is_pathname:
            who += f" bound to {address}"
        if self._identify:
            try:
                who += f", by its file uid {caller_by_file(connection).uid}"
            except CallerRejected as error:
                self.log.warning("%s: turned away: %s", who, error)
                connection.close()
                self._gone()
                return
        self.log.info("%s", who)
        connection.setblocking(False)
        peer = Peer(str(address), credentials, self._records)
        client = _Client(self, connection, who, peer)
        self._clients.add(client)
        client.start(self._service, peer)

    def _gone(self) -> None:
        """A descriptor has come back."""
        if self._once:
            self.stop()
        elif self._stopping is None:
            self._accept_again()

    def _timer_due(self) -> None:
        if self._stopping is not None:
            self._drain_clients()
        elif not self._once:
            self._accept_again()

    def _begin_to_stop(self) -> None:
        if not self._socket_closed():
            # Whoever has connected until now is served.
            self._accept_no_more()
            pending = True
            while pending:
                before = len(self._clients)
                self._accept(selectors.EVENT_READ)
                pending = len(self._clients) > before and not self._once
            self._accept_no_more()
            # Nobody needs to wake us any more, and removing the file takes two descriptors, which may be the last.
            self._close_waker()
            self._listener.close()
        self._drain_clients()

    def _drain_clients(self) -> None:
        for client in list(self._clients):
            client.drain()
        # One that goes on sending is readable, one that has just stopped is not: look again.
        self._set_timer(0.05)

    def _socket_closed(self) -> bool:
        return self._listener.fileno() < 0

    def _close(self) -> None:
        for client in list(self._clients):
            client.close("cut off")
        super()._close()


class _Client:
    """One connection: its session, and what it has yet to be sent. While there is any, nothing is read from it."""

    __slots__ = (
        "_connection",
        "_draining",
        "_ending",
        "_pending",
        "_received",
        "_sent",
        "_server",
        "_session",
        "_since",
        "_size",
        "_source",
        "_who",
        "_writing",
    )

    def __init__(self, server: ConnectionServer, connection: Connection, who: str, peer: Peer) -> None:
        self._server = server
        self._connection = connection
        self._who = who
        self._size = _RECORD if peer.records else _CHUNK
        self._received = self._sent = 0
        self._since = now()
        self._pending: bytes | memoryview = b""
        self._source: Iterator[bytes] | None = None
        self._writing = False
        self._ending = ""
        """Why it ends as soon as all is sent; empty: it does not."""
        self._draining = False
        self._session: Session
        server._selector.register(connection, selectors.EVENT_READ, self.ready)

    def start(self, service: Service, peer: Peer) -> None:
        def begin() -> Output:
            self._session = service(peer)
            return self._session.start()

        self._ask(begin)

    def ready(self, mask: int) -> None:
        if self._writing:
            self._pump()
        else:
            self._read()

    def drain(self) -> None:
        """Answer what has come, and end when there is no more."""
        self._draining = True
        if not self._received and not self._ending:
            self._source = None  # a greeting, which nobody has asked for, and which may be endless
        for _ in range(_BATCH):
            if self._writing or self not in self._server._clients:
                return
            self._read()

    def _read(self) -> None:
        try:
            data = self._connection.recv(self._size)
        except BlockingIOError:
            if self._draining:
                self.close(_DRAINED)
            return
        except OSError as error:
            self.close(f"lost ({os.strerror(error.errno or 0)})")
            return
        if data:
            self._received += len(data)
            self._ask(lambda: self._session.feed(data))
        else:
            self._ending = _CLOSED
            self._ask(lambda: self._session.eof())

    def _ask(self, question: Callable[[], Output]) -> None:
        try:
            output = question()
        except Exception:
            self._server.log.exception("%s: %s", self._who, _FAILED)
            self.close(_FAILED)
            return
        if isinstance(output, bytes):
            self._pending = output
        else:
            self._source = pieces(output)
        self._pump()

    def _pump(self) -> None:
        """Send until all is sent, the peer takes no more, or it is the others' turn."""
        try:
            for _ in range(_BATCH):
                if not self._pending and self._source is not None:
                    self._next_piece()
                if not self._pending:
                    break
                sent = self._connection.send(self._pending)
                self._sent += sent
                if sent < len(self._pending):
                    self._pending = memoryview(self._pending)[sent:]
                    break
                self._pending = b""
        except BlockingIOError:
            pass
        except OSError as error:
            self.close(f"lost ({os.strerror(error.errno or 0)})")
            return
        if self._pending or self._source is not None:
            self._watch(writing=True)
        elif self._ending:
            self.close(self._ending)
        elif self._writing:
            self._watch(writing=False)

    def _next_piece(self) -> None:
        try:
            self._pending = next(self._source or iter(()), b"")
        except Exception:
            self._server.log.exception("%s: %s", self._who, _FAILED)
            self._ending = _FAILED
        if not self._pending:
            self._source = None

    def _watch(self, writing: bool) -> None:
        if writing is not self._writing:
            self._writing = writing
            events = selectors.EVENT_WRITE if writing else selectors.EVENT_READ
            self._server._selector.modify(self._connection, events, self.ready)

    def close(self, why: str) -> None:
        server = self._server
        if self not in server._clients:
            return
        server._clients.discard(self)
        server._selector.unregister(self._connection)
        self._connection.close()
        closed = getattr(getattr(self, "_session", None), "closed", None)  # of those who want to know: a record
        if closed is not None:
            closed()
        server.log.log(
            logging.DEBUG if why in _NORMAL_ENDS else logging.WARNING,
            "%s: %s after %.3f s, %d bytes in, %d out",
            self._who,
            why,
            now() - self._since,
            self._received,
            self._sent,
        )
        server._gone()


_UCRED = struct.Struct("=iII")


class DatagramServer(Server):
    """A datagram server around ``service``: each datagram is a session, and its answers go to where it came from.

    A sender that has bound no address gets no answer. For one whose queue is full up to ``most`` answers are kept
    and tried again; more are dropped, and the log says so: nobody else has to wait.

    One thing makes all wait. What a client has not read yet lies in the *server's* send buffer, and for a client that
    has connected to the server the kernel knows no other limit (``unix_dgram_sendmsg``: not net.unix.max_dgram_qlen).
    A few hundred answers that nobody reads fill it; then answers go out in the order in which they were asked for.
    """

    def __init__(
        self,
        sock: BoundSocket,
        service: str | Service = "upper",
        *,
        drain: float = 5.0,
        once: bool = False,
        most: int = 1000,
        log: logging.Logger = LOG,
    ) -> None:
        super().__init__(sock, service, drain, log)
        self._sock = sock
        self._once = once
        self._most = most
        self._waiting: dict[bytes, deque[bytes]] = {}
        self._full = False
        self._retry = _FIRST_RETRY
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._selector.register(sock, selectors.EVENT_READ, self._receive)

    def _finished(self) -> bool:
        return self._stopping is not None and (not self._waiting or self._stopping.passed)

    def _receive(self, mask: int) -> bool:
        """Answer what has come; whether there may be more."""
        for _ in range(_BATCH):
            try:
                data, ancillary, _, sender = self._sock.recvmsg(_RECORD, socket.CMSG_SPACE(_UCRED.size))
            except BlockingIOError:
                return False
            self._answer(data, _credentials(ancillary), Address.from_sockaddr(sender))
            if self._once:
                self._stop_now()
                return False
        return True

    def _answer(self, data: bytes, credentials: Credentials | None, sender: Address) -> None:
        self.log.info("datagram of %d bytes from %s %s", len(data), credentials, sender)
        peer = Peer(str(sender), credentials, records=True, greets=False)
        try:
            session = self._service(peer)
            answers = [
                piece
                for output in (session.feed(data), session.eof())
                for piece in itertools.islice(pieces(output, empty=not data), _BATCH)
            ]
        except Exception:
            self.log.exception("the service failed on a datagram from %s", sender)
            return
        if answers and not _answerable(sender):
            self.log.warning("no answer to %s: it has bound no address of its own that leads to it from here", sender)
            return
        queue = self._waiting.get(sender.raw)
        if queue is None:
            queue = deque()
        for answer in answers:
            if len(queue) >= self._most:
                self.log.warning("an answer to %s is dropped: it does not read, and %d wait", sender, len(queue))
            else:
                queue.append(answer)
        if self._full and queue:
            self._waiting[sender.raw] = queue  # it is not this one's turn
        else:
            self._send(sender.raw, queue)

    def _send(self, target: bytes, queue: deque[bytes]) -> None:
        while queue:
            try:
                self._sock.sendto(queue[0], target)
            except BlockingIOError:
                # An unconnected socket cannot wait for another one's queue (poll tells of its own buffer alone), and
                # the peer may be connected to us, which keeps any other socket from connecting to it.
                self._waiting[target] = queue
                self._set_timer(self._retry)
                self._full = self._unread() >= self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                return
            except OSError as error:
                self.log.warning("no answer to %s: %s", Address.from_sockaddr(target), os.strerror(error.errno or 0))
                if error.errno != errno.EMSGSIZE:
                    break  # not only this one: it has gone, or may not be written to
            queue.popleft()
        self._waiting.pop(target, None)

    def _timer_due(self) -> None:
        before = sum(map(len, self._waiting.values()))
        self._retry = min(self._retry * 2, _LAST_RETRY)
        self._full = False
        for target, queue in list(self._waiting.items()):
            if not self._full:
                self._send(target, queue)
        if sum(map(len, self._waiting.values())) < before:
            self._retry = _FIRST_RETRY

    def _unread(self) -> int:
        """How much of the send buffer is taken: what has been sent and not been read yet (SIOCOUTQ)."""
        import fcntl  # neither is on every platform
        import termios

        return int.from_bytes(fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def _begin_to_stop(self) -> None:
        more = not self._once
        while more and self._stopping is not None and not self._stopping.passed:
            more = self._receive(selectors.EVENT_READ)
        self._selector.unregister(self._sock)


_FIRST_RETRY, _LAST_RETRY = 0.001, 0.1
_SEND_BUFFER = 1 << 22
"""More than it gets: the kernel gives up to net.core.wmem_max (socket(7))."""


def _answerable(sender: Address) -> bool:
    """Whether it has an address, and one that means the same here as to its owner."""
    return bool(sender.raw) and not sender.is_private


def _credentials(ancillary: list[tuple[int, int, bytes]]) -> Credentials | None:
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return Credentials(*_UCRED.unpack(value[: _UCRED.size]))
    return None


def serve(
    address: AddressLike,
    service: str | Service = "upper",
    *,
    type: SocketType | str = SocketType.STREAM,
    on_existing: OnExisting | str = OnExisting.REPLACE_STALE,
    backlog: int = 128,
    mode: int | None = None,
    group: int | str | None = None,
    long_path: str = "refuse",
    drain: float = 5.0,
    once: bool = False,
    identify: bool = False,
    log: logging.Logger = LOG,
) -> Server:
    """Bind, listen, and make the server for this type of socket: ``with serve("/run/a.sock", "echo"): …``.

    Datagrams have no backlog, and nobody to identify by a file. Raises as :func:`udslab.listener.listen`, and
    :class:`~udslab.errors.ServiceError`.
    """
    resolve(service)
    if SocketType(type) is SocketType.DGRAM:
        sock = bind(address, on_existing=on_existing, mode=mode, group=group, pass_credentials=True)
        return DatagramServer(sock, service, drain=drain, once=once, log=log)
    listener = listen(
        address, type=type, on_existing=on_existing, backlog=backlog, mode=mode, group=group, long_path=long_path
    )
    return ConnectionServer(listener, service, drain=drain, once=once, identify=identify, log=log)


def run_until_signal(make: Callable[[], Server], ready: Callable[[Server], None]) -> None:
    """Make a server, tell that it is ``ready``, and run it until SIGTERM or SIGINT. In a process's main thread."""
    # Blocked until there is somebody to tell: ended in between, we would leave the file behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    server = make()
    with told_of(*_ENDING) as told:
        server.stop_when_readable(told)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        try:
            ready(server)
            server.run()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # told twice, it ends as one that is told once


_ENDING = (signal.SIGTERM, signal.SIGINT)
