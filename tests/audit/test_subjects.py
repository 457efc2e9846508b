"""The ready subjects: each is complete, and each that is installed starts, answers, and ends.

``PATH=$(script/subjects):$PATH script/test tests/audit`` has all of them installed; others are skipped."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from udslab import SocketType
from udslab.audit.asking import answers
from udslab.audit.host import ProcessHost, user_named
from udslab.audit.ping import PRESETS, Ping
from udslab.audit.scene import Scene, Start
from udslab.audit.subject import Subject
from udslab.audit.verdicts import VERDICTS
from udslab.errors import ServiceError
from udslab.subjects import READY, load, ready

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
ATTEMPTS = 10
"""At a ping, each on a connection of its own: some replace their socket a moment after it is there."""
SUBJECTS = load(READY)
PRIVILEGED = [name for name, subject in SUBJECTS.items() if subject.root_command]


def texts(subject):
    commands = [subject.command, subject.root_command, *subject.setup]
    return [*sum(commands, ()), *subject.files.values(), *subject.env.values(), *subject.logs]


# What is written


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_ready_subject_is_complete(name):
    subject = ready(name)
    assert subject.name == name
    assert subject.version
    assert re.fullmatch(r"(from Debian \d+ on: )?(apt-get|pip|npm) install [a-z0-9 .-]+", subject.get)
    assert subject.ping or subject.note, "it says why nobody can ask it"
    assert set(subject.skips) <= set(VERDICTS)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_ready_subject_is_told_its_path_and_uses_no_unknown_word(name):
    subject = ready(name)
    text = "\n".join(texts(subject))
    assert set(re.findall(r"\{([a-z]+)\}", text)) <= {"socket", "parent", "name", "dir"}
    assert "{socket}" in text or ("{parent}" in text and subject.socket_name)


@pytest.mark.parametrize("name", SUBJECTS)
def test_commands_use_only_files_that_the_subject_brings_or_makes(name):
    subject = ready(name)
    brought = {
        match for text in texts(subject) for match in re.findall(r"\{dir\}/([\w-]+\.(?:conf|cfg|ini|py|ru))\b", text)
    }
    assert brought <= set(subject.files)


def test_no_ready_subject_of_that_name():
    with pytest.raises(ServiceError) as caught:
        ready("nonesuch")
    there = ", ".join(sorted(SUBJECTS))
    assert str(caught.value) == f"service: no ready subject is called 'nonesuch' (EINVAL): there are {there}"


def test_the_script_installs_nothing_that_is_no_ready_subject():
    script = Path(__file__).parent.parent.parent / "script" / "subjects"
    done = subprocess.run([script, "nonesuch"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "script/subjects: no ready subject is called nonesuch\n"


# What is started


@pytest.fixture(scope="module")
def host():
    with ProcessHost(user_named(None)) as host:
        yield host


@pytest.fixture
def subject(request):
    subject = SUBJECTS[request.param]
    if missing := subject.missing():
        pytest.skip(f"{missing} is not installed: {subject.get}")
    return subject


def serve(scene, path=None, *, root=False):
    """A fresh installation that serves ``path``."""
    run = scene.instance(path).start("it", root=root)
    assert run.settle() is Start.SERVES, "\n".join([*scene.evidence, *run.lines()])
    return run


def assert_answers(run, subject):
    whys = (answers(run.path, subject.ping, subject.type, LIMIT / ATTEMPTS) for _ in range(ATTEMPTS))
    assert not all(whys), "\n".join(run.lines())


def users(pids):
    """The uids, real, effective and saved, that each of these processes has; those that have just ended have none."""
    found = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{pid}/status").read_text()
            found.append(set(re.search(r"^Uid:(.*)$", status, re.MULTILINE)[1].split()))
    return found


def internet_sockets(pids):
    """The inodes of the TCP and UDP sockets that listen, or are bound, in these processes."""
    bound = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] in ("0A", "07"):  # TCP_LISTEN; TCP_CLOSE, which all UDP sockets are that are not connected
                bound.add(f"socket:[{words[9]}]")
    found = set()
    for pid in pids:
        # It has just gone; or it shows its descriptors to root alone, as agents do.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    found.add(os.readlink(fd))
    return found & bound


@pytest.mark.soak
@pytest.mark.parametrize("subject", SUBJECTS, indirect=True)
def test_it_serves_and_answers_and_ends_beside_another_of_its_kind(subject, host):
    with Scene(subject, host, LIMIT) as scene:
        temporary = scene.env["TMPDIR"] = scene.make_directory("t")
        first = serve(scene)
        second = serve(scene, os.path.join(scene.make_directory("q"), os.path.basename(scene.path)))
        for run in (first, second):
            if subject.ping:
                assert_answers(run, subject)
            assert not internet_sockets(run.pids)
            if host.user is not None:
                assert set().union(*users(run.pids)) == {str(host.user.uid)}
        second.kill()
        first.stop()  # by SIGKILL, if SIGTERM is not heard: whether it is, is for a probe to say
        assert first.gone
        assert second.gone
        assert os.listdir(temporary) == []
        assert set(os.listdir(scene.top)) == {"p", "q", "t", "1", "2"}


@pytest.mark.soak
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which is given up")
@pytest.mark.parametrize("subject", PRIVILEGED, indirect=True)
def test_started_by_root_it_becomes_an_ordinary_user(subject, host):
    with Scene(subject, host, LIMIT) as scene:
        run = serve(scene, root=True)
        if subject.ping:  # those that work for it have become who they are to be
            assert_answers(run, subject)
        assert {str(host.user.uid)} in users(run.pids)
        run.stop()
        assert run.gone


@pytest.mark.parametrize("subject", SUBJECTS, indirect=True)
def test_it_says_its_version(subject, host):
    with Scene(subject, host, LIMIT) as scene:
        process = host.start(subject.version, env=scene.env, cwd=scene.top)
        try:
            assert process.gone_within(LIMIT)
            assert process.gone() == "has ended with status 0"
            assert re.search(r"\d+\.\d+", process.output().splitlines()[0])
        finally:
            process.__exit__()


def test_instances_of_xvfb_at_one_path_meet_at_its_lock(host):
    subject = SUBJECTS["xvfb"]
    if missing := subject.missing():
        pytest.skip(f"{missing} is not installed: {subject.get}")
    with Scene(subject, host, LIMIT) as scene:
        serve(scene)
        second = scene.instance().start("the second")
        assert second.settle() is Start.EXITED
        assert "/tmp/.X7-lock" in "\n".join(second.lines())


# Files of one's own


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "subjects.toml"
        path.write_bytes(text.encode("latin-1"))
        return path

    return write


NO_FILE = "it is to be a TOML file, with a table for each subject"
NO_NAME = " (EINVAL): a name is not empty, not . nor .., and holds neither / nor NUL"
NO_VARIABLE = " (EINVAL): a name is not empty and holds no =, and neither it nor its value holds a NUL"
NO_PING = (
    "the subject mine has a ping that is not the name of one, nor a table of send and expect, "
    "in characters of one byte (EINVAL)"
)


def refusal(path):
    with pytest.raises(ServiceError) as caught:
        load(path)
    return str(caught.value).replace(f"{path}", "PATH")


def test_a_file_of_ones_own(write):
    mine = load(
        write("""
        [mine]
        command = "mine --socket '{socket}'"
        setup = ["mine --init {dir}", ["mine", "--check"]]
        ping = { send = "\\u0000\\u00ff", expect = "ok" }
        type = "seqpacket"
        files = { "mine.conf" = "path = {socket}" }
        [yours]
        name = "something else"
        command = ["/opt/yours", "{parent}"]
        ping = "echo"
        """)
    )
    assert list(mine) == ["mine", "yours"]
    assert mine["mine"] == Subject(
        ("mine", "--socket", "{socket}"),
        "mine",
        setup=(("mine", "--init", "{dir}"), ("mine", "--check")),
        ping=Ping(b"\0\xff", b"ok"),
        type=SocketType.SEQPACKET,
        files={"mine.conf": "path = {socket}"},
    )
    assert mine["yours"].name == "something else"
    assert mine["yours"].ping == PRESETS["echo"]


def test_what_is_not_installed_is_missing(write):
    found = load(
        write("""
        [program]
        command = "no-such-program {socket}"
        setup = ["no-such-tool", "true"]
        [module]
        command = "python3 {socket}"
        modules = ["sys", "no_such_module", "os.path", "no.such.module", "os.no_such", "os.path.no_such"]
        [image]
        command = "no-such-program {socket}"
        image = "debian:12"
        [path]
        command = ["{dir}/made-by-setup", "{socket}"]
        setup = ["./made-by-another"]
        """)
    )
    assert {name: subject.missing() for name, subject in found.items()} == {
        "program": "no-such-program, no-such-tool",
        "module": "no_such_module, no.such.module, os.no_such, os.path.no_such",
        "image": "",
        "path": "",
    }


@pytest.mark.skipif(not os.path.exists("/usr/sbin/ldconfig"), reason="needs ldconfig in /usr/sbin")
def test_a_program_in_a_directory_of_servers_is_not_missing_for_who_has_it_not_in_path(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert Subject("ldconfig {socket}").missing() == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{}\ncolour = "red"\nage = 3', "the subject mine has age, colour, which no subject has (EINVAL)"),
        ('[mine]\nping = "echo"', "the subject mine has no command (EINVAL)"),
        *(
            (
                f"{{}}\n{key} = {value}",
                f"the subject mine: {key}: the command {command} names no program (EINVAL): "
                "its first word is to be one",
            )
            for key, value, command in (
                ("setup", "[[]]", "[]"),
                ("setup", '[""]', "[]"),
                ("setup", '["true", ["", "x"]]', "['', 'x']"),
                ("version", '[""]', "['']"),
                ("root_command", '" "', "[]"),
            )
        ),
        (
            '[mine]\ncommand = ""',
            "the subject mine: command: the command [] names no program (EINVAL): its first word is to be one",
        ),
        ("[mine]\ncommand = 3", "the subject mine has a command that is not a text or a list of texts (EINVAL)"),
        (
            '[mine]\ncommand = "mine --port 0"',
            "the subject mine: the command 'mine --port 0' is not told which path it is to serve (EINVAL): "
            "write {socket} in the command where the path belongs",
        ),
        (
            '{}\nroot_command = "mine --user nobody"',
            "the subject mine: the root_command 'mine --user nobody' is not told which path it is to serve (EINVAL): "
            "write {socket} in the command where the path belongs",
        ),
        ('{}\nping = "pong"', f"the subject mine: no ping is called 'pong' (EINVAL): there are {', '.join(PRESETS)}"),
        *((f"{{}}\nping = {ping}", NO_PING) for ping in ("3", '{sned="x"}', '{send="x"}', '{expect="\\u20ac"}')),
        (
            '{}\ntype = "raw"',
            "the subject mine: no type of socket is called 'raw' (EINVAL): there are stream, dgram, seqpacket",
        ),
        ('{}\nsetup = "init"', "the subject mine has a setup that is not a list of commands (EINVAL)"),
        ("{}\nfiles = {a = 1}", "the subject mine has a files that is not a table of texts (EINVAL)"),
        ('{}\nlogs = "log"', "the subject mine has a logs that is not a list of texts (EINVAL)"),
        (
            '{}\nskips = {x = "y"}',
            "the subject mine: no probe is called 'x', which the subject skips (EINVAL): "
            f"there are {', '.join(VERDICTS)}",
        ),
        (
            '[mine]\ncommand = "mine \'{socket}"',
            'the subject mine: command: "mine \'{socket}" is no command: No closing quotation (EINVAL): '
            "its words are taken apart as by a shell",
        ),
        ("{}\nskips = 3", "the subject mine has a skips that is not a table of texts (EINVAL)"),
        ('{}\nstart_limit = "60"', "the subject mine has a start_limit that is not a number (EINVAL)"),
        ("{}\nstart_limit = true", "the subject mine has a start_limit that is not a number (EINVAL)"),
        *(
            (
                f"{{}}\nstart_limit = {limit}",
                f"the subject mine: start_limit: a start takes no {limit} seconds (EINVAL): give a number above 0",
            )
            for limit in ("0", "-1", "inf", "nan")
        ),
        ("{}\nget = true", "the subject mine has a get that is not a text (EINVAL)"),
        *(
            (
                f"{{}}\nsocket_name = {name}",
                "the subject mine has a socket_name that is not the name of a file (EINVAL)",
            )
            for name in ('""', '"."', '".."', '"a/b"', '"/a"', '"a\\u0000b"')
        ),
        *(
            (f'{{}}\nfiles = {{ "{name}" = "x" }}', f"the subject mine: files: {name!r} is no file's name{NO_NAME}")
            for name in ("", "..", "/tmp/x", "../../../x", "sub/dir/x")
        ),
        *(
            (
                f'{{}}\nenv = {{ "{name}" = "x" }}',
                f"the subject mine: env: no environment can hold the variable {name!r} with 'x'{NO_VARIABLE}",
            )
            for name in ("", "A=B")
        ),
        (
            '{}\nenv = { A = "a\\u0000b" }',
            f"the subject mine: env: no environment can hold the variable 'A' with 'a\\x00b'{NO_VARIABLE}",
        ),
        *(
            (
                f"{{}}\n{key} = {value}",
                f"the subject mine: {key}: the word 'a\\x00b' of the command holds a NUL (EINVAL): "
                "a program's words end there",
            )
            for key, value in (
                ("setup", '[["x", "a\\u0000b"]]'),
                ("version", '["x", "a\\u0000b"]'),
                ("root_command", '["x", "{socket}", "a\\u0000b"]'),
            )
        ),
        *(
            (
                f'{{}}\nmodules = ["{name}"]',
                f"the subject mine: modules: {name!r} is no module's name (EINVAL): write it as Python imports it",
            )
            for name in ("", "a..b", "a b", "python-dateutil")
        ),
        ("mine = 3", "mine is no table (EINVAL): each subject is a table, as in [redis]"),
        ("[mine", f"Expected ']' at the end of a table declaration (at end of document) (EINVAL): {NO_FILE}"),
        ("\xff", f"'utf-8' codec can't decode byte 0xff in position 0: invalid start byte (EINVAL): {NO_FILE}"),
    ],
)
def test_what_is_refused(write, text, said):
    assert refusal(write(text.replace("{}", '[mine]\ncommand = "mine {socket}"'))) == f"service: PATH: {said}"


@pytest.mark.parametrize("name", ["..", "a/b", "a\0b"])
def test_a_name_that_is_none_is_refused_from_python_too(name):
    for given in ({"socket_name": name}, {"files": {name: ""}}):
        with pytest.raises(ServiceError, match="is no file's name"):
            Subject(["mine", "{socket}"], **given)


def test_a_ping_that_all_answers_would_do_for_is_none():
    with pytest.raises(ServiceError, match="the ping expects nothing"):
        Subject(["mine", "{socket}"], ping=Ping(b"x", b""))


@pytest.mark.parametrize("field", [{"setup": ["sh -c 'echo {socket} > c'"]}, {"files": {"c": "{parent}"}}])
def test_the_path_may_be_told_by_what_is_done_before_the_start(field):
    assert Subject(["mine", "{dir}/c"], root_command=["mine", "-u", "nobody", "{dir}/c"], **field)


def test_a_program_that_is_there_and_cannot_be_started_is_not_missing(tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [Subject([word, "{socket}"]).missing() for word in ("plain", f"{tmp_path}/plain", str(tmp_path))] == [""] * 3
    assert Subject([f"{tmp_path}/plain/below", "{socket}"]).missing() == f"{tmp_path}/plain/below"


def test_a_working_directory_that_is_gone_is_told_where_it_matters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert Subject(["/opt/mine", "{socket}"]).command[0] == "/opt/mine"
    with pytest.raises(ServiceError) as caught:
        Subject(["./mine", "{socket}"])
    reason = "this directory is gone (EINVAL): go to one that is there, or give the program's whole path"
    assert str(caught.value) == f"service: command: './mine' leads nowhere: {reason}"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "subjects.toml")
