"""`udslab status`: every state, as a table and as JSON, with its exit status."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

KEYS = {
    "path",
    "state",
    "certain",
    "type",
    "kind",
    "link",
    "full",
    "inode",
    "mode",
    "uid",
    "gid",
    "made",
    "pids",
    "backlog",
    "evidence",
}
"""What is in each fact: other people's scripts read it, and more may be added."""


@pytest.fixture
def place(directory: Path, make_socket) -> Path:
    """One of everything that can be at a path, each named for its state."""
    make_socket(directory / "stale").close()
    make_socket(directory / "listening-stream", socket.SOCK_STREAM, 5)
    make_socket(directory / "listening-seqpacket", socket.SOCK_SEQPACKET, 5)
    make_socket(directory / "bound-stream", socket.SOCK_STREAM)
    make_socket(directory / "bound-seqpacket", socket.SOCK_SEQPACKET)
    make_socket(directory / "bound-dgram", socket.SOCK_DGRAM)
    make_socket(directory / "listening-stream-full", socket.SOCK_STREAM, 0)
    make_socket().connect(str(directory / "listening-stream-full"))
    (directory / "not-a-socket-file").write_text("")
    (directory / "not-a-socket-directory").mkdir()
    os.mkfifo(directory / "not-a-socket-fifo")
    (directory / "dangling-link").symlink_to("nowhere")
    (directory / "listening-stream-link").symlink_to("listening-stream")
    return directory


STATES = {
    "absent": ("absent", None, 1),
    "stale": ("stale", None, 1),
    "listening-stream": ("listening", "stream", 0),
    "listening-seqpacket": ("listening", "seqpacket", 0),
    "listening-stream-full": ("listening", "stream", 0),
    "listening-stream-link": ("listening", "stream", 0),
    "bound-stream": ("bound", "stream", 1),
    "bound-seqpacket": ("bound", "seqpacket", 1),
    "bound-dgram": ("bound", "dgram", 0),
    "not-a-socket-file": ("not-a-socket", None, 1),
    "not-a-socket-directory": ("not-a-socket", None, 1),
    "not-a-socket-fifo": ("not-a-socket", None, 1),
    "dangling-link": ("dangling-link", None, 1),
    "missing/s": ("unreachable", None, 1),
    "not-a-socket-file/s": ("unreachable", None, 1),
}


def test_every_state_is_told_as_json(cli, place):
    done = cli("status", "--json", *(place / name for name in STATES))
    found = {os.path.relpath(fact["path"], place): fact for fact in json.loads(done.stdout)}
    assert done.stderr == b""
    assert done.returncode == 1
    assert list(found) == list(STATES)
    assert {name: (fact["state"], fact["type"]) for name, fact in found.items()} == {
        name: (state, type) for name, (state, type, _) in STATES.items()
    }
    assert all(fact["certain"] is True for fact in found.values())
    assert all(set(fact) >= KEYS for fact in found.values())
    assert all(fact["evidence"] and all(isinstance(line, str) for line in fact["evidence"]) for fact in found.values())


@pytest.mark.parametrize("name", ["listening-stream", "bound-dgram", "bound-stream", "stale", "absent", "missing/s"])
def test_the_exit_status_tells_whether_it_is_served(cli, place, name):
    state, _, status = STATES[name]
    done = cli("status", place / name)
    assert done.returncode == status
    assert done.stderr == b""
    headings, row = done.stdout.decode().splitlines()
    assert headings.split() == ["STATE", "TYPE", "MODE", "UID", "PIDS", "NOTES", "PATH"]
    assert row.split()[0] == state
    assert row.endswith(f"  {place / name}")


def test_all_must_be_served_for_success(cli, place):
    served = [place / "listening-stream", place / "bound-dgram", place / "listening-stream-link"]
    assert cli("status", *served).returncode == 0
    assert cli("status", *served, place / "stale").returncode == 1
    assert cli("status", place / "absent", *served).returncode == 1


def test_what_the_file_is_like_is_told(cli, place):
    path = place / "listening-stream"
    path.chmod(0o640)
    info = path.stat()
    (fact,) = json.loads(cli("status", "--json", path).stdout)
    assert fact["kind"] == "socket"
    assert fact["link"] is False
    assert (fact["inode"], fact["uid"], fact["gid"], fact["made"]) == (
        info.st_ino,
        info.st_uid,
        info.st_gid,
        info.st_ctime,
    )
    assert fact["mode"] == "0640" == f"{stat.S_IMODE(info.st_mode):04o}"
    assert (fact["full"], fact["backlog"]) == (False, [0, 5])
    assert " 0640 " in cli("status", path).stdout.decode()


def test_a_full_backlog_is_told(cli, place):
    path = place / "listening-stream-full"
    (fact,) = json.loads(cli("status", "--json", path).stdout)
    assert (fact["full"], fact["backlog"]) == (True, [1, 0])
    assert "backlog full" in cli("status", path).stdout.decode()


def test_a_link_is_told_with_what_it_leads_to(cli, place):
    (fact,) = json.loads(cli("status", "--json", place / "listening-stream-link").stdout)
    assert (fact["link"], fact["state"]) == (True, "listening")
    assert "symbolic link" in cli("status", place / "listening-stream-link").stdout.decode()


def test_why_it_cannot_be_reached_is_told(cli, place):
    assert "ENOENT" in cli("status", place / "missing" / "s").stdout.decode()
    assert "ENOTDIR" in cli("status", place / "not-a-socket-file" / "s").stdout.decode()


@pytest.mark.parametrize("type", ["stream", "seqpacket", "dgram"])
def test_the_owners_pid_is_told(cli, serve, path, type):
    process = serve(path, "--type", type)
    (fact,) = json.loads(cli("status", "--json", path).stdout)
    assert fact["pids"] == [process.pid]
    assert f" {process.pid} " in cli("status", path).stdout.decode()


def test_all_that_hold_it_are_told(cli, path, make_socket):
    listener = make_socket(path, backlog=5)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[listener.fileno()]) as holder:
        (fact,) = json.loads(cli("status", "--json", path).stdout)
        assert sorted(fact["pids"]) == sorted([os.getpid(), holder.pid])
        table = cli("status", path).stdout.decode()
        assert " {},{} ".format(*sorted([os.getpid(), holder.pid])) in table


def test_no_server_notices(cli, serve, path):
    process = serve(path, "--service", "whoami")  # one that greets
    for _ in range(3):
        assert cli("status", path).returncode == 0
    assert process.end() == 0
    assert len(process.output().splitlines()) == 1  # that it serves


def test_evidence_is_printed_when_asked_for(cli, path, make_socket):
    make_socket(path, backlog=5)
    plain, verbose = (cli("status", *option, path).stdout.decode() for option in ((), ("-v",)))
    (fact,) = json.loads(cli("status", "--json", path).stdout)
    assert verbose == plain + "".join(f"{path}: {line}\n" for line in fact["evidence"])


@pytest.mark.parametrize("type", ["stream", "dgram", "seqpacket"])
def test_an_abstract_name_is_told(cli, serve, directory, type):
    name = f"@udslab-test/{directory}"
    process = serve(name, "--type", type)
    (fact,) = json.loads(cli("status", "--json", name).stdout)
    state = "bound" if type == "dgram" else "listening"
    assert (fact["path"], fact["state"], fact["type"], fact["pids"]) == (name, state, type, [process.pid])
    process.end()
    done = cli("status", "--json", name)
    assert (done.returncode, json.loads(done.stdout)[0]["state"]) == (1, "absent")


def test_what_may_not_be_asked_is_unknown(cli_as_nobody, directory, make_socket):
    make_socket(directory / "closed", backlog=5)
    (directory / "closed").chmod(0o700)
    (directory / "secret").mkdir(0o700)
    done = cli_as_nobody("status", "--json", directory / "closed", directory / "secret" / "s")
    closed, secret = json.loads(done.stdout)
    assert done.returncode == 1
    assert (closed["state"], closed["certain"]) == ("unknown", False)
    assert any("write permission" in line for line in closed["evidence"])
    assert secret["state"] == "unreachable"
    table = cli_as_nobody("status", directory / "closed", directory / "secret" / "s").stdout
    assert "not certain: see -v" in table
    assert "EACCES" in table


def test_a_path_given_twice_is_told_twice(cli, path):
    facts = json.loads(cli("status", "--json", path, f"unix:{path}").stdout)
    assert [fact["path"] for fact in facts] == [str(path)] * 2
