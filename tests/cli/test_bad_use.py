"""Bad use gives one clear line, with the path and the errno's name, and the right exit status."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from udslab.testing import assert_serving, assert_untouched

TYPES = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
NO, WRONG = 1, 2


@pytest.fixture
def place(directory: Path) -> Path:
    """A directory with one of everything that can be named by mistake."""
    (directory / "sub").mkdir()
    (directory / "file").write_text("somebody's work")
    (directory / "dangling").symlink_to("nowhere")
    os.mkfifo(directory / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(directory / "stale"))
    return directory


def at(place: Path, length: int) -> str:
    """A path of exactly that many bytes, in directories that are there as far as that is possible."""
    path = str(place)
    while len(path) + 61 < length and len(path) < 1000:
        path += "/" + "d" * 50
    os.makedirs(path, exist_ok=True)
    rest = length - len(path)
    return path + "/" + "n" * (rest - 1)


@pytest.mark.parametrize(
    ("arguments", "status", "errno_name"),
    [
        ("serve {}/missing/s", NO, "ENOENT"),
        ("serve {}/file/s", NO, "ENOTDIR"),
        ("serve {}/sub", NO, "EADDRINUSE"),
        ("serve {}/sub/", NO, "EADDRINUSE"),
        ("serve {}/file", NO, "EADDRINUSE"),
        ("serve {}/fifo", NO, "EADDRINUSE"),
        ("serve {}/dangling", NO, "EADDRINUSE"),
        ("serve --type dgram {}/file", NO, "EADDRINUSE"),
        ("serve --type seqpacket {}/file", NO, "EADDRINUSE"),
        ("serve --on-existing refuse {}/stale", NO, "EADDRINUSE"),
        ("serve --on-existing unlink {}/sub", NO, "EISDIR"),
        ("serve --on-existing unlink {}/missing/s", NO, "ENOENT"),
        ("serve --long-path alias {}/missing/s", NO, "ENOENT"),
        ("serve --group no-such-group {}/s", NO, "EINVAL"),
        ("send {}/missing/s", NO, "ENOENT"),
        ("send {}/nothing", NO, "ENOENT"),
        ("send {}/file/s", NO, "ENOTDIR"),
        ("send {}/sub", NO, "ECONNREFUSED"),
        ("send {}/file", NO, "ECONNREFUSED"),
        ("send {}/fifo", NO, "ECONNREFUSED"),
        ("send {}/stale", NO, "ECONNREFUSED"),
        ("send --type dgram {}/stale", NO, "ECONNREFUSED"),
        ("send {}/dangling", NO, "ENOENT"),
        ("send --bind {}/missing/c {}/stale", NO, "ENOENT"),
        ("send --bind {}/file {}/stale", NO, "EADDRINUSE"),
        ("clean {}/missing", NO, "ENOENT"),
        ("clean {}/file", NO, "ENOTDIR"),
    ],
)
def test_a_path_that_will_not_do_is_refused(cli, complaint, place, arguments, status, errno_name):
    words = arguments.format(place, place).split()
    with assert_untouched(place / "file"):
        line = complaint(cli(*words), status=status)
    assert f"({errno_name})" in line
    failing = next(word for word in words if word.startswith("/"))
    assert f" {failing}: " in line or "--group" in words


@pytest.mark.parametrize("command", ["serve", "send", "status", "explain"])
@pytest.mark.parametrize("address", ["", "unix:", "unix:%00", "unix:/tmp/a%00b", "unix://host/tmp/s"])
def test_what_cannot_be_an_address_is_wrong_use(cli, main_here, complaint, command, address):
    run = cli if command == "serve" else main_here
    line = complaint(run(command, address), status=WRONG)
    assert line.startswith("udslab: address: ")
    assert "(EINVAL)" in line


@pytest.mark.parametrize("words", [("clean", ""), ("clean", "--yes", ""), ("send", "--bind", "", "/tmp/s")])
def test_an_empty_path_is_wrong_use_wherever_it_stands(main_here, complaint, words):
    assert "the path is empty (EINVAL)" in complaint(main_here(*words), status=WRONG)


@pytest.mark.parametrize(
    ("type", "length"), [("stream", 108), ("stream", 109), ("stream", 5000), ("dgram", 108), ("seqpacket", 108)]
)
def test_a_path_that_is_too_long_to_serve_is_wrong_use(cli, complaint, place, type, length):
    path = at(place, length)
    line = complaint(cli("serve", "--type", type, path), status=WRONG)
    assert path in line
    assert f"the path is {length} bytes long and sun_path holds 107 (ENAMETOOLONG)" in line
    assert not list(place.rglob("n*"))


def test_a_path_too_long_for_any_file_system_is_refused_although_an_alias_is_allowed(cli, complaint, place):
    line = complaint(cli("serve", "--long-path", "alias", at(place, 5000)))
    assert "(ENAMETOOLONG)" in line


@pytest.mark.parametrize("command", ["serve", "send", "status"])
def test_an_abstract_name_that_is_too_long_is_wrong_use(cli, complaint, command):
    line = complaint(cli(command, "@" + "a" * 108), status=WRONG)
    assert "the abstract name is 108 bytes long and sun_path holds 107 (ENAMETOOLONG)" in line


def test_a_client_file_that_is_too_long_is_wrong_use(cli, complaint, place):
    line = complaint(cli("send", "--bind", at(place, 108), place / "stale"), status=WRONG)
    assert "(ENAMETOOLONG)" in line


@pytest.mark.parametrize("length", [108, 109, 5000])
def test_a_long_path_where_nothing_is_can_be_asked_for(cli, complaint, place, length):
    path = at(place, length)
    line = complaint(cli("send", path))
    assert path in line
    assert ("(ENAMETOOLONG)" if length == 5000 else "(ENOENT)") in line


@pytest.mark.parametrize("service", ["shout", "", "no_such_module:x", "os:no_such_name", "os:sep", ".a:b"])
def test_an_unknown_service_is_wrong_use_and_binds_nothing(cli, complaint, path, service):
    line = complaint(cli("serve", "--service", service, path), status=WRONG)
    assert repr(service) in line
    assert "(EINVAL)" in line
    assert not path.exists()


@pytest.mark.parametrize("source", ["1 / 0", "this is no Python", "raise SystemError('two\\nlines')"])
def test_a_service_that_fails_when_imported_is_wrong_use(cli, complaint, path, source):
    (path.parent / "broken.py").write_text(source)
    line = complaint(cli("serve", "--service", "broken:x", path, cwd=path.parent), status=WRONG)
    assert "'broken:x' cannot be imported" in line


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "listen",
        "serve",
        "send",
        "status",
        "explain",
        "clean",
        "demo {}",
        "serve --loud {}",
        "serve --mode 9 {}",
        "serve --mode rw {}",
        "serve --mode 1777 {}",
        "serve --mode -1 {}",
        "serve --backlog many {}",
        "serve --backlog -1 {}",
        "serve --backlog 99999999999 {}",
        "serve --type raw {}",
        "serve --on-existing perhaps {}",
        "serve --long-path perhaps {}",
        "serve --drain soon {}",
        "serve --drain -1 {}",
        "serve --drain 1e300 {}",
        "serve --drain nan {}",
        "serve --group ² {}",
        "serve --group 4294967295 {}",
        "serve --group 99999999999999 {}",
        "serve {} {}",
        "send --timeout soon {}",
        "send --timeout inf {}",
        "send --timeout 1e300 {}",
        "send --type raw {}",
        "send {} {}",
        "status --yes {}",
        "explain --tcp nonsense {}",
        "explain --tcp ::1:80 {}",
        "explain --tcp 127.0.0.1:65536 {}",
        "explain {} {}",
        "clean --force {}",
    ],
)
def test_options_that_will_not_do_are_wrong_use(main_here, path, arguments):
    done = main_here(*arguments.replace("{}", str(path)).split())
    *usage, said = done.stderr.splitlines()
    assert usage[0].startswith("usage: udslab")
    assert "Traceback" not in " ".join(usage)
    assert said.startswith("udslab")
    assert ": error: " in said
    assert done.returncode == WRONG
    assert done.stdout == ""
    assert not path.exists()


@pytest.mark.parametrize("option", ["--help", "--version", "serve --help", "clean --help"])
def test_help_and_version_are_no_wrong_use(main_here, option):
    done = main_here(*option.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(("usage: udslab", "udslab 0."))


@pytest.mark.parametrize("there", TYPES)
@pytest.mark.parametrize("mine", TYPES)
def test_a_socket_of_another_type_at_the_other_end_is_refused(cli, complaint, path, make_socket, there, mine):
    make_socket(path, TYPES[there], None if there == "dgram" else 5)
    done = cli("send", "--type", mine, "--no-answers", "--timeout", "0.05", path)
    if mine == there:
        assert b"EPROTOTYPE" not in done.stderr
    else:
        line = complaint(done)
        assert f" {path}: " in line
        assert "(EPROTOTYPE)" in line
        assert "another type" in line


@pytest.mark.parametrize("there", TYPES)
@pytest.mark.parametrize("mine", ["stream", "dgram"])
def test_what_lives_is_not_replaced_by_a_server_of_any_type(cli, complaint, path, make_socket, there, mine):
    make_socket(path, TYPES[there], None if there == "dgram" else 5)
    line = complaint(cli("serve", "--type", mine, path))
    assert f" {path}: " in line
    assert "(EADDRINUSE)" in line
    assert f"a {there} s" in line
    assert_serving(path)


@pytest.mark.parametrize(
    "arguments", ["serve {}/s", "serve {}/secret/s", "send {}/closed", "send {}/secret/s", "send --bind {}/c {}/open"]
)
def test_no_permission_is_said_so(cli_as_nobody, complaint, directory, make_socket, arguments):
    (directory / "secret").mkdir(0o700)
    for name, mode in (("closed", 0o700), ("open", 0o777)):
        make_socket(directory / name, backlog=5)
        (directory / name).chmod(mode)
    words = arguments.format(directory, directory).split()
    line = complaint(cli_as_nobody(*words))
    assert "(EACCES)" in line
    assert f" {next(word for word in words if word.startswith('/'))}: " in line


def test_a_directory_that_may_not_be_read_cannot_be_cleaned(cli_as_nobody, complaint, directory):
    (directory / "secret").mkdir(0o700)
    (directory / "searchable").mkdir(0o711)
    for name in ("secret", "searchable"):
        line = complaint(cli_as_nobody("clean", directory / name))
        assert f" {directory / name}: " in line
        assert "(EACCES)" in line
