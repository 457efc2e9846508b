"""One suite in each backend: what passes in one passes in all, or is skipped with the reason; also in asynchronous
tests, beside other plugins, and spread over processes."""

from __future__ import annotations

import textwrap

import pytest

SUITE = """
    def ask(client, text=b"hello"):
        client.sendall(text)
        return client.recv(100)

    def test_default(uds_server, uds_client, uds_backend):
        assert uds_server.backend == uds_backend
        assert ask(uds_client) == b"HELLO"
        assert uds_server.received == b"hello"

    @pytest.mark.uds(service="echo")
    def test_service(uds_client): assert ask(uds_client) == b"hello"

    @pytest.mark.parametrize("uds_type", ["datagram", "seqpacket"])
    def test_types(uds_server, uds_client, uds_type):
        for text in (b"a", b"bc"):
            assert ask(uds_client, text) == text.upper()
        assert uds_server.received == b"abc"

    def test_path(make_uds_server, make_uds_client, make_uds_path):
        path = make_uds_path("größer", mode=0o755)
        server = make_uds_server("echo", path)
        assert server.path == path and server.status().serving
        assert ask(make_uds_client(path)) == b"hello"

    def test_many(make_uds_server, make_uds_client):
        servers = [make_uds_server("echo") for _ in range(3)]
        assert len({server.path for server in servers}) == 3
        for server in servers:
            assert ask(make_uds_client(server)) == b"hello"

    @pytest.mark.uds(service="whoami")
    def test_credentials(uds_server, uds_client, uds_backend):
        assert f"uid {os.getuid()}" in uds_client.read_line().decode()
        found, = uds_server.connections
        assert found.credentials.uid == os.getuid()
        assert found.credentials.pid == (0 if uds_backend == "container" else os.getpid())

    def test_stop_and_restart(uds_server, make_uds_client):
        assert ask(make_uds_client(uds_server), b"one") == b"ONE"
        uds_server.stop()
        with pytest.raises(FileNotFoundError):
            make_uds_client(uds_server)
        uds_server.restart()
        assert ask(make_uds_client(uds_server), b"two") == b"TWO"
        assert uds_server.received == b"onetwo"

    def test_unknown(make_uds_server):
        with pytest.raises(ValueError, match="there is no service 'nothing'"):
            make_uds_server("nothing")

    def test_in_use(make_uds_server, uds_server):
        with pytest.raises(OSError, match="EADDRINUSE"):
            make_uds_server("echo", uds_server.path)

    @pytest.mark.uds(needs="kill")
    def test_kill(uds_server, uds_client):
        assert ask(uds_client) == b"HELLO"
        uds_server.kill()
        assert uds_client.recv(1) == b""
        assert uds_server.status().state == "stale"

    @pytest.mark.uds(needs="pause")
    def test_pause(uds_server, uds_client):
        assert ask(uds_client) == b"HELLO"
        uds_server.pause()
        uds_client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            ask(uds_client, b"late")
        uds_server.resume()
        uds_client.settimeout(30)
        assert uds_client.recv(10) == b"LATE"

    @pytest.mark.uds(needs="abstract")
    def test_abstract(make_uds_server, make_uds_client):
        assert ask(make_uds_client(make_uds_server("echo", abstract=True))) == b"hello"

    @pytest.mark.uds(needs="handler")
    def test_handler(make_uds_server, make_uds_client):
        assert ask(make_uds_client(make_uds_server(handler=lambda c: c.sendall(c.recv(9)[::-1])))) == b"olleh"

    def test_fails(uds_server, uds_client):
        assert ask(uds_client) == b"HELLO"
        assert 0, "as it shall"
"""

LACKS = {
    "thread": {"kill": "a thread cannot be killed", "pause": "a thread cannot be stopped for a while"},
    "process": {"handler": "a handler is a function of this process"},
    "container": {
        "abstract": "a container's network namespace has abstract names of its own",
        "handler": "a handler is a function of this process",
    },
}

ASYNC_SUITE = """
    import asyncio
    async def ask_stream(path):
        import anyio

        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"hello")
            return await stream.receive()

    class TestAnyio:
        @pytest.mark.anyio
        async def test_server(self, uds_server, anyio_backend_name):
            assert anyio_backend_name in ("asyncio", "trio")
            assert await ask_stream(uds_server.path) == b"HELLO"
            assert uds_server.received == b"hello"

        @pytest.mark.anyio
        async def test_factory(self, make_uds_server, uds_path):
            for each in (make_uds_server("echo", uds_path), make_uds_server("echo")):
                assert await ask_stream(each.path) == b"hello"
            each.stop()

        @pytest.mark.anyio
        async def test_process(self, make_uds_process, anyio_backend_name):
            process = make_uds_process([sys.executable, "server.py", "{socket}"])
            import anyio

            async with await anyio.connect_unix(process.path) as stream:
                await stream.send(b"hello\\n")
                assert await stream.receive() == b"hello\\n"

    class TestAsyncio:
        @pytest.mark.asyncio
        async def test_server(self, uds_server):
            reader, writer = await asyncio.open_unix_connection(uds_server.path)
            writer.write(b"hello")
            assert await reader.read(10) == b"HELLO"
            writer.close()
            await writer.wait_closed()

        @pytest.mark.asyncio
        async def test_client(self, uds_client):
            loop = asyncio.get_running_loop()
            uds_client.setblocking(False)
            await loop.sock_sendall(uds_client, b"hello")
            assert await loop.sock_recv(uds_client, 10) == b"HELLO"
"""
HANDLERS = """
    class TestHandlers:
        @pytest.mark.anyio
        async def test_coroutine(self, make_uds_server):
            async def handle(reader, writer):
                writer.write((await reader.read(10))[::-1])

            server = make_uds_server(handler=handle)
            assert await ask_stream(server.path) == b"olleh"

        @pytest.mark.anyio
        async def test_failing(self, make_uds_server):
            import anyio

            def handle(connection):
                connection.sendall(connection.recv(10))
                raise ValueError("of the handler")

            async with await anyio.connect_unix(make_uds_server(handler=handle).path) as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
                with pytest.raises(anyio.EndOfStream):  # by then the handler has failed
                    await stream.receive()
"""


def check_suite(inner, backend: str, *options: str, **keywords) -> pytest.RunResult:
    result = inner(SUITE, f"--uds-backend={backend}", "-rs", *options, **keywords)
    lacks = LACKS[backend]
    result.assert_outcomes(passed=14 - len(lacks), skipped=len(lacks), failed=1)
    skipped = inner.lines_with("SKIPPED [")
    for need, why in lacks.items():
        wanted = f": it needs {need}, which the backend {backend} has not: {why}"
        assert any(line.endswith(wanted) for line in skipped), (wanted, skipped)
    assert "AssertionError: as it shall" in inner.errors()
    return result


def test_the_same_tests_pass_in_each_backend(inner, backend):
    check_suite(inner, backend)


def check_async(inner, backend: str, source: str) -> pytest.RunResult:
    return inner(
        source,
        f"--uds-backend={backend}",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        plugins=("pytest_asyncio.plugin", "anyio"),
        files={
            "conftest": """
            import pytest

            @pytest.fixture(params=["asyncio", "trio"])
            def anyio_backend(request): return request.param
            """
        },
    )


def test_the_same_in_asynchronous_tests(inner, backend):
    check_async(inner, backend, ASYNC_SUITE).assert_outcomes(passed=8)


def test_handlers_in_asynchronous_tests(inner):
    result = check_async(inner, "thread", ASYNC_SUITE + HANDLERS)
    result.assert_outcomes(passed=10, failed=2)
    assert inner.errors() == ["ValueError: of the handler"] * 2


def test_tests_of_trio_itself(inner, backend):
    inner(
        """
        import trio

        def test_it(uds_server):
            async def main():
                stream = await trio.open_unix_socket(uds_server.path)
                async with stream:
                    await stream.send_all(b"hello")
                    return await stream.receive_some(10)

            assert trio.run(main) == b"HELLO"
        """,
        f"--uds-backend={backend}",
    ).assert_outcomes(passed=1)


# Beside other plugins


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_with_a_timeout(inner, backend, method):
    check_suite(inner, backend, "--timeout=60", f"--timeout-method={method}", plugins=("pytest_timeout",))


def test_a_timeout_ends_a_test_that_waits_and_all_is_undone(inner, backend):
    result = inner(
        """
        KEPT = []

        @pytest.fixture
        def process(uds_server, make_uds_process):
            KEPT.extend([uds_server, make_uds_process([sys.executable, "server.py", "{socket}"])])

        @pytest.mark.timeout(0.3, func_only=True)
        def test_waits(uds_client, process):
            uds_client.recv(1)

        def test_after():
            assert len(KEPT) == 2
            assert not [each.path for each in KEPT if os.path.lexists(each.path)]

        def test_it_goes_on(uds_client):
            uds_client.sendall(b"x")
            assert uds_client.recv(1) == b"X"
        """,
        f"--uds-backend={backend}",
        plugins=("pytest_timeout",),
    )
    result.assert_outcomes(failed=1, passed=2)
    assert inner.errors() == ["Failed: Timeout (>0.3s) from pytest-timeout."]


def test_with_frozen_time(inner, backend):
    frozen = """
        import freezegun

        @pytest.fixture(autouse=True)
        def frozen():
            with freezegun.freeze_time("2000-01-01"):
                yield
            assert time.time() > 1e9

        def test_it_is_frozen(uds_server, uds_client, make_uds_process):
            assert time.time() == 946684800
            process = make_uds_process([sys.executable, "server.py", "{socket}"])
            assert process.stop() == 0
            uds_client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                uds_client.recv(1)
            assert time.time() == 946684800
    """
    inner(frozen, f"--uds-backend={backend}").assert_outcomes(passed=1)
    result = inner(textwrap.dedent(frozen) + textwrap.dedent(SUITE), f"--uds-backend={backend}")
    lacks = len(LACKS[backend])
    result.assert_outcomes(passed=15 - lacks, skipped=lacks, failed=1)


def test_with_a_fake_file_system_in_the_test(inner, backend):
    inner(
        """
        @pytest.mark.parametrize("number", range(2))
        def test_it(uds_server, uds_client, uds_path, fs, number):
            assert not os.path.exists(uds_server.path)
            open("/here", "w").close()
            uds_client.sendall(b"hello")
            assert uds_client.recv(10) == b"HELLO"
            assert uds_server.received == b"hello"

        def test_fails(uds_server, uds_client, uds_path, fs):
            assert 0

        def test_after(uds_path):
            assert not os.path.exists("/here")
            assert os.path.isdir(os.path.dirname(uds_path))
        """,
        f"--uds-backend={backend}",
        plugins=("pyfakefs.pytest_plugin",),
    ).assert_outcomes(passed=3, failed=1)


def test_where_files_are_not_real_nothing_is_made(inner, backend):
    """And nothing of it is kept for the tests behind it."""
    inner(
        """
        def test_before(fs, uds_client): pass

        def test_serves(uds_client): pass

        def test_before_a_path(make_uds_path, uds_backend, fs): make_uds_path("other")

        def test_serves_again(uds_client, uds_path): pass
        """,
        f"--uds-backend={backend}",
        plugins=("pyfakefs.pytest_plugin",),
    ).stdout.fnmatch_lines(
        [
            "the lab's sockets and processes are real, and files are not (pyfakefs): name fs behind *",
            "E *NoSuchPath: *: is it removed by a test? with pyfakefs, make all paths before fs",
            "*= 1 failed, 2 passed, 1 error in *",
        ]
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_in_any_order(inner, backend, seed):
    result = check_suite(inner, backend, "-p", "no:doctest", f"--randomly-seed={seed}", plugins=("pytest_randomly",))
    assert f"Using --randomly-seed={seed}" in result.outlines


def test_where_no_other_sockets_may_be_made(inner, backend):
    options = ("--disable-socket", "--allow-unix-socket")
    check_suite(inner, backend, *options, plugins=("pytest_socket",), forked=True)


# Spread over processes


def check_spread(inner, backend: str, dist: str, workers: int) -> None:
    options = ("-v", "-n", str(workers), f"--dist={dist}")
    result = check_suite(inner, backend, *options, plugins=("xdist",), forked=True)
    result.stdout.fnmatch_lines([f"{workers} workers *"])


@pytest.mark.parametrize(("dist", "workers"), [("load", 8), ("loadfile", 2), ("loadscope", 2), ("worksteal", 2)])
def test_spread_over_workers(inner, dist, workers):
    check_spread(inner, "process", dist, workers)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("dist", "workers"), [("load", 2), ("worksteal", 8)])
def test_spread_over_workers_with_containers(inner, dist, workers):
    check_spread(inner, "container", dist, workers)
