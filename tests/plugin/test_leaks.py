"""The leak check: what is told, in what words, and what is never told."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_udslab import leaks
from udslab.address import Address

COMMON = """
    import os, socket, sys, threading
    import pytest

    KEPT = []

    def unix(type=socket.SOCK_STREAM):
        return socket.socket(socket.AF_UNIX, type)

    def keep(*socks):
        KEPT.extend(socks)
        return socks[0]

    @pytest.fixture
    def uds_path():
        return os.environ["WHERE"]
"""

Check = Callable[..., pytest.RunResult]


@pytest.fixture
def check(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, path: Path) -> Check:
    """Runs the source as test_x.py in a process of its own, with the leak check and the named plugins alone."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("WHERE", str(path))

    def run(source: str, *options: str, plugins: tuple[str, ...] = ()) -> pytest.RunResult:
        pytester.makepyfile(test_x=textwrap.dedent(COMMON) + textwrap.dedent(source))
        loaded = ("pytest_udslab.plugin", *plugins)
        return pytester.runpytest_subprocess(*(word for name in loaded for word in ("-p", name)), *options)

    return run


def told(result: pytest.RunResult) -> dict[str, list[str]]:
    """What each test has left behind, as the messages say; numbers are N."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in result.outlines:
        if match := re.fullmatch(r"(?:.*UdsLeakWarning: )?test_x\.py::(.*) left behind:", line):
            lines = found.setdefault(match[1], [])
        elif line.startswith("  ") and "socket fd" in line:
            lines.append("  " + re.sub(r"(fd|pid|inode) \d+", r"\1 N", line.strip()))
        else:
            lines = []
    return found


def test_what_is_left_is_told_word_for_word(check, path):
    result = check(
        """
        def test_listener(uds_path):
            s = keep(unix())
            s.bind(uds_path)
            s.listen()

        def test_client(uds_path):
            keep(unix()).connect(uds_path)

        def test_pair(uds_path):
            keep(*socket.socketpair())

        def test_datagram(uds_path):
            keep(unix(socket.SOCK_DGRAM)).bind(uds_path + "d")

        def test_abstract(uds_path):
            keep(unix(socket.SOCK_SEQPACKET)).bind("\\0udslab-" + str(os.getpid()))
            print("PID", os.getpid())

        def test_in_a_thread(uds_path):
            thread = threading.Thread(target=lambda: keep(unix()))
            thread.start()
            thread.join()

        @pytest.mark.parametrize("number", [1, 2])
        def test_with(number, uds_path):
            if number == 2:
                keep(unix())

        @pytest.fixture
        def careless(uds_path):
            keep(unix())

        def test_in_the_set_up(careless): pass

        @pytest.fixture
        def late(uds_path):
            yield
            keep(unix())

        def test_in_the_teardown(late): pass

        def test_clean(uds_path):
            with unix() as s:
                s.bind(uds_path + "c")
        """,
        "-rP",
    )
    result.assert_outcomes(passed=11, errors=9)
    pid = next(line.split()[1] for line in result.outlines if line.startswith("PID"))
    one = ["  socket fd N, stream (inode N)"]
    assert told(result) == {
        "test_listener": [f"  socket fd N, stream, listening at {path} (inode N)"],
        "test_client": [f"  socket fd N, stream, connected to {path}, pid N (inode N)"],
        "test_pair": ["  socket fd N, stream, connected to (unnamed), pid N (inode N)"] * 2,
        "test_datagram": [f"  socket fd N, dgram, bound to {path}d (inode N)"],
        "test_abstract": [f"  socket fd N, seqpacket, bound to @udslab-{pid} (inode N)"],
        "test_in_a_thread": one,
        "test_with[2]": one,
        "test_in_the_set_up": one,
        "test_in_the_teardown": one,
    }
    assert any(re.fullmatch(rf"  socket fd \d+, stream, listening at {path} \(inode \d+\)", x) for x in result.outlines)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_listener*"])
    result.stdout.no_fnmatch_line("*leaks.py:*")


def test_a_socket_that_replaces_another_is_told(check):
    result = check(
        """
        kept = None

        @pytest.mark.parametrize("number", range(3))
        def test_it(number, uds_path):
            global kept
            kept = unix()

        @pytest.fixture(scope="module")
        def of_module():
            with unix() as s:
                yield

        def test_while_a_fixture_closes(of_module, uds_path):
            keep(unix())
        """
    )
    result.assert_outcomes(passed=4, errors=4)


def test_a_test_that_fails_is_told_of_what_it_left_and_not_of_its_locals(check):
    result = check(
        """
        class Client:
            def __init__(self):
                self.sock = unix()

        def test_local(uds_path):
            sock, client = unix(), Client()
            assert 0

        def test_next(uds_path): pass

        def test_left(uds_path):
            local = keep
            keep(unix())
            assert 0
        """
    )
    result.assert_outcomes(failed=2, passed=1, errors=1)
    assert list(told(result)) == ["test_left"]


def test_one_that_asks_for_a_fixture_while_it_runs_is_told_of_what_it_left_from_there_on(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        test_x=textwrap.dedent(COMMON).partition("@pytest.fixture")[0]
        + textwrap.dedent(
            """
            def test_left(request):
                keep(unix())
                path = request.getfixturevalue("uds_path")
                keep(unix()).connect(keep(bound(path)).getsockname())

            def bound(path):
                sock = unix()
                sock.bind("\\0" + path)
                sock.listen()
                return sock

            def test_clean(request):
                request.getfixturevalue("uds_server")

            @pytest.mark.uds_leaks("off")
            def test_off(request):
                request.getfixturevalue("uds_path")
                keep(unix())

            def test_without():
                keep(unix())
            """
        )
    )
    result = pytester.runpytest_subprocess("-p", "pytest_udslab.plugin")
    result.assert_outcomes(passed=4, errors=1)
    ((name, left),) = told(result).items()
    assert name == "test_left"
    assert len(left) == 2


def test_the_teardowns_own_error_is_not_lost(check):
    result = check(
        """
        @pytest.fixture
        def failing(uds_path):
            local = unix()
            yield
            raise ValueError("the teardown's own")

        def test_it(failing):
            keep(unix())

        def test_nothing_left(failing): pass
        """
    )
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["E       ValueError: the teardown's own", "E       test_x.py::test_it left behind:"])
    assert sum("socket fd" in line for line in result.outlines) == 1


def test_a_failed_set_up_is_told_of_what_it_left(check):
    result = check(
        """
        @pytest.fixture
        def failing(uds_path):
            local = unix()
            keep(unix())
            assert 0

        def test_it(failing): pass
        """
    )
    result.assert_outcomes(errors=2)
    assert told(result) == {"test_it": ["  socket fd N, stream (inode N)"]}


def test_lines_of_fixtures_come_first_and_from_any_scope(check):
    result = check(
        """
        from pytest_udslab.leaks import left_behind

        def tell(node, line):
            node.stash.setdefault(left_behind, []).append(line)

        @pytest.fixture(scope="session")
        def uds_session(request):
            yield
            tell(request.node, "process 7, by uds_session")

        @pytest.fixture
        def uds_server(request):
            yield
            tell(request.node, "socket file /tmp/s, made by uds_server at test_x.py:12, left behind")

        def test_it(uds_server, uds_session):
            keep(unix())

        def test_without(): pass
        """
    )
    result.assert_outcomes(passed=2, errors=2)
    at = result.outlines.index("test_x.py::test_it left behind:")
    assert result.outlines[at + 1] == "  socket file /tmp/s, made by uds_server at test_x.py:12, left behind"
    assert result.outlines[at + 2].startswith("  socket fd ")
    at = result.outlines.index("test_x.py::test_without left behind:")
    assert result.outlines[at + 1] == "  process 7, by uds_session"


# Modes

MODES = """
    def test_with(uds_path): keep(unix())

    def test_make(make_uds_it): keep(unix())

    def test_without(): keep(unix())

    @pytest.mark.uds_leaks("off")
    def test_off(uds_path): keep(unix())

    @pytest.mark.uds_leaks("all")
    def test_all(): keep(unix())

    @pytest.mark.uds_leaks("warn")
    def test_warn(): keep(unix())

    @pytest.fixture
    def make_uds_it(): pass
"""


@pytest.mark.parametrize(
    ("options", "errors", "warnings"),
    [
        ([], 3, 1),
        (["--uds-leaks=default"], 3, 1),
        (["--uds-leaks=all"], 4, 1),
        (["--uds-leaks=warn"], 1, 3),
        (["--uds-leaks=off"], 1, 1),
        (["-o", "uds_leaks=all"], 4, 1),
        (["-o", "uds_leaks=all", "--uds-leaks=off"], 1, 1),
    ],
)
def test_marker_then_option_then_ini(check, options, errors, warnings):
    result = check(MODES, *options)
    result.assert_outcomes(passed=6, errors=errors, warnings=warnings)
    assert {"test_all", "test_warn"} <= told(result).keys()


def test_a_warning_says_what_an_error_would(check):
    result = check("def test_it(uds_path): keep(unix())", "--uds-leaks=warn")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*UdsLeakWarning: test_x.py::test_it left behind:", "*socket fd *, stream (inode *)"])


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("", ["--uds-leaks=x"], "*--uds-leaks: invalid choice: 'x'*default*all*warn*off*"),
        ("", ["-o", "uds_leaks=x"], "*the ini file: uds_leaks is one of default, all, warn, off, not 'x'"),
        (
            "pytestmark = pytest.mark.uds_leaks('x')\ndef test_it(): pass",
            [],
            "*test_x.py::test_it: uds_leaks is one of default, all, warn, off, not 'x'",
        ),
        (
            "pytestmark = pytest.mark.uds_leaks\ndef test_it(): pass",
            [],
            "*test_x.py::test_it: uds_leaks takes one word: default, all, warn, off",
        ),
    ],
)
def test_unknown_words_are_a_usage_error(check, source, options, said):
    result = check(source, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_the_marker_is_registered(check):
    check("", "--markers").stdout.fnmatch_lines(["@pytest.mark.uds_leaks(mode):*"])


def test_globs_are_ignored(check, path):
    source = """
    def test_it(uds_path):
        listener = keep(unix())
        listener.bind(uds_path)
        listener.listen()
        keep(unix()).connect(uds_path)

    def test_other(uds_path):
        keep(unix()).bind(uds_path + "-other")
    """
    result = check(source, "-o", f"uds_leaks_ignore=/nowhere/*\n{path.parent}/?")
    result.assert_outcomes(passed=2, errors=1)
    assert list(told(result)) == ["test_other"]


def test_where_there_is_no_proc_the_header_says_so(check, pytester):
    source = "def test_it(uds_path): keep(unix())"
    line = "udslab: sockets are not checked for leaks: there is no /proc/self/fd here"
    check(source).stdout.no_fnmatch_line(line)
    pytester.makeconftest("from pytest_udslab import leaks\nleaks._AVAILABLE = False\n")
    result = check(source)
    result.assert_outcomes(passed=1)
    assert result.outlines.count(line) == 1
    check(source, "--uds-leaks=off").stdout.no_fnmatch_line(line)


def test_no_descriptor_left_is_told(check):
    result = check(
        """
        import resource

        def test_it(uds_path):
            resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            with pytest.raises(OSError):
                while True:
                    keep(unix())
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["  descriptors that cannot be looked at: *Too many open files*"])


# What is no leak


def test_sockets_of_fixtures_of_higher_scopes(check):
    check(
        """
        @pytest.fixture(scope="session")
        def of_session(): keep(unix())

        @pytest.fixture(scope="module", params=[1, 2])
        def of_module(request, of_session):
            with unix() as s:
                keep(unix())
                yield

        def setup_module(): keep(unix())

        @pytest.fixture(scope="class")
        def of_class():
            keep(unix())
            raise ValueError

        class TestIt:
            @classmethod
            def setup_class(cls): keep(unix())

            def test_it(self, uds_path, of_module): pass

            def test_late(self, uds_path, request): request.getfixturevalue("of_session")

            @pytest.mark.xfail(raises=ValueError)
            def test_raising(self, uds_path, of_class): pass

        def test_after(uds_path): pass
        """
    ).assert_outcomes(passed=4, xfailed=1)


def test_what_unchecked_tests_and_hooks_have_made(check):
    check(
        """
        def test_unchecked(): keep(unix())

        def test_it(uds_path): pass

        @pytest.mark.uds_leaks("off")
        def test_off(uds_path): keep(unix())

        def test_after(uds_path): pass
        """
    ).assert_outcomes(passed=4)


def test_garbage_and_other_families(check):
    check(
        """
        def test_cycle(uds_path):
            class Cycle: pass
            it = Cycle()
            it.itself, it.sock = it, unix()

        def test_tcp(uds_path):
            keep(socket.socket())
            KEPT.append(os.open("/", os.O_RDONLY))
        """,
        "-W",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ).assert_outcomes(passed=2)


def test_a_connection_that_a_servers_thread_is_about_to_close(check, pytester):
    pytester.makeconftest("from pytest_udslab import leaks\nleaks._GRACE = 30.0\n")  # the machine may be busy
    check(
        """
        import time

        @pytest.fixture(scope="module")
        def server(tmp_path_factory):
            path = os.environ["WHERE"]
            with unix() as listener:
                listener.bind(path)
                listener.listen()
                def serve():
                    while True:
                        connection = listener.accept()[0]
                        while connection.recv(1) == b"x":
                            connection.sendall(b"y")
                        time.sleep(0.05)
                        connection.close()
                threading.Thread(target=serve, daemon=True).start()
                yield

        @pytest.mark.parametrize("number", [1, 2])
        def test_it(server, uds_path, number):
            with unix() as client:
                client.connect(uds_path)
                client.sendall(b"x")
                assert client.recv(1) == b"y"
        """
    ).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "source",
    [
        """
        @pytest.fixture
        def mine(uds):
            with uds.process([sys.executable, "-c", PROGRAM, "{socket}"], expect_left=True):
                yield

        def test_it(mine): pass
        """,
        """
        def test_it(uds):
            with uds.server("echo", backend="process"): pass
        """,
        """
        def test_it(make_uds_server): make_uds_server("echo", backend="process")
        """,
    ],
    ids=["uds.process", "uds.server", "make_uds_server"],
)
def test_what_the_lab_opens_for_the_rest_of_the_run_whoever_asks_first(check, source):
    listen = "import socket, sys, time; s = socket.socket(1); s.bind(sys.argv[1]); s.listen(); time.sleep(99)"
    source = f"    PROGRAM = {listen!r}\n" + source.replace("\n    ", "\n") + "\n    def test_next(): pass\n"
    check(source).assert_outcomes(passed=2)


SERVED = """
    def slow(connection):
        while connection.recv(1): pass
        GO_ON.wait(60)

    async def slow_too(reader, writer):
        while await reader.read(1): pass
        while not GO_ON.is_set():
            await asyncio.sleep(0.01)

    import asyncio
    from udslab.server import serve
    GO_ON = threading.Event()

    @pytest.fixture(scope="module", params=["echo", "datagram", "handler", "coroutine", "serve"])
    def server(request, uds):
        options = {
            "echo": {},
            "datagram": {"type": "datagram"},
            "handler": {"handler": slow},
            "coroutine": {"handler": slow_too},
        }
        GO_ON.clear()
        with uds.path() as path:
            if request.param == "serve":
                made = serve(path)
                made.path, made.restart = path, lambda: None
            else:
                made = uds.server(address=path, **options[request.param])
            with made as server:
                yield server
                GO_ON.set()

    def type_of(server):
        return socket.SOCK_DGRAM if str(server.type) == "dgram" else socket.SOCK_STREAM

    @pytest.fixture(scope="module")
    def pool(server):
        with unix(type_of(server)) as client:
            client.connect(server.path)
            yield client
"""


def test_what_a_server_of_a_higher_scope_has_open(check):
    result = check(
        SERVED
        + """
    def test_client(server, uds_path, pool):
        pool.send(b"x")

    def test_restart(server, uds_path):
        GO_ON.set()
        server.restart()
        GO_ON.clear()

    def test_client_of_that(server, uds_path):
        with unix(type_of(server)) as client:
            client.connect(server.path)
            client.send(b"x")

    def test_other_sockets_of_the_test(server, uds_path):
        keep(unix())
    """
    )
    result.assert_outcomes(passed=20, errors=5)
    assert {name.partition("[")[0] for name in told(result)} == {"test_other_sockets_of_the_test"}


def test_a_server_that_the_test_itself_leaves_running_is_told(check):
    result = check(
        """
        @pytest.fixture(scope="module")
        def stopped(uds):
            with uds.server("echo") as server:
                yield server

        def test_left(uds):
            KEPT.append(uds.server("echo"))
            KEPT[0].__enter__()

        def test_next(uds_path): pass

        def test_stopped(stopped):
            stopped.stop()
            keep(unix()).bind(stopped.path)

        def test_end():
            KEPT[0].__exit__(None, None, None)
        """
    )
    result.assert_outcomes(passed=4, errors=2)
    left = told(result)
    assert left.keys() == {"test_left", "test_stopped"}
    assert sum("listening at" in line for line in left["test_left"]) == 1
    assert len(left["test_left"]) == 3


def test_event_loops(check):
    check(
        """
        import asyncio, time

        def test_asyncio(uds_path):
            loop = asyncio.new_event_loop()
            KEPT.append(loop)
            loop.run_until_complete(asyncio.sleep(0))

        def test_in_the_making(uds_path, monkeypatch):
            made = threading.Event()
            pair = socket.socketpair
            def slow(*arguments, **options):
                both = pair(*arguments, **options)
                made.set()
                time.sleep(0.1)
                return both
            monkeypatch.setattr(socket, "socketpair", slow)
            threading.Thread(target=lambda: KEPT.append(asyncio.new_event_loop())).start()
            made.wait()

        def test_guest(uds_path):
            trio = pytest.importorskip("trio")
            started = threading.Event()
            async def main():
                started.set()
                await trio.sleep_forever()
            threading.Thread(target=trio.run, args=(main,), daemon=True).start()
            assert started.wait(10)

        def test_portal(uds_path):
            import anyio.from_thread
            portal = anyio.from_thread.start_blocking_portal()
            portal.__enter__()
            KEPT.append(portal)

        @pytest.mark.uds_leaks("off")
        def test_portal_ends():  # or its thread would not let the process end
            KEPT.pop().__exit__(None, None, None)

        def test_run(uds_path):
            asyncio.run(asyncio.sleep(0))

        def test_leak(uds_path):
            loop = asyncio.new_event_loop()
            KEPT.append(loop)
            async def connect():
                reader, writer = await asyncio.open_unix_connection(sock=socket.socketpair()[0])
                KEPT.append(writer)
            loop.run_until_complete(connect())
        """,
        "-W",
        "ignore",
    ).assert_outcomes(passed=7, errors=1)


def test_pytest_asyncio(check):
    result = check(
        """
        import asyncio, pytest_asyncio

        @pytest_asyncio.fixture(scope="session", loop_scope="session")
        async def server():
            server = await asyncio.start_unix_server(lambda r, w: w.close(), os.environ["WHERE"])
            async with server:
                yield

        @pytest.mark.asyncio
        async def test_function(uds_path): await asyncio.sleep(0)

        @pytest.mark.asyncio(loop_scope="session")
        @pytest.mark.parametrize("number", [1, 2])
        async def test_session(server, uds_path, number):
            reader, writer = await asyncio.open_unix_connection(uds_path)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

        @pytest.mark.asyncio
        async def test_leak(uds_path): keep(unix())
        """,
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        plugins=("pytest_asyncio.plugin",),
    )
    result.assert_outcomes(passed=4, errors=1)
    assert list(told(result)) == ["test_leak"]


def test_anyio(check):
    result = check(
        """
        import anyio

        @pytest.fixture(scope="module", params=["asyncio", "trio"])
        def anyio_backend(request): return request.param

        @pytest.fixture(scope="module")
        async def listener(anyio_backend):
            async with await anyio.create_unix_listener(os.environ["WHERE"]) as listener:
                yield listener

        @pytest.mark.anyio
        async def test_it(listener, uds_path):
            async with await anyio.connect_unix(uds_path) as stream, await listener.accept() as other:
                await stream.send(b"x")
                assert await other.receive() == b"x"

        @pytest.mark.anyio
        async def test_leak(uds_path): keep(unix())
        """,
        plugins=("anyio",),
    )
    result.assert_outcomes(passed=4, errors=2)
    assert list(told(result)) == ["test_leak[asyncio]", "test_leak[trio]"]


def test_log_handlers(check):
    result = check(
        """
        import logging.handlers, socket

        def test_syslog(uds_path):
            server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with server:
                server.bind(uds_path)
                handler = logging.handlers.SysLogHandler(uds_path)
                logging.getLogger("x").addHandler(handler)
                logging.getLogger("x").error("hello")

        def test_stream(uds_path):
            with unix() as server:
                server.bind(uds_path + "s")
                server.listen()
                handler = logging.handlers.SocketHandler(uds_path + "s", None)
                logging.getLogger("y").addHandler(handler)
                logging.getLogger("y").error("hello")
                assert handler.sock
        """
    )
    result.assert_outcomes(passed=2)


def test_multiprocessing(check):
    check(
        """
        import multiprocessing, os
        from multiprocessing import reduction, resource_sharer, shared_memory

        @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
        def test_process_and_tracker(uds_path, method):
            context = multiprocessing.get_context(method)
            process = context.Process(target=os.getpid)
            process.start()
            process.join()
            memory = shared_memory.SharedMemory(create=True, size=1)
            memory.close()
            memory.unlink()
            KEPT.append(context.Semaphore())

        def test_manager(uds_path):
            manager = multiprocessing.get_context("spawn").Manager()
            shared = manager.dict()
            shared[1] = 2
            KEPT.extend([manager, shared])

        def test_sharer(uds_path):
            KEPT.append(resource_sharer.DupFd(0))

        def test_pipe(uds_path):
            KEPT.extend(multiprocessing.Pipe())
        """,
        "-W",
        "ignore",
    ).assert_outcomes(passed=6, errors=1)


def test_desktop_clients(check):
    result = check(
        """
        @pytest.fixture(scope="module")
        def listen():
            def listen(address):
                s = unix()
                s.bind(address)
                s.listen()
                KEPT.append(s)
                return address
            names = [f"\\0/tmp/.X11-unix/X{os.getpid()}", os.environ["WHERE"], f"\\0bus-{os.getpid()}"]
            names += [os.path.dirname(os.environ["WHERE"]) + "/wayland-0"]
            return [listen(name) for name in names]

        def test_x11(listen, uds_path): keep(unix()).connect(listen[0])

        def test_dbus(listen, uds_path, monkeypatch):
            monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={listen[1].replace('/', '%2F')},guid=1")
            keep(unix()).connect(listen[1])

        def test_abstract_dbus(listen, uds_path, monkeypatch):
            name = listen[2][1:]
            monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"tcp:host=x;unix:guid=1,abstract={name}")
            keep(unix()).connect(listen[2])

        def test_wayland(listen, uds_path, monkeypatch):
            monkeypatch.setenv("XDG_RUNTIME_DIR", os.path.dirname(listen[3]))
            keep(unix()).connect(listen[3])

        def test_another_is_told(listen, uds_path): keep(unix()).connect(listen[2])
        """
    )
    result.assert_outcomes(passed=5, errors=1)
    assert list(told(result)) == ["test_another_is_told"]


@pytest.mark.parametrize(
    "name",
    [
        "/run/dbus/system_bus_socket",
        "/run/user/1000/bus",
        "/tmp/.X11-unix/X0",
        "@/tmp/.ICE-unix/1234",
        "/dev/log",
        "/run/systemd/journal/dev-log",
        "/var/run/nscd/socket",
        "/var/lib/sss/pipes/nss",
    ],
)
def test_well_known_paths(name):
    assert leaks._matches(Address.parse(name), leaks._WELL_KNOWN)


# Beside other plugins


def test_xdist(check):
    source = """
    @pytest.mark.parametrize("number", range(8))
    def test_it(number, uds_path):
        if number % 2:
            keep(unix())
    """
    result = check(source, "-n", "2", plugins=("xdist",))
    result.assert_outcomes(passed=8, errors=4)
    assert sorted(told(result)) == [f"test_it[{number}]" for number in (1, 3, 5, 7)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_order(check, seed):
    result = check(MODES, f"--randomly-seed={seed}", plugins=("pytest_randomly",))
    result.assert_outcomes(passed=6, errors=3, warnings=1)
    assert told(result).keys() == {"test_with", "test_make", "test_all", "test_warn"}


def test_no_real_file_system_time_or_sockets_in_the_test(check):
    result = check(
        """
        import freezegun, time

        @pytest.fixture(scope="module", autouse=True)
        def frozen():
            with freezegun.freeze_time("2000-01-01"):
                yield

        @pytest.fixture(scope="module", autouse=True)
        def fake(fs_module): pass

        def test_clean(uds_path):
            assert not os.path.exists("/proc/self/fd")
            time.sleep = None

        @pytest.mark.enable_socket
        def test_leak(uds_path): keep(unix())

        def test_after(uds_path): pass

        def test_no_socket_can_be_made(uds_path, request):
            keep(unix())
            request.getfixturevalue("socket_disabled")
        """,
        plugins=("pyfakefs.pytest_plugin", "pytest_socket"),
    )
    result.assert_outcomes(passed=4, errors=2)
    assert list(told(result)) == ["test_leak", "test_no_socket_can_be_made"]
