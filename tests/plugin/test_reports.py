"""The reports of failed tests: they are there, and say what they can, whatever has gone."""

from __future__ import annotations

import re
import textwrap

import pytest

GONE = """
        def docker(*words):
            return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.split()

        def remove_containers():
            mine = docker("ps", "--quiet", "--filter", f"label=udslab.pid={os.getpid()}")
            assert docker("rm", "--force", *mine)

        def kill_zygote(pid):
            with open(f"/proc/{pid}/stat") as file:
                os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGKILL)
"""
PROGRAM = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(99)"


def test_a_log_that_is_not_to_be_had_hides_no_failure(inner):
    source = """
        def test_it(make_uds_server):
            server = make_uds_server("echo", backend="process")
            kill_zygote(server.pid)
            assert not "mine"

        def test_next(): pass
    """
    result = inner(GONE + source, "--uds-backend=process")
    result.assert_outcomes(failed=1, passed=1)
    assert inner.errors() == ["AssertionError: assert not 'mine'"]
    result.stdout.fnmatch_lines(["its log is not to be had: agent: the agent of this machine has ended*"])


@pytest.mark.usefixtures("engine")
def test_nor_does_that_of_a_container_that_has_gone(inner):
    source = f"""
        def test_server(make_uds_server):
            make_uds_server("echo", backend="container")
            remove_containers()
            assert not "mine"

        def test_process(make_uds_process):
            make_uds_process(["python3", "-c", "{PROGRAM}", "{{socket}}"], image="udslab-base:debian-12")
            remove_containers()
            assert not "mine"

        def test_next(): pass
    """
    result = inner(GONE + source)
    result.assert_outcomes(failed=2, errors=1, passed=1)
    assert inner.errors() == ["AssertionError: assert not 'mine'"] * 2
    assert len(inner.lines_with("its log is not to be had: ")) == 2
    # The one error is that of the process's end, and one line.
    (line,) = (line for line in inner.lines_with("could not be ended: ") if line.startswith("<process N: "))
    assert f"made by make_uds_process at test_x.py:{inner.line('image=')}" in line
    result.stdout.no_fnmatch_line("*another exception occurred*")


def test_where_no_descriptor_is_left_a_test_fails_with_its_own_error(inner):
    source = """
        import resource

        HELD = []

        def test_it(uds_path):
            open(uds_path, "w").close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            while True:
                HELD.append(os.open("/dev/null", os.O_RDONLY))

        def test_next(): pass
    """
    result = inner(source, forked=True)
    result.assert_outcomes(failed=1, errors=1, passed=1)
    assert "OSError: [Errno 24] Too many open files: '/dev/null'" in inner.errors()
    result.stdout.fnmatch_lines(["its files are not kept: *Too many open files*"])
    result.stdout.fnmatch_lines(["  directory /* that cannot be looked at: Too many open files, made by make_uds_path"])


def test_a_directory_that_may_not_be_read_hides_no_failure(inner):
    source = """
        import ctypes, struct

        def test_it(uds_path):
            open(uds_path, "w").close()
            os.chmod(os.path.dirname(uds_path), 0)
            # Root may read it, unless it has lost its capabilities: capset(2).
            ctypes.CDLL(None).capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
            assert not "mine"

        def test_next(): pass
    """
    result = inner(source, forked=True)
    result.assert_outcomes(failed=1, passed=1)
    assert inner.errors() == ["AssertionError: assert not 'mine'"]
    result.stdout.fnmatch_lines(["its files are not kept: *Permission denied*"])


def test_without_a_fixture_for_directories_a_test_fails_with_its_own_error(inner):
    source = """
        def test_it(uds_path):
            open(uds_path, "w").close()
            assert not "mine"
    """
    result = inner(source, "-p", "no:tmpdir")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["its files are not kept: there is no fixture tmp_path_factory"])


def test_the_names_of_files_do_nothing_to_the_terminal(inner):
    source = r"""
        def test_it(make_uds_path):
            open(make_uds_path("\x1b[2J"), "w").close()
            assert not "mine"
    """
    result = inner(source)
    result.assert_outcomes(failed=1)
    assert r"\x1b[2J: 0 bytes" in result.outlines
    assert "\x1b" not in result.stdout.str()


@pytest.mark.parametrize("leaks", ["default", "warn"])
def test_a_path_that_is_not_utf_8_is_told_by_a_worker_with_a_backslash(inner, leaks):
    source = """
        KEPT = []

        @pytest.fixture
        def path(make_uds_path):
            return make_uds_path(os.fsdecode(b"caf\\xe9"))

        def test_failure(path, make_uds_client):
            make_uds_client(path)

        def test_kept(path):
            open(path, "w").close()
            assert not "mine"

        def test_log(path, make_uds_process):
            make_uds_process([sys.executable, "server.py", "{socket}", "log"], path)
            assert not "mine"

        def test_skipped(path):
            pytest.skip(path)

        def test_leak(path):
            KEPT.append(socket.socket(socket.AF_UNIX))
            KEPT[0].bind(path)

        def test_next(): pass
    """
    result = inner(source, "-n1", f"--uds-leaks={leaks}", "-rs", "-W", "default", plugins=("xdist",), forked=True)
    warn = leaks == "warn"
    result.assert_outcomes(failed=3, skipped=1, passed=2, errors=0 if warn else 1, warnings=1 if warn else 0)
    for said in (
        r"E *.NoSuchPath: connect: /*/caf\xe9: No such file*",
        r"caf\udce9: 0 bytes",
        r"*log of <process * server.py '/*/caf\udce9' log>*",
        r"SKIPPED * /*/caf\udce9",
        r"*socket file /*/caf\udce9 (bound*",
        r"*socket fd * bound to /*/caf\xe9 *",
    ):
        result.stdout.fnmatch_lines([said])


def test_what_a_test_has_made_goes_with_it(inner):
    """It is not kept for the rest of the run, nor is a next attempt of the same test told of it."""
    source = """
        import gc, weakref

        class Held: pass

        HELD = []

        def test_holds(make_uds_server, make_uds_client):
            held = Held()
            HELD.append(weakref.ref(held))
            server = make_uds_server(handler=lambda connection: connection.sendall(b"x") if held else None)
            assert make_uds_client(server).recv(1) == b"x"

        def test_after():
            gc.collect()
            assert HELD[0]() is None

        ATTEMPTS = []

        def test_fails_once(make_uds_server, make_uds_client):
            ATTEMPTS.append(1)
            def handler(connection):
                if len(ATTEMPTS) == 1:
                    raise RuntimeError("only then")
                connection.sendall(b"x")
            assert make_uds_client(make_uds_server(handler=handler)).recv(1) == (b"x" if len(ATTEMPTS) > 1 else b"")
    """
    plugin = """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for _ in range(2):
                reports = runtestprotocol(item, nextitem=nextitem, log=False)
                if not any(report.failed for report in reports):
                    break
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
    """
    inner(source, files={"conftest": plugin}).assert_outcomes(passed=3)


def test_where_what_a_process_has_left_is_told_so_is_its_log_and_how_it_has_ended(inner):
    source = """
        LISTENS = "import os, signal, socket, sys; s = socket.socket(1); s.bind(sys.argv[1]); s.listen(); "
        WAITS = "signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print('up', flush=True); signal.sigwait([15]); "
        ENDS = "print('I give up'); sys.exit(3)"

        @pytest.fixture
        def server(make_uds_process):
            return make_uds_process([sys.executable, "-c", LISTENS + WAITS + ENDS, "{socket}"], ready=LogLine("up\\n"))

        def test_passes(server): pass

        def test_fails(server): assert not "mine"

        def test_writes_nothing(make_uds_process):
            make_uds_process([sys.executable, "-c", LISTENS + "signal.pause()", "{socket}"])

        def test_is_expected(make_uds_process):
            make_uds_process([sys.executable, "server.py", "{socket}", "leave"], expect_left=True)
    """
    result = inner("from udslab.ready import LogLine\n" + textwrap.dedent(source))
    result.assert_outcomes(passed=3, failed=1, errors=3)
    ends = [re.sub(r"<.*>", "<>", title) for title in inner.logs()]
    made = f"made by make_uds_process at test_x.py:{inner.line('return make_uds')}"
    silent = f"made by make_uds_process at test_x.py:{inner.line('def test_writes_nothing') + 1}"
    assert ends == [
        f"log of <>, which has ended with status 3, {made}",
        f"log of <>, which was ended by SIGTERM, {silent}",
        f"log of <>, {made}",  # of the failure, and not again of its teardown
    ]
    assert result.outlines.count("I give up") == 1
    assert result.outlines.count("up") == 2
    assert result.outlines.count("nothing") == 1
