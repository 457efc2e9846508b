"""Standard descriptors that are closed, broken or full, and encodings that lack what is to be printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from udslab.spawn import Process

PRINTING = [
    "status {}",
    "status --json {}",
    "explain {}",
    "clean --json .",
    "--help",
    "--version",
]


@pytest.mark.parametrize("command", [*PRINTING, "clean .", "explain --json {}", "demo", "demo --json"])
def test_a_closed_standard_output_is_said_so(cli, complaint, directory, command):
    done = cli(*command.format(directory / "s").split(), redirect=">&-", cwd=directory)
    assert "standard output: Bad file descriptor (EBADF)" in complaint(done)


@pytest.mark.parametrize("command", [*PRINTING, "demo"])
def test_a_standard_output_that_nobody_reads_is_said_so(cli, complaint, directory, broken_pipe, command):
    done = cli(*command.format(directory / "s").split(), stdout=broken_pipe, cwd=directory)
    assert "standard output: Broken pipe (EPIPE)" in complaint(done)


@pytest.mark.parametrize("command", ["status {}", "explain --json {}", "--help"])
def test_a_full_disk_is_said_so(cli, complaint, directory, command):
    done = cli(*command.format(directory / "s").split(), redirect=">/dev/full", cwd=directory)
    assert "standard output: No space left on device (ENOSPC)" in complaint(done)


def test_unbuffered_printing_fails_as_clearly(cli, complaint, path, broken_pipe):
    for where in ({"redirect": ">&-"}, {"redirect": ">/dev/full"}, {"stdout": broken_pipe}):
        assert "standard output: " in complaint(cli("status", path, set={"PYTHONUNBUFFERED": "1"}, **where))


@pytest.mark.parametrize("where", [">&-", ">/dev/full", "|"])
def test_a_client_that_cannot_print_says_so(cli, complaint, path, serve, broken_pipe, where):
    serve(path)
    redirect = {"stdout": broken_pipe} if where == "|" else {"redirect": where}
    line = complaint(cli("send", path, input=b"hello\n", **redirect))
    assert "standard output: " in line
    assert any(f"({name})" in line for name in ("EBADF", "ENOSPC", "EPIPE"))


def test_a_demo_whose_output_is_closed_leaves_nothing(cli, directory, broken_pipe):
    done = cli("demo", stdout=broken_pipe, set={"TMPDIR": str(directory)})
    assert done.returncode == 1
    assert os.listdir(directory) == []


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("send", "/nonexistent/s"), 1), (("serve", ""), 2)],
)
@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_the_exit_status_tells_where_nothing_can_be_said(cli, arguments, status, redirect):
    done = cli(*arguments, redirect=redirect)
    assert done.returncode == status
    assert b"udslab: " not in done.stdout


def test_a_closed_standard_input_is_an_empty_one(cli, path, serve):
    serve(path)
    done = cli("send", path, redirect="<&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_client_without_standard_error_works(cli, path, serve):
    serve(path)
    done = cli("send", path, input=b"hello\n", redirect="2>&-")
    assert (done.returncode, done.stdout) == (0, b"HELLO\n")


def test_no_socket_gets_the_number_of_a_standard_descriptor(cli, path, serve):
    process = serve(path, "--service", "echo", redirect="<&- >&- 2>&-")
    done = cli("send", path, input=b"hello\n")
    assert done.stdout == b"hello\n"  # and no line of the log in between
    for number in range(3):
        assert os.readlink(f"/proc/{process.pid}/fd/{number}") == os.devnull
    assert process.end() == 0
    assert not path.exists()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_single_closed_descriptor_is_not_taken_by_a_socket(serve, path, number):
    process = serve(path, redirect=f"{number}>&-" if number else "<&-")
    assert os.readlink(f"/proc/{process.pid}/fd/{number}") == os.devnull


def test_a_server_goes_on_when_nobody_reads_its_log(cli, path, serve):
    log = path.parent / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    process = serve(path, redirect=f"2>{log}")
    os.close(reader)
    for _ in range(2):
        assert cli("send", path, input=b"hello\n").stdout == b"HELLO\n"
    assert process.end() == 0


@pytest.mark.parametrize("command", ["status", "explain", "clean"])
def test_what_the_encoding_has_not_got_is_printed_as_an_escape(cli, directory, make_socket, command):
    path = directory / "größe"
    make_socket(path).close()
    done = cli(command, directory if command == "clean" else path, set={"PYTHONIOENCODING": "ascii"})
    assert b"gr\\xf6\\xdfe" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize("command", ["status", "explain", "clean"])
def test_json_is_ascii(cli, directory, make_socket, command):
    path = directory / "größe"
    make_socket(path).close()
    done = cli(command, "--json", directory if command == "clean" else path)
    assert done.stdout.isascii()
    assert "größe" in json.dumps(json.loads(done.stdout), ensure_ascii=False)


NOT_UTF8 = b"n\xff\xfe"
SHOWN = "n\\xff\\xfe"


def test_a_name_that_is_not_utf8_is_served_asked_for_and_cleaned(cli, directory, serve):
    path = os.fsencode(directory) + b"/" + NOT_UTF8
    process = serve(path)
    assert cli("send", path, input=b"hello\n").stdout == b"HELLO\n"
    assert SHOWN in process.output()
    done = cli("status", path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert SHOWN.encode() in done.stdout
    (found,) = json.loads(cli("status", "--json", path).stdout)
    assert found["path"] == str(directory) + "/" + SHOWN
    assert found["state"] == "listening"
    process.kill()
    (found,) = json.loads(cli("clean", "--json", "--yes", directory).stdout)
    assert (found["path"], found["done"]) == (str(directory) + "/" + SHOWN, "removed")
    assert os.listdir(os.fsencode(directory)) == []


def test_a_name_that_is_not_utf8_is_explained_byte_by_byte(cli):
    done = cli("explain", b"/n\xff\xfe")
    assert b"2f 6e ff fe" in done.stdout
    assert json.loads(cli("explain", "--json", b"/n\xff\xfe").stdout)["unix"]["sun_path"] == "2f 6e ff fe"


def test_a_name_with_control_characters_stays_on_one_line(cli, complaint, directory):
    line = complaint(cli("send", directory / "two\nlines\x1b[31m"))
    assert "two\\nlines\\x1b[31m" in line


def test_an_interrupted_command_ends_without_a_traceback(variables, path, make_socket):
    listener = make_socket(path, backlog=5)
    command = [sys.executable, "-m", "udslab", "send", "--timeout", "0", path]
    with Process(command, env=variables, stdin=subprocess.PIPE) as process:
        connection, _ = listener.accept()  # it has connected, and waits for input
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.output() == ""
        connection.close()


@pytest.mark.parametrize("module", ["argparse", "shlex"])
@pytest.mark.parametrize(
    "run", [["-m", "udslab"], ["-c", "from udslab.__main__ import main; raise SystemExit(main())"]]
)
def test_a_command_that_is_interrupted_while_it_is_imported_ends_without_a_traceback(variables, directory, module, run):
    (directory / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    shadow = {**variables, "PYTHONPATH": f"{directory}:{variables['PYTHONPATH']}"}
    command = [sys.executable, *run, "audit", "--list"]
    done = subprocess.run(command, env=shadow, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
