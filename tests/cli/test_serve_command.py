"""`udslab serve`: services, modes, policies, inherited sockets, and how it ends."""

from __future__ import annotations

import grp
import os
import re
import select
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from udslab import Connection, connect, status
from udslab.spawn import Process, wait_until
from udslab.testing import assert_gone, assert_serving, assert_stale


def exchange(client: Connection, line: bytes) -> bytes:
    client.sendall(line)
    return client.read_line()


def stop(process: Process) -> None:
    """Stop it, and wait until it stands."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def ask(path, data: bytes = b"hello\n", **options: object) -> bytes:
    with connect(path, timeout=5, **options) as client:
        client.settimeout(5)
        client.sendall(data)
        return client.recv(1 << 16)


def clients_in(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("udslab: client ")]


# Services


@pytest.mark.parametrize(("service", "answer"), [("upper", b"A\n"), ("echo", b"a\n"), ("discard", b"")])
@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_each_service_answers_a_connection(serve, cli, path, type, service, answer):
    serve(path, "--service", service, "--type", type)
    assert assert_serving(path).type == type
    done = cli("send", "--type", type, path, input=b"a\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, answer, b"")


@pytest.mark.parametrize(("service", "answer"), [("upper", b"A\n"), ("echo", b"a\n"), ("discard", b"")])
def test_each_service_answers_datagrams(serve, cli, path, service, answer):
    serve(path, "--service", service, "--type", "dgram")
    assert assert_serving(path).type == "dgram"
    done = cli("send", "--type", "dgram", *(() if answer else ("--no-answers",)), path, input=b"a\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, answer, b"")


def test_without_options_it_answers_a_stream_in_upper_case(serve, path):
    serve(path)
    assert assert_serving(path).type == "stream"
    assert ask(path) == b"HELLO\n"


def test_chargen_speaks_first_and_until_the_client_has_had_enough(serve, path):
    process = serve(path, "--service", "chargen")
    with connect(path) as client:
        assert client.read_exactly(1 << 20).startswith(b' !"#$%&')
    assert ask(path, b"x")[:7] == b' !"#$%&'
    assert process.returncode is None


def test_whoami_tells_the_client_what_the_kernel_says_of_it(serve, path):
    serve(path, "--service", "whoami")
    with connect(path, bind="auto") as client:
        name = os.fsdecode(client.address.name)
        expected = f"pid {os.getpid()} uid {os.getuid()} gid {os.getgid()} bound to {name}\n"
        assert client.read_line().decode() == expected


SHOUT = "from udslab.services import per_line\nloud = per_line(lambda line: line.strip() + b'!\\n')\n"


def test_a_service_of_ones_own_lies_in_the_current_directory(serve, directory, path):
    (directory / "shout.py").write_text(SHOUT)
    serve(path, "--service", "shout:loud", cwd=str(directory))
    assert ask(path) == b"hello!\n"


def test_it_does_so_for_the_installed_command_too(serve, directory, path):
    # A console script has its own directory at the head of sys.path, not the current one.
    (directory / "shout.py").write_text(SHOUT)
    (directory / "bin").mkdir()
    script = directory / "bin" / "udslab"
    script.write_text("import sys\nfrom udslab.cli import main\nsys.exit(main())\n")
    serve(path, "--service", "shout:loud", cwd=str(directory), program=(sys.executable, str(script)))
    assert ask(path) == b"hello!\n"


def test_for_a_service_by_name_nothing_is_imported_from_the_current_directory(serve, variables, directory, path):
    for name in ("grp", "traceback", "upper", "selectors"):
        (directory / f"{name}.py").write_text("raise SystemExit('imported')")
    (directory / "bin").mkdir()
    script = directory / "bin" / "udslab"
    script.write_text("import sys\nfrom udslab.cli import main\nsys.exit(main())\n")
    group = grp.getgrgid(os.getgid()).gr_name
    serve(path, "--service", "upper", "--group", group, cwd=str(directory), program=(sys.executable, str(script)))
    assert ask(path) == b"HELLO\n"


def test_a_service_of_ones_own_lies_on_pythonpath(serve, variables, directory, path):
    (directory / "lib").mkdir()
    (directory / "lib" / "shout.py").write_text(SHOUT)
    search = os.pathsep.join([variables["PYTHONPATH"], str(directory / "lib")])
    serve(path, "--service", "shout:loud", cwd="/", set={"PYTHONPATH": search})
    assert ask(path) == b"hello!\n"


def test_a_service_that_fails_costs_its_client_and_no_other(serve, directory, path):
    (directory / "faulty.py").write_text(
        "from udslab.services import per_line\n"
        "def answer(line):\n    if line == b'die\\n': raise RuntimeError('as told')\n    return line\n"
        "service = per_line(answer)\n"
    )
    process = serve(path, "--service", "faulty:service", cwd=str(directory))
    with connect(path) as other:
        assert ask(path, b"die\n") == b""
        assert exchange(other, b"alive\n") == b"alive\n"
    assert "RuntimeError: as told" in process.output()


# Mode, group, backlog


@pytest.mark.parametrize("umask", ["000", "022", "077"])
@pytest.mark.parametrize("mode", ["600", "660", "666"])
def test_the_mode_is_exact_whatever_the_umask(serve, path, umask, mode):
    serve(path, "--mode", mode, setup=f"umask {umask}")
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)


@pytest.mark.parametrize(("umask", "mode"), [("000", 0o777), ("022", 0o755), ("077", 0o700)])
def test_without_a_mode_it_is_what_the_umask_leaves(serve, path, umask, mode):
    serve(path, setup=f"umask {umask}")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("options", [["--type", "dgram"], ["--type", "seqpacket"], ["--on-existing", "refuse"]])
def test_the_mode_is_exact_for_every_type_and_policy(serve, path, options):
    process = serve(path, "--mode", "660", *options, setup="umask 077")
    # A datagram socket serves from its bind on, with what the umask leaves of the mode; chmod(2) adds the rest.
    assert wait_until(path, lambda found: found.mode == 0o660, process=process).serving


@pytest.mark.parametrize(("options", "mode"), [([], 0o660), (["--mode", "620"], 0o620)])
def test_the_group_gets_the_file(serve, path, options, mode):
    gid = 12345 if os.geteuid() == 0 else os.getgid()
    serve(path, "--group", str(gid), *options, setup="umask 077")
    info = path.stat()
    assert (info.st_gid, stat.S_IMODE(info.st_mode)) == (gid, mode)


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
@pytest.mark.parametrize("backlog", [0, 3])
def test_a_backlog_of_n_admits_n_and_one(serve, sockets, make_socket, path, type, backlog):
    process = serve(path, "--backlog", str(backlog), "--type", type, "--service", "echo")
    stop(process)
    waiting = []
    with pytest.raises(BlockingIOError):
        while len(waiting) < 100:
            client = make_socket(type=getattr(socket, f"SOCK_{type.upper()}"))
            client.setblocking(False)
            client.connect(str(path))
            waiting.append(client)
    assert len(waiting) == backlog + 1
    found = status(path, owners=True)
    assert found.full
    assert found.backlog == (backlog + 1, backlog)
    process.send_signal(signal.SIGCONT)
    for client in waiting:
        client.setblocking(True)
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"


# What is in the way


def test_a_stale_file_is_replaced(serve, stale):
    before = stale.stat().st_ctime_ns
    serve(stale)
    assert stale.stat().st_ctime_ns > before
    assert ask(stale) == b"HELLO\n"


def test_unlink_steals_from_a_live_server_which_then_leaves_the_thief_alone(serve, path):
    victim = serve(path, "--service", "echo")
    assert ask(path) == b"hello\n"
    victims = status(path).made
    thief = serve(path, "--on-existing", "unlink", wait=False)
    wait_until(path, lambda found: found.serving and found.made != victims, process=thief)
    assert victim.end() == 0
    assert_serving(path)
    assert ask(path) == b"HELLO\n"
    assert thief.end() == 0
    assert_gone(path)


def test_unlink_deletes_a_users_file(serve, path):
    path.write_text("somebody's work")
    serve(path, "--on-existing", "unlink")
    assert ask(path) == b"HELLO\n"


def test_of_eight_that_start_over_a_stale_file_one_serves(serve, stale):
    processes = [serve(stale, wait=False) for _ in range(8)]
    wait_until(stale, lambda found: sum(process.returncode is None for process in processes) == 1, timeout=30)
    losers = [process for process in processes if process.returncode is not None]
    assert {process.returncode for process in losers} == {1}
    assert all("(EADDRINUSE)" in process.output() for process in losers)
    assert ask(stale) == b"HELLO\n"


def test_a_long_path_is_served_by_an_alias_and_removed(serve, cli, directory):
    (directory / ("d" * 120)).mkdir()
    path = directory / ("d" * 120) / ("s" * 100)
    process = serve(path, "--long-path", "alias")
    assert os.listdir(path.parent) == [path.name]
    assert cli("send", path, input=b"hello\n").stdout == b"HELLO\n"
    assert cli("status", path).returncode == 0
    assert process.end() == 0
    assert os.listdir(path.parent) == []


def test_an_abstract_name_is_served(serve, cli, directory):
    name = f"@udslab-test/{directory}"
    process = serve(name)
    assert cli("send", name, input=b"hello\n").stdout == b"HELLO\n"
    assert process.end() == 0
    assert not status(name).serving


def test_a_relative_path_is_the_current_directorys(serve, cli, directory):
    process = serve("s", cwd=str(directory), wait=False)
    wait_until(directory / "s", lambda found: found.serving, process=process)
    assert cli("send", "s", input=b"hello\n", cwd=directory).stdout == b"HELLO\n"
    assert process.end() == 0
    assert os.listdir(directory) == []


# One client, and telling who it is


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_once_serves_one_client_and_ends(serve, path, type):
    process = serve(path, "--once", "--type", type)
    assert ask(path, type=type) == b"HELLO\n"
    assert process.wait(10) == 0
    assert_gone(path)


def test_once_takes_no_second_client_while_the_first_is_there(serve, path):
    process = serve(path, "--once")
    with connect(path) as first:
        assert exchange(first, b"a\n") == b"A\n"
        assert_gone(path)
    assert process.wait(10) == 0


def test_once_answers_one_datagram_and_ends(serve, cli, path):
    process = serve(path, "--once", "--type", "dgram")
    assert cli("send", "--type", "dgram", path, input=b"hello\n").stdout == b"HELLO\n"
    assert process.wait(10) == 0
    assert_gone(path)


def test_identify_tells_the_caller_by_its_file_and_removes_that(serve, path):
    process = serve(path, "--identify")
    with connect(path, bind="auto") as client:
        name = os.fsdecode(client.address.name)
        assert exchange(client, b"hello\n") == b"HELLO\n"
        assert not os.path.lexists(name)
    (line,) = clients_in(process.output())
    assert line.endswith(f"bound to {name}, by its file uid {os.geteuid()}")


def test_identify_turns_away_who_has_no_file_or_an_open_one(serve, cli, complaint, path):
    process = serve(path, "--identify")
    complaint(cli("send", path, input=b"hello\n"))
    complaint(cli("send", "--bind", path.parent / "c", path, input=b"hello\n", setup="umask 000"))
    log = process.output()
    assert "turned away: a bad filename: (unnamed): the caller has bound no file (ENOENT)" in log
    assert "turned away: a filename that is open to others: " in log
    assert cli("send", "--bind", path.parent / "c", path, input=b"a\n", setup="umask 077").stdout == b"A\n"


def test_one_line_a_connection_with_its_credentials(serve, path):
    process = serve(path)
    credentials = f"pid {os.getpid()} uid {os.getuid()} gid {os.getgid()}"
    for _ in range(3):
        ask(path)
    with connect(path, bind=path.parent / "c") as client:
        exchange(client, b"hello\n")
    lines = [f"udslab: client {number}: {credentials}" for number in (1, 2, 3, 4)]
    lines[3] += f" bound to {path.parent / 'c'}"
    assert clients_in(process.output()) == lines
    assert process.output().startswith(f"udslab: serving upper on {path} (listening, stream, pid {process.pid})\n")


def test_the_credentials_are_in_the_log_before_the_first_byte(serve, path):
    process = serve(path, "--service", "whoami")
    with connect(path) as client:
        client.read_line()
        assert len(clients_in(process.output())) == 1


def test_quiet_says_nothing_and_verbose_how_each_client_went(serve, path):
    quiet = serve(path, "--quiet")
    ask(path)
    assert quiet.end() == 0
    assert quiet.output() == ""
    verbose = serve(path, "--verbose")
    ask(path)
    assert verbose.end() == 0
    assert re.search(r"client 1: .*: closed by the client after \d\.\d{3} s, 6 bytes in, 6 out\n", verbose.output())


def test_a_silent_client_holds_up_nobody(serve, path):
    serve(path, "--backlog", "1")
    silent = [connect(path) for _ in range(20)]
    assert ask(path) == b"HELLO\n"
    for client in silent:
        client.close()


# Handed over by a service manager

MANAGER = """
import os, socket, sys
name, kind, path, pid = sys.argv[1:5]
sock = socket.socket(getattr(socket, name), getattr(socket, kind))
sock.bind(path) if name == "AF_UNIX" else sock.bind(("127.0.0.1", 0))
if kind != "SOCK_DGRAM" and name == "AF_UNIX" and "bound" not in sys.argv[5:6]:
    sock.listen(5)
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="x", LISTEN_PID=str(os.getpid() if pid == "ours" else 1))
os.execv(sys.executable, [sys.executable, "-m", "udslab", *sys.argv[6:]])
"""


@pytest.fixture
def managed(serve):
    """Starts the command as a service manager does, with a socket of its own as descriptor 3."""

    def start(path, *arguments: object, family="AF_UNIX", kind="SOCK_STREAM", bound=None, pid="ours", state="listen"):
        program = (sys.executable, "-S", "-c", MANAGER, family, kind, str(bound or path), pid, state)
        return serve(path, *map(str, arguments), program=program, wait=False)

    return start


@pytest.mark.parametrize("kind", ["stream", "seqpacket", "dgram"])
def test_a_socket_handed_over_is_served_and_its_file_left_alone(managed, path, kind):
    process = managed(path, kind=f"SOCK_{kind.upper()}")
    wait_until(path, lambda found: f"serving upper on {path}" in process.output(), process=process)
    assert ask(path, type=kind, bind="auto") == b"HELLO\n"
    assert process.end() == 0
    assert_stale(path)


def test_variables_for_another_process_are_ignored(managed, path):
    handed = path.parent / "handed"
    process = managed(path, bound=handed, pid="another's")
    process.wait_serving(path)
    assert ask(path) == b"HELLO\n"
    assert process.end() == 0
    assert_gone(path)


def test_a_socket_handed_over_that_is_bound_to_another_path_is_wrong_use(managed, path):
    process = managed(path, bound=path.parent / "handed")
    assert process.wait(10) == 2
    (line,) = process.output().splitlines()
    assert line.startswith(f"udslab: address: {path}: none of the sockets handed over (LISTEN_FDS) is bound to it")
    assert str(path.parent / "handed") in line
    assert_gone(path)


def test_a_socket_handed_over_that_does_not_listen_is_said_so(managed, path):
    process = managed(path, state="bound")
    assert process.wait(10) == 1
    (line,) = process.output().splitlines()
    assert f" {path}: " in line
    assert "(EINVAL): the socket handed over (LISTEN_FDS) does not listen" in line


def test_a_socket_handed_over_of_another_family_is_said_so(managed, path):
    process = managed(path, family="AF_INET")
    assert process.wait(10) == 1
    (line,) = process.output().splitlines()
    assert "descriptor 3: " in line
    assert "(EAFNOSUPPORT)" in line


@pytest.mark.parametrize(("redirect", "name"), [("3</dev/null", "ENOTSOCK"), ("3<&-", "EBADF")])
def test_a_descriptor_handed_over_that_is_no_socket_is_said_so(cli, complaint, path, redirect, name):
    line = complaint(cli("serve", path, setup="export LISTEN_PID=$$ LISTEN_FDS=1", redirect=redirect))
    assert "descriptor 3: " in line
    assert f"({name})" in line
    assert_gone(path)


def test_no_descriptors_handed_over_means_a_socket_of_ones_own(serve, path):
    process = serve(path, setup="export LISTEN_PID=$$ LISTEN_FDS=0")
    assert process.end() == 0
    assert_gone(path)


# How it ends


@pytest.mark.parametrize(
    ("type", "number"),
    [
        ("stream", signal.SIGTERM),
        ("stream", signal.SIGINT),
        ("seqpacket", signal.SIGINT),
        ("dgram", signal.SIGTERM),
        ("dgram", signal.SIGINT),
    ],
)
def test_it_ends_by_a_signal_with_status_0_and_removes_its_file(serve, path, type, number):
    process = serve(path, "--type", type)
    process.send_signal(number)
    assert process.wait(10) == 0
    assert_gone(path)
    assert "Traceback" not in process.output()


def test_told_again_while_it_ends_it_ends_as_told_once(serve, path):
    process = serve(path)
    while process.returncode is None:
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert_gone(path)
    assert "Traceback" not in process.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_by_a_signal_that_it_was_started_with_ignored(serve, path, number):
    # As a shell starts background jobs, and nohup and CI what they start.
    process = serve(path, setup=f"trap '' {number.name[3:]}")
    process.send_signal(number)
    assert process.wait(10) == 0
    assert_gone(path)


def blocks(pid: int, number: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigBlk:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def test_ended_while_it_starts_it_leaves_no_file(serve, path):
    import fcntl

    fd = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)  # it waits for this before it binds
    process = serve(path, wait=False)
    while process.returncode is None and not blocks(process.pid, signal.SIGTERM):
        select.select([], [], [], 0.002)
    process.send_signal(signal.SIGTERM)
    os.close(fd)
    assert process.wait(10) == 0
    assert_gone(path)


def test_it_answers_what_has_come_before_it_ends(serve, path):
    process = serve(path)
    with connect(path) as client:
        assert exchange(client, b"hello\n") == b"HELLO\n"
        stop(process)
        client.sendall(b"x" * 100_000)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert client.read_exactly(100_000) == b"X" * 100_000
        assert client.recv(1) == b""
    assert process.wait(10) == 0
    assert_gone(path)


def test_who_waits_in_the_backlog_is_served_before_it_ends(serve, path):
    process = serve(path)
    stop(process)
    clients = [connect(path) for _ in range(3)]
    for client in clients:
        client.sendall(b"hello\n")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    for client in clients:
        assert client.read_line() == b"HELLO\n"
        assert client.read_line() == b""
        client.close()
    assert process.wait(10) == 0


def test_silent_clients_do_not_delay_the_end(serve, path):
    process = serve(path, "--drain", "60")
    with connect(path) as silent:
        assert exchange(silent, b"hello\n") == b"HELLO\n"
        before = time.monotonic()
        assert process.end(grace=30) == 0
        assert time.monotonic() - before < 10
        assert silent.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_does_not_take_its_answer_is_cut_off_at_the_deadline(serve, path, number):
    process = serve(path, "--drain", "0.2")
    with connect(path) as client:
        client.setblocking(False)
        while select.select([], [client], [], 0.1)[1]:  # until neither side takes more
            client.send(b"x" * (1 << 16))
        client.setblocking(True)
        before = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - before >= 0.2
        with pytest.raises(ConnectionError):
            client.read_exactly(1 << 30)
    assert "cut off after 0.2 s" in process.output()
    assert_gone(path)


def test_a_file_that_somebody_has_put_in_its_place_is_not_removed(serve, path):
    process = serve(path)
    path.unlink()
    path.write_text("somebody's work")
    assert process.end() == 0
    assert path.read_text() == "somebody's work"


def test_a_directory_that_has_gone_does_not_matter(serve, directory):
    home = directory / "home"
    home.mkdir()
    process = serve(home / "s")
    (home / "s").unlink()
    home.rmdir()
    assert process.end() == 0


def test_killed_it_leaves_its_file_stale_and_the_next_one_replaces_it(serve, path):
    assert serve(path).kill() == -signal.SIGKILL
    assert_stale(path)
    assert serve(path).end() == 0
    assert_gone(path)
