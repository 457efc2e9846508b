"""`udslab clean`: what is certainly stale goes when it is told to, and nothing else ever."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from udslab.cli import main
from udslab.testing import assert_gone, assert_serving, assert_stale


def stale_at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


def cleaned(cli, *words: object, status: int = 0, **options: object) -> list[dict]:
    done = cli("clean", "--json", *words, **options)
    assert (done.returncode, done.stderr) == (status, b"")
    return json.loads(done.stdout)


@pytest.fixture
def home(directory: Path, make_socket) -> Path:
    """Two stale files, one of them below, and everything that must be kept."""
    stale_at(directory / "stale")
    stale_at(directory / "a" / "b" / "c" / "stale")
    make_socket(directory / "listening", backlog=5)
    make_socket(directory / "a" / "full", backlog=0)
    make_socket().connect(str(directory / "a" / "full"))
    make_socket(directory / "bound")
    make_socket(directory / "datagram", socket.SOCK_DGRAM)
    make_socket(directory / "seqpacket", socket.SOCK_SEQPACKET, 5)
    (directory / "file.sock").write_text("somebody's work")
    (directory / "empty").touch()
    os.mkfifo(directory / "fifo")
    (directory / "link-to-stale").symlink_to("stale")
    (directory / "dangling").symlink_to("nowhere")
    return directory


def everything(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


STALE = {"stale", "a/b/c/stale"}


def test_without_yes_nothing_is_removed(cli, home):
    before = everything(home)
    found = cleaned(cli, home)
    assert {os.path.relpath(fact["path"], home) for fact in found} == STALE
    assert {(fact["state"], fact["done"], fact["failed"]) for fact in found} == {("stale", "would be removed", False)}
    assert everything(home) == before


def test_with_yes_exactly_what_is_stale_is_removed(cli, home):
    before = everything(home)
    found = cleaned(cli, "--yes", home)
    assert {os.path.relpath(fact["path"], home) for fact in found} == STALE
    assert {(fact["state"], fact["done"], fact["failed"]) for fact in found} == {("stale", "removed", False)}
    assert everything(home) == before - STALE
    for name in ("listening", "datagram", "seqpacket", "a/full"):
        assert_serving(home / name)
    assert cleaned(cli, "--yes", home) == []


def test_the_table_says_what_was_done(cli, home):
    *table, summary = cli("clean", home).stdout.decode().splitlines()
    assert table[0].split() == ["STATE", "DONE", "PATH"]
    assert table[1:] == [f"stale  would be removed  {path}" for path in (home / "stale", home / "a/b/c/stale")]
    assert summary == "2 stale, 0 removed; remove them with --yes"
    *table, summary = cli("clean", "--yes", home).stdout.decode().splitlines()
    assert table[1:] == [f"stale  removed  {path}" for path in (home / "stale", home / "a/b/c/stale")]
    assert summary == "2 stale, 2 removed"
    assert cli("clean", home).stdout.decode() == "0 stale, 0 removed\n"


def test_no_server_notices(cli, serve, path):
    process = serve(path, "--service", "whoami")  # one that greets
    cleaned(cli, "--yes", path.parent)
    assert process.end() == 0
    assert len(process.output().splitlines()) == 1  # that it serves


def test_several_directories(cli, directory):
    paths = [stale_at(directory / name / "s") for name in ("one", "two", "three")]
    found = cleaned(cli, "--yes", directory / "one", directory / "two")
    assert [fact["path"] for fact in found] == list(map(str, paths[:2]))
    assert_stale(paths[2])


def test_if_one_directory_is_missing_nothing_is_removed(cli, complaint, directory):
    path = stale_at(directory / "one" / "s")
    line = complaint(cli("clean", "--yes", directory / "one", directory / "missing"))
    assert str(directory / "missing") in line
    assert_stale(path)


def test_a_directory_that_is_named_by_a_link_is_cleaned(cli, directory):
    path = stale_at(directory / "real" / "s")
    (directory / "link").symlink_to("real")
    (found,) = cleaned(cli, "--yes", directory / "link")
    assert found["path"] == str(directory / "link" / "s")
    assert_gone(path)


def test_links_to_directories_below_are_not_followed(cli, directory):
    path = stale_at(directory / "elsewhere" / "s")
    (directory / "home").mkdir()
    (directory / "home" / "link").symlink_to(directory / "elsewhere")
    assert cleaned(cli, "--yes", directory / "home") == []
    assert_stale(path)


def test_the_current_directory_and_a_slash_at_the_end(cli, directory):
    stale_at(directory / "s")
    assert [fact["path"] for fact in cleaned(cli, ".", cwd=directory)] == ["./s"]
    assert [fact["path"] for fact in cleaned(cli, f"{directory}/")] == [str(directory / "s")]


def test_what_another_user_may_not_read_is_told_and_the_rest_cleaned(cli_as_nobody, directory):
    secret = stale_at(directory / "a" / "secret" / "s")
    listed = stale_at(directory / "listed" / "s")
    theirs = stale_at(directory / "theirs" / "s")
    (directory / "a").chmod(0o755)
    secret.parent.chmod(0o700)
    listed.parent.chmod(0o744)
    theirs.parent.chmod(0o777)
    theirs.chmod(0o777)
    done = cli_as_nobody("clean", "--yes", "--json", directory)
    found = {fact["path"]: (fact["state"], fact["done"], fact["failed"]) for fact in json.loads(done.stdout)}
    assert found == {
        str(secret.parent): ("unreachable", "left: Permission denied", True),
        str(listed): ("unreachable", "left: Permission denied", True),
        str(theirs): ("stale", "removed", False),
    }
    assert (done.returncode, done.stderr) == (1, "")


def test_what_another_user_may_not_remove_is_told(cli_as_nobody, directory):
    path = stale_at(directory / "s")
    path.chmod(0o777)
    directory.chmod(0o755)
    done = cli_as_nobody("clean", "--yes", directory)
    assert f"stale  left: Permission denied  {path}" in done.stdout.splitlines()
    assert done.returncode == 1
    assert_stale(path)


def test_what_may_not_be_asked_is_left(cli_as_nobody, directory):
    path = stale_at(directory / "s")
    path.chmod(0o700)
    directory.chmod(0o777)
    done = cli_as_nobody("clean", "--yes", "--json", directory)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert_stale(path)


def test_who_keeps_the_directory_locked_is_told(cli, directory):
    import fcntl

    path = stale_at(directory / "s")
    fd = os.open(directory, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (found,) = cleaned(cli, "--yes", directory, status=1)
    os.close(fd)
    assert found["done"].startswith("left: ")
    assert f"pid {os.getpid()}" in found["done"]
    assert_stale(path)


def test_a_file_that_is_replaced_meanwhile_survives(directory, make_socket, capsys):
    path = directory / "s"
    for number in range(200):
        stale_at(path)
        live = directory.parent / f"live{number}"
        listener = make_socket(live, backlog=1)
        cleaner = threading.Thread(target=main, args=(["clean", "--yes", str(directory)],))
        cleaner.start()
        select.select([], [], [], number * 2e-5)  # at any moment of its 2 ms
        live.rename(path)
        cleaner.join()
        assert_serving(path)
        path.unlink()
        listener.close()
    assert "Traceback" not in capsys.readouterr().err


LIVES_IN_AN_OVERLAY = """
import socket, subprocess, sys
from udslab.cli import main
home = sys.argv[1]
layers = f"lowerdir={home}/lower,upperdir={home}/upper,workdir={home}/work"
subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", f"{home}/seen"], check=True)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(f"{home}/seen/s")
    listener.listen()
    main(["clean", "--yes", "--json", f"{home}/upper"])
    main(["status", "--json", f"{home}/seen/s"])
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare(1), to mount")
def test_a_containers_live_socket_is_kept_although_it_looks_stale_in_its_layer(variables, directory):
    for name in ("lower", "upper", "work", "seen"):
        (directory / name).mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", LIVES_IN_AN_OVERLAY, directory]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    left, _, asked = done.stdout.partition("]\n[")
    assert json.loads(left + "]") == [
        {"path": str(directory / "upper" / "s"), "state": "stale", "done": "left: not certain", "failed": False}
    ]
    assert json.loads("[" + asked)[0]["state"] == "listening"
    assert (directory / "upper" / "s").is_socket()
