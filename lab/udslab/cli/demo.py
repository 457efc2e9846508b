"""``udslab demo``: the life of a socket file, in acts, each of them checked."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import udslab
from udslab.cli.options import Commands, add_json
from udslab.connection import Connection, connect
from udslab.errors import UdsError
from udslab.listener import bind, listen
from udslab.report.terminal import print_table
from udslab.scratch import scratch_directory
from udslab.spawn import Process
from udslab.state import status
from udslab.testing import assert_untouched

__all__ = ["add_parser"]

_PATIENCE = 10.0
"""Seconds in which anything must have happened; an act that takes longer is not as told."""


def add_parser(commands: Commands) -> None:
    """Add ``demo``."""
    parser = commands.add_parser(
        "demo",
        help="tell the life of a socket file",
        description="Tell the life of a socket file in acts, with real processes: each with what the calls returned "
        "and what is on the disk, and each checked. Exit status 1 if any act is not as told.",
    )
    add_json(parser)
    parser.set_defaults(run=run)


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


class Scene:
    """Where the acts take place: a directory, a path, and a server process that goes from act to act."""

    def __init__(self, directory: str, exits: contextlib.ExitStack) -> None:
        self.name = "demo.sock"
        self.path = os.path.join(directory, self.name)
        self._exits = exits
        self._server: Process | None = None

    @property
    def server(self) -> Process:
        if self._server is None:
            raise RuntimeError("no server has been started")
        return self._server

    def start_server(self, *options: str) -> Process:
        """``udslab serve`` in a process of its own."""
        root = os.path.dirname(os.path.dirname(os.path.abspath(udslab.__file__)))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        command = [sys.executable, "-m", "udslab", "serve", *options, self.path]
        self._server = self._exits.enter_context(Process(command, env=environment))
        self._server.wait_serving(self.path)
        return self._server

    def client(self) -> Connection:
        """A client with a file of its own."""
        client = connect(self.path, bind="auto", timeout=_PATIENCE)
        client.settimeout(_PATIENCE)
        return client


def bind_makes_the_file(scene: Scene, act: Act) -> None:
    """bind makes the socket file"""
    with listen(scene.path) as listener:
        act.call("server", "socket(AF_UNIX, SOCK_STREAM, 0)", listener.fileno())
        act.call("server", f"bind({scene.name})")
        act.call("server", "listen(128)")
        fifo = os.path.join(os.path.dirname(scene.path), "demo.fifo")
        os.mkfifo(fifo, 0o644)
        act.call("server", "mkfifo(demo.fifo)")
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(fifo, os.O_WRONLY)
        try:
            with connect(scene.path) as client:
                act.call("client", f"connect({scene.name})")
                sent = client.send(b"x" * 4096)
                act.call("client", "write(4096 bytes, which nobody has read yet)", sent)
                act.call("client", "write(4096 bytes to the FIFO)", os.write(writer, b"x" * 4096))
                act.disk(scene.path, fifo)
                made, pipe = os.lstat(scene.path), os.lstat(fifo)
        finally:
            os.close(reader)
            os.close(writer)
            os.unlink(fifo)
        wanted = 0o777 & ~_umask()
        act.check("its type is s, as a FIFO's is p", stat.S_ISSOCK(made.st_mode) and stat.S_ISFIFO(pipe.st_mode))
        act.check("its size is 0 with 4096 bytes in flight", made.st_size == 0, made.st_size)
        mode = stat.S_IMODE(made.st_mode)
        act.check(f"its mode is 0777 & ~umask = {wanted:04o}", mode == wanted, f"{mode:04o}")


def a_client_is_identified(scene: Scene, act: Act) -> None:
    """A client speaks, and is identified in two ways"""
    server = scene.start_server("--identify")
    # It removes the client's file as soon as it accepts: held up until the file has been shown.
    server.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.pid, os.WSTOPPED | os.WNOWAIT)
    with scene.client() as client:
        name = os.fsdecode(client.address.name)
        act.call("client", "bind(a file of its own)")
        act.disk(name)
        act.call("client", f"connect({scene.name})")
        server.send_signal(signal.SIGCONT)
        client.sendall(b"hello\n")
        answer = client.read_line()
        act.call("client", "write(b'hello\\n'); read()", answer)
        act.check("the answer is in upper case", answer == b"HELLO\n", answer)
        told = client.credentials
        act.call("client", "getsockopt(SO_PEERCRED)", told)
        act.check("the kernel says who listens: the server's pid", told.pid == server.pid, told)
    told_by_server = _log_line(server, "client 1: ")
    by_kernel, _, by_file = told_by_server.partition(" bound to ")
    uid = by_file.rpartition("by its file ")[2]
    act.call("server", "getsockopt(SO_PEERCRED)", by_kernel)
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
        act.call("client", "write(1 MiB), and at the same time read()", f"{len(answer)} bytes")
        act.check("both directions worked at once", answer == data.upper(), "other bytes")
        client.sendall(b"the last words")
        client.shutdown(socket.SHUT_WR)
        act.call("client", "write(b'the last words'); shutdown(SHUT_WR)")
        answer = client.read_exactly(14)
        act.call("client", "read()", answer)
        act.check("the other direction still works", answer == b"THE LAST WORDS", answer)
        end = client.recv(1)
        act.call("client", "read()", end)
        act.check("then the server closes, too: end of file", end == b"", end)


def datagrams_are_reliable(scene: Scene, act: Act) -> None:
    """Datagrams arrive, all of them and in order"""
    from concurrent.futures import ThreadPoolExecutor

    senders, each = 4, 500
    path = scene.path + ".dgram"
    with bind(path) as receiver, ThreadPoolExecutor(senders) as pool:
        act.call("server", f"socket(SOCK_DGRAM); bind({os.path.basename(path)})")
        act.disk(path)

        def send(number: int) -> None:
            with connect(path, type="dgram") as sender:
                sender.settimeout(_PATIENCE)
                for count in range(each):
                    sender.send(b"%d %d" % (number, count))

        receiver.settimeout(_PATIENCE)
        sent = [pool.submit(send, number) for number in range(senders)]
        seen: dict[int, list[int]] = {number: [] for number in range(senders)}
        for _ in range(senders * each):
            number, count = map(int, receiver.recv(64).split())
            seen[number].append(count)
        for sender in sent:
            sender.result()
    act.call("client", f"{senders} senders: {each} x send()", f"{senders * each} datagrams")
    act.call("server", "recv() until nothing is left", f"{sum(map(len, seen.values()))} datagrams")
    act.check("none was lost, and each sender's are in order", all(got == list(range(each)) for got in seen.values()))
    act.disk(path)


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
    a_second_bind_fails,
    sigkill_leaves_it_stale,
    the_restart_replaces_it,
    a_regular_file_is_kept,
    a_clean_exit_removes_it,
)
"""The acts, in order; the docstring of each is its title."""


def play() -> Iterator[Act]:
    """Play the acts in a directory of their own; each, when it is over."""
    with contextlib.ExitStack() as exits:
        scene = Scene(exits.enter_context(scratch_directory()), exits)
        # The clients' files, too: a demo that is killed leaves everything where the next one sweeps.
        exits.callback(setattr, tempfile, "tempdir", tempfile.tempdir)
        tempfile.tempdir = os.path.dirname(scene.path)
        for perform in ACTS:
            act = Act(perform.__doc__ or perform.__name__)
            try:
                perform(scene, act)
            except (OSError, RuntimeError) as error:
                act.check("the act could be played", False, error)
            yield act


def run(options: argparse.Namespace) -> int:
    """Play, print, and say whether all was as told."""
    passed = True
    acts = []
    for number, act in enumerate(play(), 1):
        passed = passed and act.passed
        if options.json:
            acts.append(_facts(act))
            continue
        print(f"Act {number}. {act.title}")
        print_table((), [_shown_line(*line) for line in act.lines])
        print(flush=True)
    if options.json:
        print(json.dumps({"passed": passed, "acts": acts}, indent=2))
    else:
        print("All was as told." if passed else "Not all was as told: see FAILED.")
    return 0 if passed else 1


def _facts(act: Act) -> dict[str, Any]:
    lines = [{"who": who, "what": what, "result": result} for who, what, result in act.lines]
    return {"title": act.title, "passed": act.passed, "lines": lines}


def _shown_line(who: str, what: str, result: str) -> tuple[str, str, str]:
    returned = who not in ("disk", "ok", "FAILED")
    return f"{who:8}", what, f"= {result}" if returned else result


def _umask() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))


def _log_line(server: Process, beginning: str) -> str:
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
