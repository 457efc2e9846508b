"""The life of a socket file, in acts, each of them checked: by processes, or by two containers.

A :class:`Scene` is where the acts take place. Whoever plays them is the client; the server is a process that the scene
starts: here, or by an agent in another container, which shares nothing with this one but the directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Union

import udslab
from udslab.address import Address, AddressLike
from udslab.connection import Connection, connect
from udslab.errors import UdsError
from udslab.listener import listen
from udslab.remote import Remote, RemoteProcess, drive
from udslab.scratch import remove_tree, scratch_directory
from udslab.spawn import Process, wait_until
from udslab.state import Status, status
from udslab.testing import assert_untouched

__all__ = ["ACTS", "Act", "Scene", "in_containers", "play", "with_processes"]

_PATIENCE = 10.0
"""Seconds in which anything must have happened; an act that takes longer is not as told."""


@dataclass
class Act:
    """One act: who did what, and what came of it; the checks, and whether they held."""

    title: str
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    passed: bool = True

    def call(self, who: str, call: str, result: object = "0") -> None:
        """``who`` made a call, and it returned ``result``."""
        self.lines.append((who, call, str(result)))

    def disk(self, *paths: str) -> None:
        """What is on the disk at each path: type and mode, size, name, as ls tells it."""
        for path in paths:
            name = os.path.basename(path)
            try:
                info = os.lstat(path)
                self.lines.append(
                    ("disk", f"{stat.filemode(info.st_mode)} {info.st_size:3} {name}", status(path).describe())
                )
            except FileNotFoundError:
                self.lines.append(("disk", f"no {name}", ""))

    def check(self, claim: str, held: bool, seen: object = "") -> None:
        """Claim something; ``seen`` tells what was seen instead."""
        self.passed = self.passed and held
        self.lines.append(("ok" if held else "FAILED", claim, "" if held else f"seen: {seen}"))


ServerProcess = Union[Process, RemoteProcess]


class Scene:
    """Where the acts take place: a directory, a path, and a server process that goes from act to act.

    ``apart``: client and server are in containers of their own. ``umask``: of both.
    """

    apart = False

    def __init__(self, directory: str, umask: int, exits: contextlib.ExitStack) -> None:
        self.name = "demo.sock"
        self.path = os.path.join(directory, self.name)
        self.umask = umask
        self._exits = exits
        self._server: ServerProcess | None = None

    @property
    def server(self) -> ServerProcess:
        """The one that was started last."""
        if self._server is None:
            raise RuntimeError("no server has been started")
        return self._server

    def start_server(self, *options: str, at: AddressLike | None = None) -> ServerProcess:
        """``udslab serve`` in a process of its own, once it serves."""
        address = Address.parse(at or self.path)
        server = self.start(["serve", *options, str(address)])
        self._exits.enter_context(server)
        wait_until(address, lambda found: found.serving, _PATIENCE, server, look=self.look)
        self._server = server
        return server

    def carry_on(self, server: ServerProcess) -> None:
        """Go on with a server of an act before."""
        self._server = server

    def start(self, arguments: Sequence[str]) -> ServerProcess:
        """The command ``udslab`` with these arguments, where the server belongs."""
        root = os.path.dirname(os.path.dirname(os.path.abspath(udslab.__file__)))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        return Process([sys.executable, "-m", "udslab", *arguments], env=environment)

    def look(self, address: AddressLike) -> Status:
        """What is there, as the server's side sees it."""
        return status(address)

    def connect_there(self, address: AddressLike) -> contextlib.AbstractContextManager[object]:
        """A client on the server's side."""
        return connect(address, timeout=_PATIENCE)

    def client(self) -> Connection:
        """A client with a file of its own."""
        client = connect(self.path, bind="auto", timeout=_PATIENCE)
        client.settimeout(_PATIENCE)
        return client


class _SceneApart(Scene):
    """The server's part is played by an agent in another container."""

    apart = True

    def __init__(self, remote: Remote, directory: str, umask: int, exits: contextlib.ExitStack) -> None:
        super().__init__(directory, umask, exits)
        self._remote = remote

    def start(self, arguments: Sequence[str]) -> ServerProcess:
        # By the name of the file alone: the server's container says what it starts, in lines that are short enough.
        directory = os.path.dirname(self.path)
        *options, address = arguments
        return self._remote.start(
            ["udslab", *options, address.removeprefix(directory + "/")], cwd=directory, umask=self.umask
        )

    def look(self, address: AddressLike) -> Status:
        return self._remote.status(address)

    def connect_there(self, address: AddressLike) -> contextlib.AbstractContextManager[object]:
        return self._remote.connect(address, timeout=_PATIENCE)


def bind_makes_the_file(scene: Scene, act: Act) -> None:
    """bind makes the socket file"""
    server = scene.start_server("--service", "discard")
    act.call("server", f"bind({scene.name}); listen(128)", f"pid {server.pid}")
    server.freeze()
    act.call("server", "is stopped: it reads nothing")
    fifo = os.path.join(os.path.dirname(scene.path), "demo.fifo")
    os.mkfifo(fifo, 0o666)
    act.call("client", "mkfifo(demo.fifo)")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY)
    try:
        with connect(scene.path) as client:
            act.call("client", f"connect({scene.name})")
            sent = client.send(b"x" * 4096)
            act.call("client", "write(4096 bytes), unread", sent)
            act.call("client", "write(4096 bytes), to the FIFO", os.write(writer, b"x" * 4096))
            act.disk(scene.path, fifo)
            made, pipe = os.lstat(scene.path), os.lstat(fifo)
    finally:
        os.close(reader)
        os.close(writer)
        os.unlink(fifo)
    server.thaw()
    server.end()
    act.check("its type is s, as a FIFO's is p", stat.S_ISSOCK(made.st_mode) and stat.S_ISFIFO(pipe.st_mode))
    act.check("its size is 0 with 4096 bytes in flight", made.st_size == 0, made.st_size)
    wanted, mode = 0o777 & ~scene.umask, stat.S_IMODE(made.st_mode)
    act.check(f"its mode is 0777 & ~umask = {wanted:04o}", mode == wanted, f"{mode:04o}")


def a_client_is_identified(scene: Scene, act: Act) -> None:
    """A client speaks, and is identified in two ways"""
    server = scene.start_server("--identify")
    # It removes the client's file as soon as it accepts: held up until the file has been shown.
    server.freeze()
    with scene.client() as client:
        name = os.fsdecode(client.address.name)
        act.call("client", "bind(a file of its own)")
        act.disk(name)
        act.call("client", f"connect({scene.name})")
        server.thaw()
        client.sendall(b"hello\n")
        answer = client.read_line()
        act.call("client", "write(b'hello\\n'); read()", answer)
        act.check("the answer is in upper case", answer == b"HELLO\n", answer)
        told = client.credentials
        act.call("client", "getsockopt(SO_PEERCRED)", _brief(told))
        if scene.apart:
            act.check("who listens has no pid here: another pid namespace", told.pid == 0, told)
            act.check("its user has: not ours", told.uid == os.stat(scene.path).st_uid != os.geteuid(), told)
        else:
            act.check("the kernel says who listens: the server's pid", told.pid == server.pid, told)
    told_by_server = _log_line(server, "client 1: ")
    by_kernel, _, by_file = told_by_server.partition(" bound to ")
    uid = by_file.rpartition("by its file ")[2]
    act.call("server", "getsockopt(SO_PEERCRED)", _brief(by_kernel))
    if scene.apart:
        act.check("nor have we one there", by_kernel.startswith("pid 0 "), by_kernel)
        act.check("our user has", f" uid {os.geteuid()} " in by_kernel, by_kernel)
    else:
        act.check("the kernel says who called: our pid", by_kernel.startswith(f"pid {os.getpid()} "), by_kernel)
    act.call("server", "stat(the client's file); unlink(it)", uid)
    act.check("its owner is the caller, too, but can be forged", uid == f"uid {os.geteuid()}", by_file)
    act.check("the server has removed the client's file", not os.path.lexists(name), name)


def full_duplex_and_half_close(scene: Scene, act: Act) -> None:
    """Both directions at once, and then one of them closed"""
    from concurrent.futures import ThreadPoolExecutor  # not at the top: every command would have to wait for it

    data = os.urandom(1 << 20)
    with scene.client() as client, ThreadPoolExecutor() as pool:
        sent = pool.submit(client.sendall, data)
        answer = client.read_exactly(len(data))
        sent.result()
        act.call("client", "write(1 MiB) and read()", f"{len(answer)} bytes")
        act.check("both directions worked at once", answer == data.upper(), "other bytes")
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        act.call("client", "write(b'last words'); shutdown(SHUT_WR)")
        answer = client.read_exactly(10)
        act.call("client", "read()", answer)
        act.check("the other direction still works", answer == b"LAST WORDS", answer)
        end = client.recv(1)
        act.call("client", "read()", end)
        act.check("then the server closes, too: end of file", end == b"", end)


def datagrams_are_reliable(scene: Scene, act: Act) -> None:
    """Datagrams arrive, all of them and in order"""
    from concurrent.futures import ThreadPoolExecutor

    senders, rounds, burst = 4, 10, 50
    path = scene.path + ".dgram"
    kept = scene.server  # the next acts go on with it
    server = scene.start_server("--type", "dgram", "--service", "echo", at=path)
    act.call("server", f"bind({os.path.basename(path)}), SOCK_DGRAM", f"pid {server.pid}")
    act.disk(path)

    def send(number: int) -> bool:
        """Bursts of datagrams; whether all came back, in order."""
        with connect(path, type="dgram", bind=f"{path}.{number}") as sender:
            sender.settimeout(_PATIENCE)
            for start in range(0, rounds * burst, burst):
                sent = [b"%d %d" % (number, count) for count in range(start, start + burst)]
                for data in sent:
                    sender.send(data)
                if [sender.recv(64) for _ in sent] != sent:
                    return False
        return True

    with ThreadPoolExecutor(senders) as pool:
        came = list(pool.map(send, range(senders)))
    act.call("client", f"{senders} senders: {rounds * burst} x send()", f"{senders * rounds * burst} datagrams")
    act.call("server", "recv(); send() each one back")
    act.check("none was lost, and each sender's are in order", all(came), came)
    server.end()
    scene.carry_on(kept)
    act.disk(path)


def an_abstract_name_has_no_file(scene: Scene, act: Act) -> None:
    """An abstract name has no file"""
    name = f"@udslab-demo-{os.urandom(6).hex()}"
    kept = scene.server
    before = sorted(os.listdir(os.path.dirname(scene.path)))
    server = scene.start_server(at=name)
    act.call("server", f"bind({name})", f"pid {server.pid}")
    act.check("nothing new is on the disk", sorted(os.listdir(os.path.dirname(scene.path))) == before)
    number = _failure(lambda: connect(name, timeout=_PATIENCE).close())
    act.call("client", f"connect({name})", _shown(number))
    if scene.apart:
        act.check("it does not lead here: another network namespace", number == errno.ECONNREFUSED, _shown(number))
        number = _failure(lambda: scene.connect_there(name).__exit__(None, None, None))
        act.call("server", f"connect({name})", _shown(number))
        act.check("in the server's own it does", number == 0, _shown(number))
    else:
        act.check("whoever is in the same network namespace may connect", number == 0, _shown(number))
    act.call("server", "kill -9", f"ended by signal {-server.kill()}")
    state = scene.look(name).state
    act.check("the name goes with its socket: nothing is ever stale", state == "absent", state)
    scene.carry_on(kept)


def a_second_bind_fails(scene: Scene, act: Act) -> None:
    """A second server on the same path is refused"""
    act.disk(scene.path)
    number = _failure(lambda: listen(scene.path, on_existing="refuse").close())
    act.call("server 2", f"bind({scene.name})", _shown(number))
    act.check("plain bind fails with EADDRINUSE", number == errno.EADDRINUSE, _shown(number))
    number = _failure(lambda: listen(scene.path).close())
    act.call("server 2", "the same, but replacing what is stale", _shown(number))
    act.check("a live server is not replaced either", number == errno.EADDRINUSE, _shown(number))
    answer = _ask(scene)
    act.call("client", "write(b'anybody there?'); read()", answer)
    act.check("the first server has noticed nothing", answer == b"ANYBODY THERE?", answer)


def sigkill_leaves_it_stale(scene: Scene, act: Act) -> None:
    """SIGKILL leaves the file behind: stale"""
    code = scene.server.kill()
    act.call("server", "kill -9", f"ended by signal {-code}" if code < 0 else f"exit status {code}")
    act.disk(scene.path)
    state = status(scene.path).state
    act.check("the file is still there, and stale", state == "stale", state)
    number = _failure(lambda: connect(scene.path).close())
    act.call("client", f"connect({scene.name})", _shown(number))
    act.check("nobody listens: ECONNREFUSED", number == errno.ECONNREFUSED, _shown(number))
    number = _failure(lambda: listen(scene.path, on_existing="refuse").close())
    act.call("server 2", f"bind({scene.name})", _shown(number))
    act.check("and plain bind fails as if somebody did", number == errno.EADDRINUSE, _shown(number))


def the_restart_replaces_it(scene: Scene, act: Act) -> None:
    """The restart replaces the stale file"""
    before = os.lstat(scene.path).st_ctime_ns
    server = scene.start_server()
    act.call("server", "udslab serve", f"pid {server.pid}")
    act.disk(scene.path)
    after = os.lstat(scene.path).st_ctime_ns
    act.check("it is a new file", after > before, after)
    answer = _ask(scene)
    act.call("client", "write(b'anybody there?'); read()", answer)
    act.check("and it is served", answer == b"ANYBODY THERE?", answer)


def a_regular_file_is_kept(scene: Scene, act: Act) -> None:
    """A regular file at the path is refused, and kept"""
    path = scene.path + ".txt"
    with open(path, "w") as file:
        file.write("somebody's work\n")
    act.disk(path)
    kept = True
    try:
        with assert_untouched(path):
            number = _failure(lambda: listen(path).close())
    except AssertionError as error:
        kept = False
        act.lines.append(("disk", str(error), ""))
    act.call("server 2", f"bind({os.path.basename(path)})", _shown(number))
    act.check("a file that is no socket is never replaced", number == errno.EADDRINUSE, _shown(number))
    act.disk(path)
    act.check("it is the same file, byte for byte", kept)


def a_clean_exit_removes_it(scene: Scene, act: Act) -> None:
    """A clean exit removes the file"""
    code = scene.server.end()
    act.call("server", "kill -TERM", f"exit status {code}")
    act.disk(scene.path)
    act.check("the server has ended well", code == 0, code)
    state = status(scene.path).state
    act.check("and its file is gone", state == "absent", state)


ACTS: tuple[Callable[[Scene, Act], None], ...] = (
    bind_makes_the_file,
    a_client_is_identified,
    full_duplex_and_half_close,
    datagrams_are_reliable,
    an_abstract_name_has_no_file,
    a_second_bind_fails,
    sigkill_leaves_it_stale,
    the_restart_replaces_it,
    a_regular_file_is_kept,
    a_clean_exit_removes_it,
)
"""The acts, in order; the docstring of each is its title."""


def play(scene: Scene) -> Iterator[Act]:
    """Play the acts; each, when it is over."""
    for perform in ACTS:
        act = Act(perform.__doc__ or perform.__name__)
        try:
            perform(scene, act)
        except (OSError, RuntimeError) as error:
            act.check("the act could be played", False, error)
        yield act


@contextlib.contextmanager
def with_processes() -> Iterator[Scene]:
    """A scene with processes of this machine, in a directory of its own."""
    with contextlib.ExitStack() as exits:
        directory = exits.enter_context(scratch_directory())
        # The clients' files, too: a demo that is killed leaves everything where the next one sweeps.
        _clients_bind_in(directory, exits)
        umask = os.umask(0o077)
        os.umask(umask)
        yield Scene(directory, umask, exits)


@contextlib.contextmanager
def in_containers(agent: AddressLike) -> Iterator[Scene]:
    """A scene whose server's part is played by the agent that waits at ``agent``, in the directory of that path. What
    both make there is open to their group: they are two users.

    Raises as :func:`udslab.remote.drive`.
    """
    umask = 0o007
    shared = os.path.dirname(os.fsdecode(Address.parse(agent).name))
    with contextlib.ExitStack() as exits:
        exits.callback(os.umask, os.umask(umask))
        # One of its own for each play: a killed one leaves what would be in the next one's way.
        directory = tempfile.mkdtemp(prefix="play-", dir=shared)
        os.chmod(directory, 0o770)  # noqa: S103 - the server is another user of the same group
        exits.callback(remove_tree, directory)
        _clients_bind_in(directory, exits)
        yield _SceneApart(exits.enter_context(drive(agent)), directory, umask, exits)


def _clients_bind_in(directory: str, exits: contextlib.ExitStack) -> None:
    exits.callback(setattr, tempfile, "tempdir", tempfile.tempdir)
    tempfile.tempdir = directory


def _log_line(server: ServerProcess, beginning: str) -> str:
    """The line about a client, which is written before the client has its first byte."""
    lines = [line.partition("udslab: ")[2] for line in server.output().splitlines()]
    return next((line[len(beginning) :] for line in lines if line.startswith(beginning)), "nothing")


def _ask(scene: Scene) -> bytes:
    with scene.client() as client:
        client.sendall(b"anybody there?")
        return client.read_exactly(14)


def _failure(call: Callable[[], object]) -> int:
    """The errno with which ``call`` fails, 0 if it does not."""
    try:
        call()
    except UdsError as error:
        return error.errno or 0
    return 0


def _shown(number: int) -> str:
    return f"-1 {errno.errorcode.get(number, number)}" if number else "0"


def _brief(credentials: object) -> str:
    """Pid and uid of what :class:`~udslab.credentials.Credentials` say, so that a line fits on a terminal."""
    return str(credentials).replace(" (in another pid namespace)", "").partition(" gid ")[0]
