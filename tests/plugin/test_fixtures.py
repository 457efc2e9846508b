"""The fixtures: what each gives, what it undoes, and what a user reads when it fails."""

from __future__ import annotations

import grp
import os
import re
import sys
from pathlib import Path

import pytest

from udslab.obstacles import Obstacle
from udslab.processes import RunningProcess

DOCUMENT = (Path(__file__).parent.parent.parent / "docs/fixtures.md").read_text()


@pytest.fixture
def short_grace(monkeypatch):
    """Who is stubborn is killed soon, instead of after five seconds; all others may be slow, on a busy machine."""
    stop = RunningProcess.stop
    monkeypatch.setattr(RunningProcess, "stop", lambda self: stop(self, 0.2 if "stubborn" in self.command else 60.0))


def test_each_error_is_shown_at_the_line_of_the_test_that_asked(inner):
    source = """
        def test_path(make_uds_path): make_uds_path("n" * 200)

        def test_no_name(make_uds_path): make_uds_path("a/b")

        def test_server(make_uds_server): make_uds_server("nothing")

        def test_module(make_uds_server): make_uds_server("missing_module:name")

        def test_no_service(make_uds_server): make_uds_server("os:name")

        def test_both(make_uds_server): make_uds_server("echo", handler=print)

        def test_datagrams(make_uds_server): make_uds_server(handler=print, type="datagram")

        def test_in_use(make_uds_server, uds_server): make_uds_server(path=uds_server.path)

        def test_client(make_uds_client, uds_path): make_uds_client(uds_path)

        def test_type(make_uds_client, uds_server): make_uds_client(uds_server.path, type="seqpacket")

        def test_process(make_uds_process): make_uds_process("no-such-program {socket}")

        def test_obstacle(make_uds_obstacle, uds_server): make_uds_obstacle("fifo", uds_server.path)
    """
    result = inner(source)
    result.assert_outcomes(failed=12)
    told = inner.errors()
    room = re.search(r"at most (\d+) bytes", told[0])
    assert room
    assert 48 <= int(room[1]) < 100
    found = f"no path can be made of this name (ENAMETOOLONG): give a file name of at most {room[1]} bytes"
    words = "it is one of upper, echo, discard, chargen, whoami, or module:name"
    error = "udslab.errors."
    assert told == [
        f"{error}AddressError: address: /UDS/{'n' * 200}: {found}",
        f"{error}AddressError: address: 'a/b': no path can be made of this name (EINVAL): "
        "give the name of a file, without a slash or a NUL",
        f"{error}ServiceError: service: there is no service 'nothing' (EINVAL): {words}",
        f"{error}ServiceError: service: the service 'missing_module:name' cannot be imported: "
        "No module named 'missing_module' (EINVAL): it is module:name",
        f"{error}ServiceError: service: the service 'os:name' is no service but str (EINVAL): see udslab.services",
        "TypeError: a server has a service or a handler, not both",
        "TypeError: a handler has a connection, and datagrams have none; give a service",
        f"{error}AddressInUse: bind: /UDS/s: Address already in use (EADDRINUSE): "
        "a stream server listens there; stop it first, or choose another path",
        f"{error}NoSuchPath: connect: /UDS/s: No such file or directory (ENOENT): "
        "no server has bound this path; is it started, and is the path right?",
        f"{error}WrongType: connect: /UDS/s: Protocol wrong type for socket (EPROTOTYPE): "
        "the socket there is of another type; see which: udslab status /UDS/s",
        f"{error}NoSuchPath: agent: no-such-program: No such file or directory (ENOENT): is it installed there?",
        f"{error}AddressInUse: bind: /UDS/s: Address already in use (EADDRINUSE): "
        "something is there already; see what: udslab status /UDS/s",
    ]
    for name, kind in (("path", "AddressError"), ("server", "ServiceError"), ("client", "NoSuchPath")):
        result.stdout.fnmatch_lines([f"test_x.py:{inner.line(f'def test_{name}(')}: {kind}"])
    assert not insides(result)


def insides(result):
    """The lines about places in the lab or in Python's own library."""
    return [line for line in result.outlines if re.match(r"/\S+\.py:\d+: ", line)]


def test_a_wrong_argument_is_shown_at_the_line_of_the_test_alone(inner):
    source = """
        from udslab.ready import LogLine
        from udslab.testing import assert_gone, assert_in_use, assert_serving, assert_stale, assert_untouched

        RUN = [sys.executable, "server.py", "{socket}"]

        def test_type(make_uds_server): make_uds_server(type="flat")

        def test_type_of_a_client(make_uds_client, uds_path): make_uds_client(uds_path, type="flat")

        def test_option(make_uds_server): make_uds_server(colour="red")

        def test_option_of_a_process(make_uds_process): make_uds_process(RUN, colour="red")

        def test_obstacle(make_uds_obstacle): make_uds_obstacle("wall")

        def test_group(make_uds_path): make_uds_path(group="no such group")

        def test_regex(make_uds_process): make_uds_process(RUN, ready=LogLine("("))

        def test_ready(make_uds_process): make_uds_process(RUN, ready="listening")

        def test_kill(uds_server): uds_server.kill()

        def test_pause(uds_server): uds_server.pause()

        def test_serving(uds_path): assert_serving(uds_path)

        def test_in_use(uds_path): assert_in_use(uds_path)

        def test_stale(uds_path): assert_stale(uds_path)

        def test_gone(uds_server): assert_gone(uds_server.path)

        def test_untouched(uds_path):
            with assert_untouched(uds_path): open(uds_path, "w").close()

        @pytest.mark.parametrize("uds_type", ["flat"])
        def test_word_of_a_fixture(uds_server): pass

        @pytest.mark.parametrize("uds_backend", ["moon"])
        def test_backend(make_uds_path): pass

        @pytest.mark.parametrize("uds_audit", ["no-such-probe"], indirect=True)
        def test_probe(uds_audit): pass
    """
    result = inner(source)
    result.assert_outcomes(failed=15, errors=3)
    ends = [line for line in result.outlines if re.match(r"test_x\.py:\d+: \w", line)]
    assert len(ends) == 15
    assert not insides(result)
    for said in (
        "test_x.py::test_word_of_a_fixture[[]flat]: uds_type is one of stream, dgram, seqpacket, not 'flat'",
        "test_x.py::test_backend[[]moon]: uds_backend is one of thread, process, container, not 'moon'",
        "no probe is called 'no-such-probe'; they are: fresh-start, *",
        "E*TypeError: ready is one of Listening(), LogLine(), *, of udslab.ready, or a list of them",
    ):
        result.stdout.fnmatch_lines([said])


def test_an_error_of_the_users_own_code_is_shown_with_its_way_and_so_is_all_with_full_trace(inner):
    own = """
        from udslab.ready import Check

        def test_it(make_uds_process):
            make_uds_process([sys.executable, "server.py", "{socket}"], ready=Check(lambda path: {}[path]))
    """
    assert insides(inner(own))
    wrong = """
        def test_it(make_uds_server): make_uds_server(type="flat")
    """
    assert any("lab.py" in line for line in insides(inner(wrong, "--full-trace")))


def test_what_a_backend_cannot_do_is_shown_in_a_fixture_of_ones_own_where_it_was_asked_for(inner):
    source = """
        @pytest.fixture(scope="module")
        def handling(uds):
            with uds.server(handler=print) as server:
                yield server

        @pytest.fixture(scope="module")
        def abstract(uds):
            with uds.server(abstract=True) as server:
                yield server

        def test_handling(handling): pass

        def test_abstract(abstract): pass
    """
    result = inner(source, "--uds-backend=container")
    result.assert_outcomes(errors=2)
    first, second = inner.errors()
    assert first.startswith("udslab.errors.Unsupported: service: handler is not to be had in a container")
    assert second.startswith("udslab.errors.Unsupported: service: abstract is not to be had in a container")
    frames = [line for line in result.outlines if re.fullmatch(r"/?\S+\.py:\d+: .*", line)]
    assert frames == [f"test_x.py:{inner.line(f'with uds.server({what}')}: Unsupported" for what in ("h", "a")]


# uds


def test_fixtures_of_any_scope_are_made_of_uds(inner):
    inner(
        """
        @pytest.fixture(scope="session")
        def path(uds):
            with uds.path("mine") as path:
                yield path
            assert not os.path.exists(path)

        @pytest.fixture(scope="session")
        def server(uds, path):
            with uds.server("echo", path) as server:
                yield server

        @pytest.fixture(scope="module")
        def process(uds):
            with uds.process([sys.executable, "server.py", "{socket}"]) as process:
                yield process

        SEEN = set()

        @pytest.mark.parametrize("number", range(3))
        def test_it(uds, server, process, path, number, make_uds_client):
            assert (server.path, os.path.basename(path)) == (path, "mine")
            SEEN.add((server.path, process.pid))
            assert len(SEEN) == 1
            for each in (server, process):
                with uds.connect(each.path) as client:
                    client.sendall(b"one line\\n")
                    assert client.read_line() == b"one line\\n"
            assert len(server.connections) == number + 1
        """
    ).assert_outcomes(passed=3)


LEAVING = """
    def serve(uds, *words, **options):
        return uds.process([sys.executable, "server.py", "{socket}", *words], **options)

    @pytest.fixture(scope="session")
    def of_session(uds):
        with serve(uds, "leave") as process: yield

    @pytest.fixture(scope="class")
    def of_class(uds):
        with serve(uds, "stubborn") as process: yield

    @pytest.fixture
    def of_test(uds):
        with serve(uds, "leave", "too") as process: yield

    @pytest.fixture(scope="session")
    def expected(uds):
        with serve(uds, "leave", expect_left=True) as process: yield

    class TestIt:
        def test_first(self, of_session, of_class, expected): pass

        def test_second(self, of_class): pass

    def test_it(of_test): pass

    @pytest.mark.uds_leaks("off")
    def test_off(of_test): pass

    def test_clean(uds):
        with serve(uds): pass

    def test_last(): pass
"""


def test_what_a_server_of_any_scope_leaves_is_told_after_the_test_with_which_it_ends(inner, short_grace):
    result = inner(LEAVING, "--tb=short")
    result.assert_outcomes(passed=6, errors=3)
    mine = f"{sys.executable} server.py /UDS/s"
    told = [
        "test_x.py::TestIt::test_second left behind:",
        f"  process N ({mine} stubborn), which had to be killed, left by <process N: {mine} stubborn>",
        "test_x.py::test_it left behind:",
        f"  socket file /UDS/s (stale), left by <process N: {mine} leave too>",
        "test_x.py::test_last left behind:",
        f"  socket file /UDS/s (stale), left by <process N: {mine} leave>",
    ]
    assert [line for line in inner.lines_with("left b") if not line.startswith("ERROR")] == told
    warn = ("--uds-leaks=warn", "-W", "default::pytest_udslab.leaks.UdsLeakWarning")
    inner(LEAVING, *warn).assert_outcomes(passed=6, warnings=3)
    assert [line.rpartition("UdsLeakWarning: ")[2] for line in inner.lines_with("left b")] == [
        line if line.startswith("test") else f"  {line}" for line in told
    ]
    inner(LEAVING, "--uds-leaks=off").assert_outcomes(passed=6)


# Paths

LONG_NAME = "test_" + "ü" * 295


def test_socket_files_that_are_ignored_are_no_leaks_whoever_leaves_them(inner, tmp_path):
    source = f"""
        def leave(path):
            return [sys.executable, "server.py", path, "leave"]

        def bind(path):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(path)

        @pytest.fixture(params=["ignored", "other"])
        def path(request):
            yield (path := f"{tmp_path}/{{request.param}}.sock")
            os.unlink(path)

        def test_process_of_a_test(path, make_uds_process): make_uds_process(leave(path), path)

        def test_process_of_a_fixture(path, uds):
            with uds.process(leave(path), path): pass

        @pytest.mark.parametrize("name", ["ignored.sock", "other.sock"])
        def test_in_its_directory(make_uds_path, name): bind(make_uds_path(name))
    """
    result = inner(source, "-o", f"uds_leaks_ignore={tmp_path}/ignored.*\n*/udslab-*/ignored.sock")
    result.assert_outcomes(passed=6, errors=3)
    assert len(inner.lines_with("socket file ")) == 3
    result.stdout.no_fnmatch_line("*socket file*ignored.sock*")


def test_a_path_fits_whatever_the_names_are(inner, tmp_path, monkeypatch):
    deep = tmp_path / ("ü" * 60) / ("d" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setenv("SEEN", str(tmp_path))
    source = f"""
        @pytest.mark.parametrize("number", range(4))
        def {LONG_NAME}(uds_path, make_uds_path, number):
            for path in (uds_path, make_uds_path("größer"), make_uds_path("x" * 48)):
                assert len(os.fsencode(path)) < 104
                assert os.listdir(os.path.dirname(path)) == []
                with open(os.environ["SEEN"] + "/paths", "a") as file:
                    file.write(path + "\\n")
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.bind(path)
                os.unlink(path)
    """
    result = inner(source, "-n", "2", plugins=("xdist",), forked=True)
    result.assert_outcomes(passed=4)
    paths = (tmp_path / "paths").read_text().splitlines()
    assert len(set(paths)) == 12
    assert not [path for path in paths if Path(path).parent.parent.exists()]


def test_a_kept_copy_has_a_short_name_whatever_the_tests_is(inner):
    result = inner(
        f"""
        def {LONG_NAME}(uds_path):
            os.mkfifo(uds_path)
            assert 0
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"s\d*: not-a-socket \(FIFO\)$"])
    kept = Path(inner.lines_with("a copy of its files")[0].rpartition(" ")[2])
    assert kept.name == f"test_{'ü' * 25}-uds0"


def test_a_directory_is_private_unless_told_otherwise(inner):
    gid = 4242 if os.geteuid() == 0 else os.getgid()
    name = grp.getgrgid(os.getgid()).gr_name
    inner(
        f"""
        def kind(path):
            found = os.stat(os.path.dirname(path))
            return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid

        def test_it(uds_path, make_uds_path):
            us = os.geteuid(), os.getegid()
            assert kind(uds_path) == (0o700, *us)
            assert kind(os.path.dirname(uds_path))[0] == 0o700
            os.umask(0o077)
            assert kind(make_uds_path(mode=0o1777)) == (0o1777, *us)
            assert kind(make_uds_path(group={gid}, mode=0o750)) == (0o750, us[0], {gid})
            assert kind(make_uds_path(group={name!r})) == (0o700, *us)
            assert kind(uds_path) == (0o700, *us)

        def test_unknown(make_uds_path):
            with pytest.raises(LookupError, match="no-such-group"):
                make_uds_path(group="no-such-group")

        @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
        def test_others(make_uds_path, uds_path):
            path = make_uds_path(mode=0o755)
            for each in (path, uds_path):
                open(each, "x").close()
            ls = subprocess.run(["ls", path, uds_path], user=65534, group=65534, extra_groups=[], capture_output=True,
                                cwd="/")
            assert ls.stdout.decode().split() == [path]
        """
    ).assert_outcomes(passed=2 + (os.geteuid() == 0), skipped=int(os.geteuid() != 0))


def test_after_a_test_nothing_is_at_its_path(inner):
    result = inner(
        """
        PATHS = []

        @pytest.mark.parametrize("number", range(2))
        def test_made(uds_path, make_uds_path, number):
            PATHS.extend([uds_path, make_uds_path("other")])
            for path in PATHS[-2:]:
                os.mkdir(path)
                os.mkfifo(path + "/fifo")

        def test_after():
            assert len(set(PATHS)) == 4
            assert not any(os.path.lexists(path) for path in PATHS)

        def test_removed_by_itself(uds_path):
            os.rmdir(os.path.dirname(uds_path))
        """
    )
    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*a copy of its files*")


def test_a_failed_tests_files_are_kept_and_its_sockets_told(inner):
    source = """
        def test_it(make_uds_path):
            path = make_uds_path("a")
            with open(path, "w") as file:
                file.write("hello")
            with open(path + ".large", "wb") as file:
                file.truncate(1 << 21)
            os.makedirs(os.path.join(os.path.dirname(path), "in", "side"))
            with open(os.path.join(os.path.dirname(path), "in", "side", "b"), "w") as file:
                file.write("there")
            os.symlink("a", path + ".link")
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(path + ".stale")
            listener = socket.socket(socket.AF_UNIX)
            KEPT.append(listener)
            listener.bind(path + ".up")
            listener.listen()
            make_uds_path("nothing")
            assert 0

        KEPT = []

        def test_close(): KEPT[0].close()
    """
    result = inner(source)
    result.assert_outcomes(failed=1, errors=1, passed=1)
    at = next(n for n, line in enumerate(result.outlines) if "- directory of make_uds_path -" in line)
    kept = Path(result.outlines[at + 1].rpartition(" ")[2])
    assert [inner.plain(line) for line in result.outlines[at + 1 : at + 8]] == [
        f"a copy of its files is kept in {kept}",
        "a: 5 bytes",
        "a.large: 2097152 bytes, which is too much to be kept",
        "a.link: not-a-socket (regular file) through a symbolic link",
        "a.stale: stale",
        "a.up: listening stream pid N",
        "in/side/b: 5 bytes",
    ]
    assert sum("- directory of" in line for line in result.outlines) == 1
    files = {str(file.relative_to(kept)): file.read_text() for file in kept.rglob("*") if file.is_file()}
    assert files == {"a": "hello", "in/side/b": "there"}
    by = f"in the directory made by make_uds_path at test_x.py:{inner.line('path = make')}"
    at = result.outlines.index("test_x.py::test_it left behind:")
    assert {inner.plain(line) for line in result.outlines[at + 1 : at + 3]} == {
        f"  socket file /UDS/a.stale (stale), {by}",
        f"  socket file /UDS/a.up (listening stream pid N), {by}",
    }


def test_a_socket_file_is_told_of_in_any_directory_of_the_labs(inner):
    source = """
        import socket

        def leave(path):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(path)

        @pytest.fixture(scope="module")
        def of_module(uds):
            with uds.path() as path:
                yield path

        def test_below(uds_path):
            os.mkdir(uds_path)
            leave(uds_path + "/inner")

        def test_killed(uds):
            with uds.path() as path, uds.server(address=path) as server:
                server.kill()
            with uds.path() as path, uds.process([sys.executable, "server.py", path], path) as process:
                process.kill()

        def test_own(uds):
            with uds.path() as path:
                leave(path)

        def test_of_module(of_module):
            leave(of_module)

        def test_last(): pass
    """
    result = inner(source, "--uds-backend=process")
    result.assert_outcomes(passed=5, errors=3)
    told = [inner.plain(line) for line in result.outlines if line.startswith(("test_x.py::", "  socket file"))]
    assert told == [
        "test_x.py::test_below left behind:",
        "  socket file /UDS/s/inner (stale), in the directory made by make_uds_path",
        "test_x.py::test_own left behind:",
        "  socket file /UDS/s (stale), in the directory made by Lab.path()",
        "test_x.py::test_last left behind:",
        "  socket file /UDS/s (stale), in the directory made by Lab.path()",
    ]


# Servers


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_servers_of_each_type_at_each_kind_of_address(inner, backend):
    inner(
        """
        @pytest.mark.parametrize("uds_type", ["stream", "datagram", "seqpacket"])
        class TestIt:
            def test_pathname(self, uds_server, uds_client, uds_type):
                assert os.path.dirname(uds_server.path) and len(uds_server.path) < 104
                assert stat.S_ISSOCK(os.stat(uds_server.path).st_mode)
                assert uds_server.status().serving
                uds_client.sendall(b"hello")
                assert uds_client.recv(10) == b"HELLO"
                name = {"datagram": "dgram"}.get(uds_type, uds_type)
                assert uds_server.type == name
                assert repr(uds_server) == f"<{name} server on {uds_server.path} in a BACKEND, pid {uds_server.pid}>"

            @pytest.mark.parametrize("given", [True, False])
            def test_abstract(self, make_uds_server, make_uds_client, uds_type, given):
                name = f"@udslab-test-{os.getpid()}-{uds_type}"
                server = make_uds_server("echo", name) if given else make_uds_server("echo", abstract=True)
                assert server.path.startswith("@udslab-") and (server.path == name) == given
                for _ in range(2):
                    client = make_uds_client(server)
                    client.sendall(b"hello")
                    assert client.recv(10) == b"hello"

            def test_own_path(self, make_uds_server, make_uds_client, uds_path, tmp_path):
                for path in (uds_path, os.fsencode(uds_path) + b"2"):
                    client = make_uds_client(make_uds_server("echo", path).path)
                    client.sendall(b"x")
                    assert client.recv(1) == b"x"
        """.replace("BACKEND", backend),
        f"--uds-backend={backend}",
    ).assert_outcomes(passed=12)


SERVICES = """
    import os
    from udslab.services import per_line

    def tell(data):
        print("asked", data.decode(), flush=True)
        umask = os.umask(0o077)
        os.umask(umask)
        return f"{os.environ.get('COLOUR')} {os.getcwd()} {umask:o} {os.getpid()}\\n".encode()

    told = per_line(tell)
    reverse = per_line(lambda line: line[-2::-1] + b"\\n")
"""


def test_a_server_serves_a_service_by_name_by_module_or_itself(inner):
    inner(
        """
        from udslab.services import SERVICES, per_line

        def asked(client):
            client.sendall(b"Abc\\n")
            return client.read_line()

        def test_default(uds_client): assert asked(uds_client) == b"ABC\\n"

        @pytest.mark.uds(service="echo")
        def test_marked(uds_client): assert asked(uds_client) == b"Abc\\n"

        @pytest.mark.uds(service="services:reverse", backend="process")
        def test_marked_module(uds_server, uds_client):
            assert uds_server.pid != os.getpid()
            assert asked(uds_client) == b"cbA\\n"

        @pytest.mark.uds(service=per_line(bytes.lower))
        def test_marked_itself(uds_client): assert asked(uds_client) == b"abc\\n"

        @pytest.mark.parametrize("uds_backend", ["thread", "process"])
        def test_module(make_uds_server, make_uds_client):
            assert asked(make_uds_client(make_uds_server("services:reverse"))) == b"cbA\\n"

        def test_itself(make_uds_server, make_uds_client):
            assert asked(make_uds_client(make_uds_server(SERVICES["echo"]))) == b"Abc\\n"
        """,
        files={"services": SERVICES},
    ).assert_outcomes(passed=7)


def test_a_server_has_the_tests_surroundings(inner):
    inner(
        """
        @pytest.mark.parametrize("colour", ["red", "blue", None])
        @pytest.mark.parametrize("uds_backend", ["thread", "process"])
        def test_it(make_uds_server, make_uds_client, monkeypatch, tmp_path, uds_backend, colour):
            if colour:
                monkeypatch.setenv("COLOUR", colour)
            monkeypatch.chdir(tmp_path)
            old = os.umask(0o027)
            try:
                server = make_uds_server("services:told")
            finally:
                os.umask(old)
            client = make_uds_client(server)
            client.sendall(b"x\\n")
            found, cwd, umask, pid = client.read_line().decode().split()
            assert (found, cwd) == (str(colour), str(tmp_path))
            assert int(pid) == server.pid
            assert (server.pid == os.getpid()) == (uds_backend == "thread")
            if uds_backend == "process":
                assert umask == "27"
        """,
        files={"services": SERVICES},
    ).assert_outcomes(passed=6)


def test_a_server_answers_by_a_function_or_a_coroutine(inner):
    inner(
        """
        def function(connection):
            while line := connection.read_line():
                connection.sendall(b"got " + line)

        async def coroutine(reader, writer):
            while line := await reader.readline():
                writer.write(b"got " + line)
                await writer.drain()

        @pytest.mark.parametrize("handler", [function, coroutine])
        def test_it(make_uds_server, make_uds_client, handler):
            server = make_uds_server(handler=handler)
            for number in (1, 2):
                client = make_uds_client(server)
                client.sendall(b"a line\\n")
                assert client.read_line() == b"got a line\\n"
                assert server.received == b"a line\\n" * number

        def test_packets(make_uds_server, make_uds_client):
            server = make_uds_server(handler=lambda c: c.sendall(c.recv(10)[::-1]), type="seqpacket")
            client = make_uds_client(server)
            client.sendall(b"abc")
            assert client.recv(10) == b"cba"
        """
    ).assert_outcomes(passed=3)


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_server_tells_who_came_and_what_they_sent_before_it_answers(inner, backend):
    inner(
        """
        def test_connections(uds_server, make_uds_client):
            first = make_uds_client(uds_server)
            first.sendall(b"one")
            assert first.recv(10) == b"ONE"
            assert uds_server.received == b"one"
            with make_uds_client(uds_server) as second:
                second.sendall(b"two")
                assert second.recv(10) == b"TWO"
            one, two = uds_server.connections
            assert (one.number, one.received, one.open, one.address) == (1, b"one", True, "(unnamed)")
            us = os.getpid(), os.getuid(), os.getgid()
            assert (one.credentials.pid, one.credentials.uid, one.credentials.gid) == us
            assert (two.number, two.received, two.credentials) == (2, b"two", one.credentials)
            assert uds_server.received == b"onetwo"

        @pytest.mark.uds(service="discard")
        def test_before_any_answer(uds_server, uds_client):
            assert uds_server.received == b""
            uds_client.sendall(b"never answered")
            uds_client.shutdown(socket.SHUT_WR)
            assert uds_client.recv(1) == b""  # it has seen the end
            assert uds_server.received == b"never answered"
            assert [found.open for found in uds_server.connections] == [False]

        def test_bounded(uds_server, uds_client):
            for _ in range(33):
                uds_client.sendall(b"x" * (1 << 15))
                assert len(uds_client.read_exactly(1 << 15)) == 1 << 15
            found, = uds_server.connections
            assert (len(found.received), found.dropped) == (1 << 20, 1 << 15)
            assert len(uds_server.received) == 1 << 20

        @pytest.mark.parametrize("uds_type", ["datagram"])
        def test_datagrams(uds_server, uds_client):
            for text in (b"a", b"b"):
                uds_client.send(text)
                assert uds_client.recv(10) == text.upper()
            assert [found.received for found in uds_server.connections] == [b"a", b"b"]
        """,
        f"--uds-backend={backend}",
    ).assert_outcomes(passed=4)


def test_a_server_is_stopped_killed_paused_and_restarted(inner):
    inner(
        """
        def ask(client, text=b"x"):
            client.sendall(text)
            return client.recv(10)

        @pytest.mark.parametrize("uds_backend", ["thread", "process"])
        def test_stop_and_restart(uds_server, make_uds_client, uds_backend):
            assert ask(make_uds_client(uds_server)) == b"X"
            pid = uds_server.pid
            for _ in range(2):
                uds_server.stop()
            assert not os.path.lexists(uds_server.path)
            assert uds_server.received == b"x"
            uds_server.restart()
            assert ask(make_uds_client(uds_server), b"y") == b"Y"
            uds_server.restart()
            assert ask(make_uds_client(uds_server), b"z") == b"Z"
            assert uds_server.received == b"xyz"
            assert (uds_server.pid == pid) == (uds_backend == "thread")

        @pytest.mark.uds(needs={"kill"})
        def test_kill(uds_server, uds_client, make_uds_client):
            assert ask(uds_client) == b"X"
            uds_server.kill()
            assert uds_server.status().state == "stale"
            assert uds_client.recv(1) == b""
            assert uds_server.received == b"x"
            with pytest.raises(ConnectionRefusedError):
                make_uds_client(uds_server)
            uds_server.restart()
            assert ask(make_uds_client(uds_server)) == b"X"

        @pytest.mark.uds(needs={"kill"})
        def test_killed_and_left(uds_server):
            uds_server.kill()

        @pytest.mark.uds(needs="pause")
        def test_pause(uds_server, uds_client):
            assert ask(uds_client) == b"X"
            uds_server.pause()
            uds_client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                ask(uds_client)
            uds_server.resume()
            uds_client.settimeout(10)
            assert uds_client.recv(10) == b"X"

        @pytest.mark.uds(needs="pause")
        def test_paused_to_the_end(uds_server):
            uds_server.pause()
        """
    ).assert_outcomes(passed=6)


def test_what_a_handler_raises_fails_the_test_itself_with_its_traceback(inner):
    source = """
        def wrong(connection):
            connection.recv(1)
            raise ValueError("not as expected")  # here

        async def wrong_too(reader, writer):
            assert await reader.read(1) == b"y"  # there

        @pytest.mark.parametrize("handler", [wrong, wrong_too])
        def test_passes_otherwise(make_uds_server, make_uds_client, handler):
            client = make_uds_client(make_uds_server(handler=handler))
            client.sendall(b"x")
            assert client.recv(1) == b""

        def test_restarted(make_uds_server, make_uds_client):
            server = make_uds_server(handler=wrong)
            client = make_uds_client(server)
            client.sendall(b"x")
            assert client.recv(1) == b""
            server.restart()

        def test_fails_itself(make_uds_server, make_uds_client):
            client = make_uds_client(make_uds_server(handler=wrong))
            client.sendall(b"x")
            assert client.recv(1) == b"x"  # its own
    """
    result = inner(source)
    result.assert_outcomes(failed=4)
    here, there, own = (inner.line(f"# {word}") for word in ("here", "there", "its own"))
    ends = [line for line in result.outlines if re.fullmatch(r"test_x\.py:\d+: \w+", line)]
    assert ends == [
        f"test_x.py:{here}: ValueError",
        f"test_x.py:{there}: AssertionError",
        f"test_x.py:{here}: ValueError",
        f"test_x.py:{own}: AssertionError",
    ]
    # Beside the test's own failure it stands in the log, once; where it is the failure, nowhere else.
    line = inner.line("def test_fails_itself") + 1
    logs = inner.logs()
    assert logs == [f"log of <stream server on /UDS/s in a thread, pid N>, made by make_uds_server at test_x.py:{line}"]
    assert result.outlines.count("ValueError: not as expected") == 1


def test_what_a_handler_raises_late_fails_the_teardown(inner):
    source = """
        def late(connection):
            assert connection.recv(1) == b"x"  # until the client has gone

        def test_late(make_uds_server, make_uds_client):
            make_uds_client(make_uds_server(handler=late))

        def test_told_once(make_uds_server, make_uds_client):
            client = make_uds_client(make_uds_server(handler=late))
            client.sendall(b"y")
            assert client.recv(1) == b""

        def test_the_servers_end_alone_is_no_failure(make_uds_server, uds):
            with uds.connect(make_uds_server(handler=lambda c: c.read_exactly(1)).path) as client:
                make_uds_server("echo")
                client.sendall(b"x")
    """
    result = inner(source)
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_late*", f"test_x.py:{inner.line('# until')}: AssertionError"]
    )
    assert sum(f"test_x.py:{inner.line('# until')}: AssertionError" in line for line in result.outlines) == 2


def test_what_a_handler_raises_is_told_whoever_has_made_its_server(inner):
    source = """
        def wrong(connection):
            connection.recv(1)
            raise ValueError("not as expected")  # here

        def ask(server):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(server.path)
                client.sendall(b"x")
                assert client.recv(1) == b""

        @pytest.fixture(scope="module")
        def shared(uds):
            with uds.server(handler=wrong) as server:
                yield server

        @pytest.fixture
        def own(uds):
            with uds.server(handler=wrong) as server:
                yield server

        @pytest.fixture
        def expected(uds):
            with uds.server(handler=wrong, expect_failures=True) as server:
                yield server
            assert len(server.failures) == 1

        def test_skips(make_uds_server):
            ask(make_uds_server(handler=wrong))
            pytest.skip("no more of it")

        def test_own(own): ask(own)

        def test_expected(expected): ask(expected)

        def test_several_and_a_leak(own, make_uds_path):
            ask(own)
            ask(own)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(make_uds_path())

        def test_other_error(own, failing): ask(own)

        @pytest.fixture
        def failing(own):
            yield
            raise OSError("mine")

        def test_shared(shared): ask(shared)

        def test_last(shared): pass
    """
    result = inner(source)
    result.assert_outcomes(passed=6, skipped=1, errors=5)
    names = [line.split()[-2] for line in inner.lines_with("ERROR at teardown of")]
    assert names == ["test_skips", "test_own", "test_several_and_a_leak", "test_other_error", "test_last"]
    # Each is shown with its traceback: as the error itself, or beside it.
    here = f"test_x.py:{inner.line('# here')}: ValueError"
    assert [line for line in result.outlines if line == here] == [here] * 4
    assert inner.errors().count("ValueError: not as expected") == 6
    assert "OSError: mine" in inner.errors()
    assert "test_x.py::test_several_and_a_leak left behind:" in inner.errors()
    result.stdout.no_fnmatch_line("*leaks.py*")


def test_a_handler_that_does_not_end_is_told_with_its_line(inner):
    source = """
        GO_ON = threading.Event()

        @pytest.fixture(scope="module", autouse=True)
        def at_last():
            yield
            GO_ON.set()

        def stuck(connection):
            GO_ON.wait(60)  # here

        def test_it(make_uds_server, make_uds_client):
            make_uds_client(make_uds_server(handler=stuck))
    """
    result = inner(source)
    result.assert_outcomes(passed=1, errors=1)
    (line,) = (line for line in inner.errors() if "TimedOut" in line)
    assert line.startswith("udslab.errors.TimedOut: service: /UDS/s: the handler stuck still runs, at ")
    assert f"test_x.py:{inner.line('# here')}, in " in line
    assert line.endswith(" (ETIMEDOUT): it ends when its connection does")


def test_a_failed_tests_report_has_its_servers_logs(inner):
    source = """
        @pytest.fixture
        def mine(make_uds_server):
            return make_uds_server("services:told", backend="process")

        @pytest.mark.uds(backend="process", service="services:told")
        def test_it(uds_server, uds_client, make_uds_client, mine):
            for client in (uds_client, make_uds_client(mine)):
                client.sendall(b"what?\\n")
                client.read_line()
            assert 0

        def test_set_up(mine, request):
            mine.restart()
            assert 0

        def test_passing(mine, make_uds_client):
            client = make_uds_client(mine)
            client.sendall(b"unheard\\n")
            client.read_line()
    """
    result = inner(source, files={"services": SERVICES})
    result.assert_outcomes(failed=2, passed=1)
    name = "log of <stream server on /UDS/s in a process, pid N>, made by"
    where = f"test_x.py:{inner.line('def mine') + 1}"
    assert inner.logs() == [f"{name} uds_server", f"{name} make_uds_server at {where}"]
    assert result.outlines.count("asked what?") == 2
    assert result.outlines.index("asked what?") > next(n for n, x in enumerate(result.outlines) if "log of <" in x)
    result.stdout.no_fnmatch_line("*unheard*")


def test_a_server_and_a_client_take_few_fixtures(inner):
    """Each costs pytest, at every test, about as much as a round trip."""
    inner(
        """
        FEW = {"uds", "_uds_test", "uds_backend", "uds_distro", "uds_type", "uds_server", "uds_client", "request"}

        def test_it(uds_server, uds_client, request):
            assert set(request.fixturenames) == FEW
        """
    ).assert_outcomes(passed=1)


# Clients


def test_a_client_is_connected_to_whatever_the_lab_has_made(inner):
    source = """
        from udslab import Refused

        SOURCE = "import socket, sys; s = socket.socket(1, int(sys.argv[2])); s.bind(sys.argv[1]); s.listen(); "
        MINE = [sys.executable, "-c", SOURCE + "s.accept()[0].send(b'x')", "{socket}"]

        def test_obstacle(make_uds_client, make_uds_obstacle):
            with pytest.raises(Refused):
                make_uds_client(make_uds_obstacle("stale"))

        @pytest.mark.parametrize("uds_type", ["stream", "seqpacket"])
        class TestOwn:
            @pytest.fixture
            def uds_server(self, make_uds_process, uds_type):
                return make_uds_process([*MINE, "1" if uds_type == "stream" else "5"], expect_left=True)

            def test_made(self, uds_server, make_uds_client):
                assert make_uds_client(uds_server).recv(10) == b"x"

            def test_fixture(self, uds_client):
                assert uds_client.recv(10) == b"x"
    """
    inner(source).assert_outcomes(passed=5)


def test_a_client_is_a_socket_that_reads_lines_and_ends_with_the_test(inner):
    inner(
        """
        KEPT = []

        def test_it(uds_client):
            KEPT.append(uds_client)
            assert isinstance(uds_client, socket.socket) and uds_client.gettimeout() == 30.0
            uds_client.sendall(b"one\\ntwo\\nthree")
            assert uds_client.read_line() == b"ONE\\n"
            assert uds_client.read_exactly(6) == b"TWO\\nTH"
            uds_client.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionError, match=r"receive: end of file after 3 of 5 bytes"):
                uds_client.read_exactly(5)

        def test_after():
            assert KEPT[0].fileno() == -1

        def test_mid_line(uds_client):
            uds_client.sendall(b"half")
            uds_client.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionError, match="end of file in mid-line, after 4 bytes"):
                uds_client.read_line()

        def test_times_out(uds_server, make_uds_client):
            client = make_uds_client(uds_server, timeout=0.05)
            with pytest.raises(TimeoutError):
                client.recv(1)
            assert make_uds_client(uds_server, timeout=None).gettimeout() is None

        def test_full(uds_path, make_uds_client):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(uds_path)
                listener.listen(0)
                make_uds_client(uds_path)
                with pytest.raises(TimeoutError, match=r"not connected within 0\\.05 s \\(ETIMEDOUT\\): the server's"):
                    make_uds_client(uds_path, timeout=0.05)
            os.unlink(uds_path)

        def test_bound(uds_server, make_uds_client, uds_path):
            client = make_uds_client(uds_server, bind=uds_path)
            client.sendall(b"x")
            assert client.recv(1) == b"X"
            assert uds_server.connections[0].address == uds_path

        def test_any_path(tmp_path, make_uds_client):
            path = tmp_path / ("long" * 20) / ("long" * 20)
            path.parent.mkdir()
            parent = os.open(path.parent, os.O_PATH)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{parent}/{path.name}")
                os.close(parent)
                listener.listen()
                client = make_uds_client(path)
                with listener.accept()[0] as other:
                    other.sendall(b"hello\\n")
                    assert client.read_line() == b"hello\\n"

        @pytest.mark.parametrize("uds_type", ["datagram"])
        def test_datagram(uds_server, uds_client):
            assert isinstance(uds_client, socket.socket) and uds_client.type == socket.SOCK_DGRAM
            for text in (b"a", b"b"):
                uds_client.send(text)
                assert uds_client.recv(10) == text.upper()
            directory, name = os.path.split(uds_server.path)
            assert len(os.listdir(directory)) == 2
            uds_client.close()
            assert os.listdir(directory) == [name]
        """
    ).assert_outcomes(passed=8)


# Processes


def test_a_process_serves_its_path_when_it_is_there(inner, tmp_path):
    inner(
        """
        from pathlib import Path

        def asked(client):
            client.sendall(b"hello\\n")
            return client.read_line()

        def test_list(make_uds_process, make_uds_client):
            process = make_uds_process([sys.executable, Path("server.py"), "{socket}"])
            assert asked(make_uds_client(process.path)) == b"hello\\n"
            assert process.returncode is None and process.status().serving
            assert process.pid != os.getpid() and process.tree() == [process.pid]
            words = [sys.executable, "server.py", process.path]
            assert process.command == words
            assert repr(process) == f"<process {process.pid}: {' '.join(words)}>"
            assert process.log().startswith(f"pid {process.pid}\\n")

        def test_text(make_uds_process, make_uds_client):
            process = make_uds_process(f"'{sys.executable}' server.py {{socket}} 'two words'")
            assert process.command == [sys.executable, "server.py", process.path, "two words"]
            assert asked(make_uds_client(process.path)) == b"hello\\n"

        @pytest.mark.parametrize("text", [True, False])
        def test_spaces_and_words(make_uds_process, make_uds_client, tmp_path, text, make_uds_path):
            path = make_uds_path("a b'$x")
            command = [sys.executable, "server.py", "{socket}", "unix:{socket}", "{socket},{socket}", "{other}", "{}"]
            process = make_uds_process(subprocess.list2cmdline(command) if text else command, path)
            assert process.path == path
            assert process.command[2:] == [path, f"unix:{path}", f"{path},{path}", "{other}", "{}"]
            assert asked(make_uds_client(path)) == b"hello\\n"

        def test_surroundings(make_uds_process, monkeypatch, tmp_path):
            server = os.path.abspath("server.py")
            monkeypatch.setenv("COLOUR", "red")
            monkeypatch.chdir(tmp_path)
            old = os.umask(0o027)
            try:
                process = make_uds_process([sys.executable, server, "{socket}"])
            finally:
                os.umask(old)
            assert process.log().splitlines()[1] == f"at {process.path} {tmp_path} red"
            assert stat.S_IMODE(os.stat(process.path).st_mode) == 0o750
            other = make_uds_process([sys.executable, server, "{socket}"], env={"COLOUR": "blue"}, cwd="/", umask=0o77)
            assert other.log().splitlines()[1] == f"at {other.path} / blue"
            assert stat.S_IMODE(os.stat(other.path).st_mode) == 0o700
            monkeypatch.delenv("COLOUR")
            assert make_uds_process([sys.executable, server, "{socket}"]).log().splitlines()[1].endswith(" None")

        def test_program_is_looked_for_in_the_tests_path(make_uds_process, monkeypatch, tmp_path):
            program = tmp_path / "mine"
            program.write_text(f"#!/bin/sh\\nexec {sys.executable} {os.path.abspath('server.py')} $1\\n")
            program.chmod(0o755)
            monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
            assert make_uds_process("mine {socket}").status().serving
        """,
    ).assert_outcomes(passed=6)


def test_a_process_is_waited_for_in_each_way(inner):
    inner(
        """
        from udslab.ready import LISTENING, Activated, Check, Listening, LogLine, Notify

        def up(path):
            return os.stat(path + ".up") is not None  # raises, until it is there

        def remove(path):
            os.unlink(path + ".up")
            return True

        @pytest.mark.parametrize(("ready", "word"), [
            (LISTENING, ""),
            (Listening(), ""),
            (LogLine(r"(?m)^ready to \\w+$"), "log"),
            (Notify(), "notify"),
            (Activated(), ""),
            (Check(up), "check"),
            ([LISTENING, LogLine("ready"), Notify(), Check(up)], "log notify check"),
        ])
        def test_it(make_uds_process, make_uds_client, ready, word):
            process = make_uds_process([sys.executable, "server.py", "{socket}", *word.split()], ready=ready)
            client = make_uds_client(process.path)
            client.sendall(b"hello\\n")
            assert client.read_line() == b"hello\\n"
            assert ("ready to serve" in process.log()) == ("log" in word)
            if Check(up) in (ready if isinstance(ready, list) else [ready]):
                os.unlink(process.path + ".up")
        """
    ).assert_outcomes(passed=7)


def test_a_process_that_never_serves_is_told_at_once_or_in_time(inner):
    source = """
        from udslab.ready import Check, LogLine, Notify

        MINE = [sys.executable, "server.py", "{socket}"]

        def up(path): return os.stat(path + ".up") is not None

        def test_dies(make_uds_process): make_uds_process([*MINE, "dies"], timeout=60)

        def test_killed(make_uds_process): make_uds_process([*MINE, "killed"], timeout=60)

        def test_never(make_uds_process): make_uds_process([*MINE, "never"], timeout=0.2)

        def test_log(make_uds_process): make_uds_process(MINE, ready=LogLine("^rea+dy"), timeout=0.2)

        def test_notify(make_uds_process): make_uds_process([*MINE, "status"], ready=Notify(), timeout=60)

        def test_check(make_uds_process): make_uds_process(MINE, ready=Check(up), timeout=0.2)

        def test_after(make_uds_process):
            assert make_uds_process(MINE).status().serving
    """
    result = inner(source)
    result.assert_outcomes(failed=6, passed=1)
    python = sys.executable
    told = [line.removeprefix("udslab.errors.") for line in inner.errors()]
    assert told[0] == (
        f"UdsError: service: /UDS/s: {python} has ended with status 1 and the path is absent (ECHILD): "
        "nothing serves the path: its last lines: no configuration | I give up"
    )
    assert told[1] == (
        f"UdsError: service: /UDS/s: {python} was ended by SIGKILL and the path is absent (ECHILD): "
        "nothing serves the path: its last lines: it has written nothing"
    )
    last = r"its last lines: (it has written nothing|pid N( \| at /UDS/s /\S+ None)?)"
    for line, lack in zip(
        [told[2], told[3], told[5]],
        (
            "nothing serves the path",
            r"it has written no '\^rea\+dy'",
            r"up does not hold \(\[Errno 2\] No such file or directory: '/UDS/s.up'\)",
        ),
        strict=True,
    ):
        found = "(absent|listening stream pid N|bound stream pid N)"
        assert re.fullmatch(
            rf"TimedOut: service: /UDS/s: still {found} after 0.2 s \(ETIMEDOUT\): {lack}: {last}", line
        )
    assert re.fullmatch(
        rf"UdsError: service: /UDS/s: {python} has ended with status 3 and the path is stale \(ECHILD\): "
        rf"it has not said READY=1, but STATUS=reading the data base: {last}",
        told[4],
    )
    for name, kind in (("dies", "UdsError"), ("killed", "UdsError"), ("never", "TimedOut")):
        result.stdout.fnmatch_lines([f"test_x.py:{inner.line(f'def test_{name}(')}: {kind}"])


def test_a_processs_end_is_sigterm_then_sigkill_and_what_it_leaves_is_a_leak(inner, short_grace):
    source = """
        MINE = [sys.executable, "server.py", "{socket}"]
        KEPT = []

        def keep(process):
            KEPT.append(process)
            return process

        def test_sigterm(make_uds_process): keep(make_uds_process(MINE))

        def test_it_was_told(): assert KEPT[-1].killed is False and KEPT[-1].left == []

        def test_stubborn(make_uds_process): keep(make_uds_process([*MINE, "stubborn"]))

        def test_it_was_killed():
            assert KEPT[-1].killed
            assert not os.path.exists(f"/proc/{KEPT[-1].pid}")

        def test_stubborn_as_expected(make_uds_process):
            make_uds_process([*MINE, "stubborn"], expect_left=True)

        def test_leave(make_uds_process): make_uds_process([*MINE, "leave"])

        def test_leave_as_expected(make_uds_process): make_uds_process([*MINE, "leave"], expect_left=True)

        def test_leave_at_a_path(make_uds_process, uds_path): make_uds_process([*MINE, "leave"], uds_path)

        def test_stopped(make_uds_process):
            process = make_uds_process(MINE)
            assert process.stop() == 0
            assert not os.path.lexists(process.path) and process.returncode == 0 and process.tree() == []
            assert process.stop() == 0

        def test_killed(make_uds_process):
            process = make_uds_process([*MINE, "stubborn"])
            assert process.kill() == -9
            assert process.status().state == "stale"

        def test_ends_itself(make_uds_process):
            process = make_uds_process(MINE)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    """
    result = inner(source)
    result.assert_outcomes(passed=11, errors=3)
    mine = f"{sys.executable} server.py"
    assert [line for line in inner.lines_with(", made by") if "log of <" not in line] == [
        f"  process N ({mine} /UDS/s stubborn), which had to be killed, made by make_uds_process "
        f"at test_x.py:{inner.line('def test_stubborn(')}",
        *(
            f"  socket file /UDS/s (stale), made by make_uds_process at test_x.py:{inner.line(name)}"
            for number, name in ((4, "def test_leave("), (6, "def test_leave_at_a_path("))
        ),
    ]


def test_a_daemon_is_followed_and_ended(inner):
    inner(
        """
        KEPT = []

        def test_it(make_uds_process, make_uds_client):
            process = make_uds_process([sys.executable, "server.py", "{socket}", "daemon"])
            assert process.wait(10) == 0
            while len(process.tree()) > 1:  # who has forked it away may be slower to end than it to listen
                time.sleep(0.001)
            daemon, = process.tree()
            assert daemon != process.pid
            client = make_uds_client(process.path)
            client.sendall(b"hello\\n")
            assert client.read_line() == b"hello\\n"
            assert f"pid {daemon}" in process.log()
            KEPT.extend([daemon, process])

        def test_after():
            assert not os.path.exists(f"/proc/{KEPT[0]}")
            assert not os.path.lexists(KEPT[1].path)
        """
    ).assert_outcomes(passed=2)


def test_a_process_is_restarted_killed_and_paused(inner):
    inner(
        """
        MINE = [sys.executable, "server.py", "{socket}"]

        def asked(client):
            client.sendall(b"hello\\n")
            return client.read_line()

        @pytest.mark.parametrize("end", ["stop", "kill", None])
        def test_restart(make_uds_process, make_uds_client, end):
            process = make_uds_process([*MINE, "stubborn"] if end == "kill" else MINE)
            before = process.pid
            if end:
                getattr(process, end)()
            if end == "kill":
                os.unlink(process.path)  # which this server does not do itself
            process.restart()
            assert process.pid != before
            assert asked(make_uds_client(process.path)) == b"hello\\n"
            assert [line for line in process.log().splitlines() if line.startswith("pid ")] == [
                f"pid {before}", f"pid {process.pid}"]
            if end == "kill":
                assert process.kill() == -9

        def test_pause(make_uds_process, make_uds_client):
            process = make_uds_process(MINE)
            client = make_uds_client(process.path, timeout=0.05)
            process.pause()
            with pytest.raises(TimeoutError):
                asked(client)
            process.resume()
            client.settimeout(10)
            assert client.read_line() == b"hello\\n"

        def test_paused_to_the_end(make_uds_process):
            make_uds_process(MINE).pause()
        """
    ).assert_outcomes(passed=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_server_that_becomes_another_user_binds_in_a_directory_of_everybodys(inner):
    source = """
        BECOMES = "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        SERVES = "s = socket.socket(1); s.bind(sys.argv[1]); s.listen(); s.accept()"

        def test_it(make_uds_process, make_uds_path):
            path = make_uds_path(mode=0o777)
            make_uds_process([sys.executable, "-c", BECOMES + SERVES, "{socket}"], path, expect_left=True)
            assert os.stat(path).st_uid == 65534
    """
    inner(source).assert_outcomes(passed=1)


def test_what_a_failed_tests_process_has_written_beside_its_socket_is_kept(inner):
    source = """
        def test_it(make_uds_process):
            process = make_uds_process([sys.executable, "server.py", "{socket}"])
            with open(os.path.join(os.path.dirname(process.path), "server.log"), "w") as file:
                file.write("hello")
            assert 0
    """
    result = inner(source)
    result.assert_outcomes(failed=1)
    at = next(n for n, line in enumerate(result.outlines) if "- directory of make_uds_process -" in line)
    kept = Path(result.outlines[at + 1].rpartition(" ")[2])
    assert result.outlines[at + 1 : at + 3] == [f"a copy of its files is kept in {kept}", "server.log: 5 bytes"]
    assert [(file.name, file.read_text()) for file in kept.iterdir()] == [("server.log", "hello")]


def test_a_failed_tests_report_has_its_processes_logs(inner):
    source = """
        def test_it(make_uds_process):
            make_uds_process([sys.executable, "server.py", "{socket}", "log"])
            assert 0
    """
    result = inner(source)
    result.assert_outcomes(failed=1)
    logs = inner.logs()
    made = f"made by make_uds_process at test_x.py:{inner.line('[sys.executable')}"
    assert logs == [f"log of <process N: {sys.executable} server.py /UDS/s log>, {made}"]
    result.stdout.fnmatch_lines(["ready to serve"])


@pytest.mark.parametrize("by", ["patch", "environment"])
def test_coverage_measures_a_process_of_python(inner, pytester, monkeypatch, by):
    if by == "patch":
        (config,) = re.findall(r"^```ini\n(\[run\]\n.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
        words = ["-m", "coverage", "run", "-m", "pytest"]
        begin = ""
    else:
        config = "[run]\nparallel = true\nsigterm = true\nsource = .\n"
        words = ["-m", "pytest"]
        begin = "import coverage\ncoverage.process_startup()\n"
        monkeypatch.setenv("COVERAGE_PROCESS_START", str(pytester.path / ".coveragerc"))
        # As a .pth file does it.
        (pytester.path / "startup").mkdir()
        (pytester.path / "startup" / "sitecustomize.py").write_text(begin)
        monkeypatch.setenv("PYTHONPATH", str(pytester.path / "startup"))
    (pytester.path / ".coveragerc").write_text(config)
    pytester.makepyfile(
        test_x="""
        import sys

        def test_it(make_uds_process, make_uds_client):
            process = make_uds_process([sys.executable, "covered.py", "{socket}"])
            client = make_uds_client(process.path)
            assert client.read_line() == b"served\\n"
        """,
        covered="""
        import os, socket, sys

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(sys.argv[1])
            listener.listen()
            connection = listener.accept()[0]
            os.unlink(sys.argv[1])
            connection.sendall(b"served\\n"); listener.accept()  # one line: its end may come in between
            print("not reached")
        """,
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    done = pytester.run(sys.executable, *words, "-p", "pytest_udslab.plugin", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=1)
    pytester.run(sys.executable, "-m", "coverage", "combine")
    report = pytester.run(sys.executable, "-m", "coverage", "report", "-m", "--include=covered.py")
    report.stdout.re_match_lines([r"covered\.py +8 +1 +88% +9"])


# Obstacles


def test_what_is_each_in_turn_is_parametrised_and_overridden_as_any_fixture(inner):
    source = """
        @pytest.mark.parametrize(argnames="number", argvalues=[1, 2])
        def test_others_markers_are_not_read(number): pass

        @pytest.mark.parametrize("my_uds_obstacle_name", ["a"])
        def test_a_name_that_holds_it(my_uds_obstacle_name): pass

        @pytest.mark.parametrize(["uds_obstacle", "number"], [("stale", 1), ("fifo", 2)], indirect=["uds_obstacle"])
        def test_some(uds_obstacle, number): assert uds_obstacle.kind == {1: "stale", 2: "fifo"}[number]

        @pytest.mark.parametrize("uds_obstacle", ["mine"])
        def test_directly(uds_obstacle): assert uds_obstacle == "mine"

        class TestOverridden:
            @pytest.fixture
            def uds_obstacle(self, make_uds_obstacle): return make_uds_obstacle("stale")

            @pytest.fixture(params=["regular-file", "orphans"])
            def uds_audit(self, request): return request.param

            def test_it(self, uds_obstacle, uds_audit): assert uds_obstacle.kind == "stale"
    """
    inner(source).assert_outcomes(passed=8)


def test_each_kind_of_obstacle_is_in_the_way_by_its_name(inner):
    result = inner(
        """
        from udslab.state import status

        SEEN = {}

        def test_it(uds_obstacle, uds_path):
            assert uds_obstacle.path != uds_path
            kind = str(uds_obstacle.kind)
            found = status(uds_obstacle.path)
            state = {"listener": "listening", "bound": "bound", "stale": "stale", "dangling-link": "dangling-link",
                     "missing-parent": "unreachable", "no-permission": "unreachable"}
            assert found.state == state.get(kind.removeprefix("link-to-"), "not-a-socket")
            assert found.link == ("link" in kind)
            with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError):
                sock.bind(uds_obstacle.path)
            SEEN[kind] = uds_obstacle.path

        def test_after():
            assert len(SEEN) >= 14
            assert not any(os.path.lexists(path) for path in SEEN.values())

        def test_at_a_path(make_uds_obstacle, uds_path, make_uds_server):
            placed = make_uds_obstacle("listener", uds_path)
            assert (placed.kind, placed.path) == ("listener", uds_path)
            with pytest.raises(OSError, match=r"\\(EADDRINUSE\\)"):
                make_uds_server("echo", uds_path)
            assert make_uds_obstacle("missing-parent").path.endswith("/s")

        def test_unknown(make_uds_obstacle):
            with pytest.raises(ValueError, match="'wall' is not a valid Obstacle"):
                make_uds_obstacle("wall")
        """,
        "-v",
        "-rs",
    )
    root = int(os.geteuid() == 0)
    result.assert_outcomes(passed=len(Obstacle) + 3 - root, skipped=root)
    result.stdout.fnmatch_lines_random([f"test_x.py::test_it[[]{kind}[]] *" for kind in Obstacle])
    if root:
        (line,) = inner.lines_with("SKIPPED [1]")
        assert line.endswith(": bind: root has every permission (ENOTSUP): run the tests as another user")


def test_each_kind_of_obstacle_is_in_the_way_of_a_server_at_any_path(inner, backend):
    result = inner(
        """
        import errno
        from udslab.obstacles import Obstacle

        def check(placed, make_uds_server):
            with pytest.raises(OSError) as caught:
                make_uds_server("echo", placed.path, on_existing="refuse")
            number = {"missing-parent": errno.ENOENT, "no-permission": errno.EACCES}.get(placed.kind, errno.EADDRINUSE)
            assert caught.value.errno == number, caught.value

        def test_fresh(uds_obstacle, make_uds_server): check(uds_obstacle, make_uds_server)

        @pytest.mark.parametrize("kind", list(Obstacle), ids=str)
        def test_given(kind, uds_path, make_uds_obstacle, make_uds_server):
            check(make_uds_obstacle(kind, uds_path), make_uds_server)

        @pytest.mark.parametrize(("kind", "said"), [
            ("listener", "a stream server listens there"), ("bound", "a stream socket is bound there")])
        def test_the_server_may_ask_it(kind, said, uds_path, make_uds_obstacle, make_uds_server):
            make_uds_obstacle(kind, uds_path)
            with pytest.raises(OSError, match=said):
                make_uds_server("echo", uds_path)

        def test_the_server_may_replace_it(uds_path, make_uds_obstacle, make_uds_server, make_uds_client):
            make_uds_obstacle("stale", uds_path)
            client = make_uds_client(make_uds_server("echo", uds_path))
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        """,
        f"--uds-backend={backend}",
        "-rs",
    )
    # A server in a container is never root's.
    without = 2 * int(os.geteuid() == 0 and backend != "container")
    result.assert_outcomes(passed=2 * len(Obstacle) + 3 - without, skipped=without)


# Overriding, and the order of undoing


def test_backend_type_and_distribution_are_overridden_and_parametrised(inner):
    inner(
        """
        @pytest.fixture(params=["thread", "process"])
        def uds_backend(request): return request.param

        @pytest.fixture(scope="module")
        def uds_type(): return "seqpacket"

        def test_it(uds_server, uds_client, uds_backend):
            assert (uds_server.backend, uds_server.type) == (uds_backend, "seqpacket")
            assert uds_client.type == socket.SOCK_SEQPACKET

        class TestNearer:
            @pytest.fixture
            def uds_backend(self): return "process"

            @pytest.mark.parametrize("uds_type", ["stream", "dgram"])
            def test_it(self, uds_server, uds_type):
                assert (uds_server.backend, uds_server.type) == ("process", uds_type)

        @pytest.mark.parametrize("uds_backend", ["thread"])
        @pytest.mark.parametrize("uds_distro", ["debian-13"])
        def test_distro(uds_distro, uds_server, make_uds_server):
            assert uds_distro == "debian-13" and uds_server.backend == "thread"
            assert make_uds_server(type="stream", backend="process").backend == "process"
        """,
    ).assert_outcomes(passed=5)


def test_without_options_they_are_these(inner):
    inner(
        """
        def test_it(uds_backend, uds_type, uds_distro):
            assert (uds_backend, uds_type, uds_distro) == ("thread", "stream", "debian-12")
            assert {type(word) for word in (uds_backend, uds_type, uds_distro)} == {str}

        def test_distro(uds_distro): assert uds_distro == "debian-12"
        """
    ).assert_outcomes(passed=2)
    source = "def test_it(uds_distro): assert uds_distro == 'fedora-42'"
    inner(source, "--uds-distro=fedora-42").assert_outcomes(passed=1)
    inner(source, "-o", "uds_distro=fedora-42").assert_outcomes(passed=1)


@pytest.mark.parametrize("ending", ["pass", "assert 0"])
def test_what_was_made_is_undone_in_reverse_order(inner, pytester, ending):
    source = f"""
        MINE = [sys.executable, "server.py", "{{socket}}", "order"]

        def note(word):
            with open("order", "a") as file:
                file.write(word + "\\n")

        def handler(name):
            def handle(connection):
                connection.recv(1)  # until the server's end
                note(name)
            return handle

        @pytest.fixture
        def before(): yield; note("before")

        @pytest.fixture
        def after(make_uds_process): yield; note("after")

        def test_it(before, make_uds_server, make_uds_process, after, uds):
            make_uds_process([*MINE, "first"])
            one = make_uds_server(handler=handler("one"))
            make_uds_process([*MINE, "second"])
            two = make_uds_server(handler=handler("two"))
            make_uds_process([*MINE, "third"])
            for server in (one, two):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(server.path)
                KEPT.append(sock)
            {ending}

        KEPT = []

        def test_close():
            for sock in KEPT:
                sock.close()
    """
    result = inner(source, "--uds-leaks=off")
    result.assert_outcomes(passed=2 if ending == "pass" else 1, failed=int(ending != "pass"))
    assert (pytester.path / "order").read_text().split() == [
        "after",
        "third",
        "second",
        "first",
        "two",
        "one",
        "before",
    ]


def test_all_is_undone_where_one_undoing_fails(inner):
    result = inner(
        """
        KEPT = []

        def wrong(connection):
            connection.recv(1)
            raise ValueError("late")

        def test_it(make_uds_server, make_uds_process, make_uds_client, make_uds_path):
            KEPT.append(make_uds_process([sys.executable, "server.py", "{socket}"]))
            KEPT.append(make_uds_server("echo"))
            KEPT.append(make_uds_server(handler=wrong))
            KEPT.append(make_uds_server("echo"))
            make_uds_client(KEPT[2])

        def test_after():
            assert not [each for each in KEPT if os.path.lexists(each.path)]
            assert not os.path.exists(f"/proc/{KEPT[0].pid}")
            assert threading.active_count() == 1
        """,
        forked=True,
    )
    result.assert_outcomes(passed=2, errors=1)


@pytest.mark.parametrize("backend", ["thread", "process"])
@pytest.mark.parametrize("end", ["raise SystemExit(0)", "pytest.exit('bye')", "pytest.fail('no')", "return"])
def test_a_forked_child_of_a_test_undoes_nothing(inner, backend, end):
    result = inner(
        f"""
        def stay(connection):
            while data := connection.recv(20):
                connection.sendall(data)

        @pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
        def test_it(uds_server, uds_client, make_uds_server, make_uds_client, make_uds_process, make_uds_obstacle):
            process = make_uds_process([sys.executable, "server.py", "{{socket}}"])
            handling = make_uds_server(handler=stay, backend="thread")
            inside = make_uds_client(handling)
            obstacles = [make_uds_obstacle(kind).path for kind in ("listener", "directory", "link-to-fifo")]
            pid = os.fork()
            if pid == 0:
                {end}  # through pytest's own tear-down
            assert os.waitpid(pid, 0)[0] == pid
            for client in (uds_client, make_uds_client(uds_server)):
                client.sendall(b"still here")
                assert client.recv(20) == b"STILL HERE"
            for client in (inside, make_uds_client(handling)):
                client.sendall(b"still here")
                assert client.recv(20) == b"still here"
            assert process.status().serving
            assert all(map(os.path.lexists, obstacles))
        """,
        f"--uds-backend={backend}",
        forked=True,
    )
    assert "1 passed" in result.outlines[-1]
