"""`udslab ps` and `udslab clean --containers` without an engine: what an engine's answers are made into, and what is
said when none answers.

With real containers: tests/containers/test_leftovers.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.server
import json
import os
import socket
import socketserver
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from udslab.testing import assert_gone, assert_stale

WRONG = 2
COMMANDS = [("ps",), ("ps", "--json"), ("clean", "--containers"), ("clean", "--containers", "--yes", "--json")]


# No docker


@pytest.fixture
def without_docker(directory: Path, variables: dict[str, str]) -> dict[str, str]:
    """Variables with which the docker SDK cannot be imported."""
    shadow = directory.parent / "shadow"
    shadow.mkdir()
    (shadow / "docker.py").write_text("raise ImportError('not here')\n")
    return {"PYTHONPATH": os.pathsep.join([str(shadow), variables["PYTHONPATH"]])}


@pytest.mark.parametrize("command", COMMANDS)
def test_without_the_docker_sdk_one_line_says_what_to_install(cli, complaint, without_docker, command):
    assert complaint(cli(*command, set=without_docker)) == (
        "udslab: container engine: the docker SDK is not installed "
        f"({errno.errorcode[errno.EOPNOTSUPP]}): pip install 'pytest-udslab[docker]'"
    )


def test_without_the_docker_sdk_all_else_works(cli, without_docker, stale):
    for words in (("--help",), ("ps", "--help"), ("clean", "--yes", stale.parent)):
        done = cli(*words, set=without_docker)
        assert (done.returncode, done.stderr) == (0, b"")
    assert_gone(stale)


def test_without_the_docker_sdk_no_socket_is_removed_where_containers_were_asked_for(
    cli, complaint, without_docker, stale
):
    complaint(cli("clean", "--containers", "--yes", stale.parent, set=without_docker))
    assert_stale(stale)


def test_what_needs_no_containers_does_not_pay_for_docker(cli, stale):
    done = cli("clean", stale.parent, set={"PYTHONPROFILEIMPORTTIME": "1"})
    assert b"udslab.report.terminal" in done.stderr
    assert b"docker" not in done.stderr


# No engine


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("named", ["by the environment", "by an option"])
def test_an_engine_that_is_down_is_told_in_one_line(cli, complaint, command, named):
    pytest.importorskip("docker")
    url = "unix:///nonexistent"
    options, set = (("--engine", url), {}) if named == "by an option" else ((), {"DOCKER_HOST": url})
    line = complaint(cli(*command, *options, set=set))
    assert line.startswith(f"udslab: container engine: {url}: no engine is there (ENOENT): is it started?")


def test_a_context_that_is_not_there_is_told(cli, complaint):
    pytest.importorskip("docker")
    line = complaint(cli("ps", "--engine", "no-such-context"))
    assert "no-such-context: there is no Docker context of that name (ENOENT)" in line


def test_sockets_are_cleaned_although_the_engine_is_down(cli, complaint, stale):
    pytest.importorskip("docker")
    words = ("clean", "--yes", "--containers", "--engine", "unix:///nonexistent", stale.parent)
    printed = f"STATE  DONE     PATH\nstale  removed  {stale}\n1 stale, 1 removed\n"
    complaint(cli(*words), printed=printed.encode())
    assert_gone(stale)


# Wrong use


@pytest.mark.parametrize(
    "words",
    [
        ("clean",),
        ("clean", "--yes"),
        ("clean", "--engine", "unix:///nonexistent"),
        ("clean", "--engine", "unix:///nonexistent", "/tmp"),
        ("clean", "--containers", "--engine"),
        ("ps", "/tmp"),
        ("ps", "--yes"),
        ("ps", "--engine"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use(main_here, words):
    done = main_here(*words)
    usage, *_, said = done.stderr.splitlines()
    assert usage.startswith("usage: udslab")
    assert said.startswith("udslab")
    assert ": error: " in said
    assert (done.returncode, done.stdout) == (WRONG, "")


# An engine that says what it is told to


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


Engine = Callable[..., str]
NOW = "2026-01-01T00:00:00.123456789Z"
EPOCH = 1767225600


@pytest.fixture
def engine(directory: Path) -> Iterator[Engine]:
    """An engine with these containers and volumes; its URL. It removes all but what is in ``kept``."""
    pytest.importorskip("docker")
    with contextlib.ExitStack() as exits:

        def serve(containers: list[dict], volumes: list[dict], kept: tuple[str, ...] = ()) -> str:
            answers = {
                "version": {"Version": "1", "ApiVersion": "1.45", "Arch": "amd64"},
                "info": {"SystemTime": NOW},
                "containers/json": containers,
                "volumes": {"Volumes": volumes or None},
            }

            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    path = urllib.parse.urlsplit(self.path).path.lstrip("/")
                    self.answer(200, next(answer for name, answer in answers.items() if path.endswith(name)))

                def do_DELETE(self) -> None:
                    if any(name in self.path for name in kept):
                        self.answer(409, {"message": "it is\nin use"})
                    else:
                        self.answer(204, None)

                def answer(self, status: int, content: object) -> None:
                    self.send_response(status)
                    data = json.dumps(content).encode() if content is not None else b""
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

                def log_message(self, *words: object) -> None:
                    pass

            path = str(directory / f"engine{len(list(directory.iterdir()))}")
            server = exits.enter_context(Server(path, Handler))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            exits.callback(thread.join)
            exits.callback(server.shutdown)
            return f"unix://{path}"

        yield serve


def owned(lives: bool | None) -> dict[str, str]:
    from udslab.containers.labels import Owner

    owner = dataclasses.replace(Owner.this_process(), session=f"session {lives}")
    if lives is False:
        owner = dataclasses.replace(owner, started="1")
    if lives is None:
        owner = dataclasses.replace(owner, machine="another")
    return owner.labels


def container(name: str, state: str, age: int, lives: bool | None = False) -> dict:
    labels, image = owned(lives), "udslab-base:debian-12"
    # podman tells no mounts.
    return {
        "Id": name * 64,
        "State": state,
        "Created": EPOCH - age,
        "Labels": labels,
        "Image": image,
        "Mounts": None,
    }


def volume(name: str, created: str, lives: bool | None = False) -> dict:
    return {"Name": f"udslab-{name * 12}", "CreatedAt": created, "Labels": owned(lives)}


THINGS = (
    [
        container("a", "running", 12, True),
        container("b", "paused", 60, True),
        container("c", "exited", 3599),
        container("d", "created", 7200, None),
        container("e", "removing", 3 * 86400),
        container("f", "running", -5, None),
    ],
    [volume("0", "2025-12-31T23:59:59Z", True), volume("1", "2026-01-01T01:00:00+02:00")],
)


def test_ps_tells_what_is_there_and_whose_it_is(cli, engine):
    pid = os.getpid()
    done = cli("ps", "--engine", engine(*THINGS))
    assert (done.returncode, done.stderr) == (0, b"")
    heading, *table = done.stdout.decode().splitlines()
    assert heading.split() == ["KIND", "NAME", "STATE", "OWNER", "AGE", "IMAGE"]
    image = "udslab-base:debian-12"
    assert [" ".join(line.split()) for line in table] == [
        f"container {'a' * 12} running {pid} lives 12 s {image}",
        f"container {'b' * 12} paused {pid} lives 1 min {image}",
        f"container {'c' * 12} exited {pid} gone 59 min {image}",
        f"container {'d' * 12} created {pid} elsewhere 2 h {image}",
        f"container {'e' * 12} removing {pid} gone 3 d {image}",
        f"container {'f' * 12} running {pid} elsewhere 0 s {image}",
        f"volume udslab-{'0' * 12} unused {pid} lives 1 s",
        f"volume udslab-{'1' * 12} unused {pid} gone 1 h",
    ]
    # Columns stand under their headings, and a screen of 80 columns holds all but the end of an image's name.
    assert {line.index(str(pid)) for line in table} == {heading.index("OWNER")}
    assert heading.index("IMAGE") < 70


def test_ps_prints_facts_as_json(cli, engine):
    url = engine(*THINGS)
    done = cli("ps", "--json", "--engine", url)
    rows = json.loads(done.stdout)
    assert len(rows) == 8
    owner = {key.partition(".")[2]: value for key, value in owned(False).items()}
    assert rows[2] == {
        "engine": url,
        "kind": "container",
        "name": "c" * 12,
        "state": "exited",
        "owner": {**owner, "lives": False},
        "age": 3599,
        "image": "udslab-base:debian-12",
    }
    assert [row["owner"]["lives"] for row in rows] == [True, True, False, None, False, None, True, False]
    assert rows[5]["age"] == 0


def test_labels_that_somebody_has_made_up_reach_no_terminal(cli, engine):
    forged = {**container("a", "exited", 1), "Labels": {"udslab.session": "\x1b[2J", "udslab.pid": "\x1b[2J"}}
    done = cli("ps", "--engine", engine([forged], []))
    assert b"\x1b" not in done.stdout
    assert b"  ? elsewhere  " in done.stdout


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (("ps",), b"nothing of the lab's is there\n"),
        (("ps", "--json"), b"[]\n"),
        (("clean", "--containers"), b"0 of the lab's, 0 removed\n"),
        (("clean", "--containers", "--json"), b"[]\n"),
    ],
)
def test_where_there_is_nothing_that_is_told_and_is_no_failure(cli, engine, command, printed):
    done = cli(*command, set={"DOCKER_HOST": engine([], [])})
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"")


def test_of_several_engines_each_row_says_its_own(cli, engine):
    one, two = engine([], [volume("0", NOW)]), engine([], [volume("1", NOW)])
    heading, *table = cli("ps", "--engine", one, "--engine", two).stdout.decode().splitlines()
    assert heading.split()[0] == "ENGINE"
    assert [line.split()[:3] for line in table] == [
        [one, "volume", f"udslab-{'0' * 12}"],
        [two, "volume", f"udslab-{'1' * 12}"],
    ]


def test_an_engine_that_is_down_does_not_hide_the_others(cli, engine):
    one, two = engine([], [volume("0", NOW)]), engine([], [volume("1", NOW)])
    engines = ("--engine", one, "--engine", "unix:///nonexistent", "--engine", two)
    for command in (("ps",), ("clean", "--containers", "--yes")):
        done = cli(*command, "--json", *engines)
        assert [row["engine"] for row in json.loads(done.stdout)] == [one, two]
        (line,) = done.stderr.decode().splitlines()
        assert "unix:///nonexistent: no engine is there (ENOENT)" in line
        assert done.returncode == 1


def test_clean_says_what_it_would_do(cli, engine):
    done = cli("clean", "--containers", "--engine", engine(*THINGS))
    assert done.stdout.decode().splitlines() == [
        "KIND       NAME                 STATE     DONE",
        "container  aaaaaaaaaaaa         running   left: its agent ends it in time",
        "container  bbbbbbbbbbbb         paused    left: docker unpause lets it end",
        "container  cccccccccccc         exited    would be removed",
        "container  dddddddddddd         created   would be removed (owner elsewhere)",
        "container  eeeeeeeeeeee         removing  left: it is being removed",
        "container  ffffffffffff         running   left: its agent ends it in time",
        "volume     udslab-000000000000  unused    left: its owner lives",
        "volume     udslab-111111111111  unused    would be removed",
        "8 of the lab's, 0 removed; remove them with --yes",
    ]
    assert max(map(len, done.stdout.decode().splitlines())) <= 80
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_the_engine_does_not_remove_is_told(cli, engine):
    done = cli("clean", "--containers", "--yes", "--engine", engine(*THINGS, kept=("cccc",)))
    lines = done.stdout.decode().splitlines()
    assert lines[3].endswith(f"left: container {'c' * 12} cannot be removed: it is in use")
    assert lines[-1] == "8 of the lab's, 2 removed"
    assert (done.returncode, done.stderr) == (1, b"")


def test_sockets_and_containers_are_cleaned_together(cli, engine, directory):
    url = engine([container("c", "exited", 60)], [])
    (directory / "below").mkdir()
    path = directory / "below" / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    shown = cli("clean", "--containers", "--engine", url, path.parent)
    assert shown.stdout.decode().splitlines() == [
        "STATE  DONE              PATH",
        f"stale  would be removed  {path}",
        "1 stale, 0 removed; remove them with --yes",
        "KIND       NAME          STATE   DONE",
        "container  cccccccccccc  exited  would be removed",
        "1 of the lab's, 0 removed; remove them with --yes",
    ]
    done = cli("clean", "--containers", "--yes", "--json", "--engine", url, path.parent)
    assert [(row.get("path") or row["name"], row["done"], row["failed"]) for row in json.loads(done.stdout)] == [
        (str(path), "removed", False),
        ("c" * 12, "removed", False),
    ]
    assert_gone(path)
