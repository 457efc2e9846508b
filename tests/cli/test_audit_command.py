"""`udslab audit`: what can be asked of it, what it prints and writes, with which status, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import udslab
from udslab.audit.findings import SCHEMA, Audit
from udslab.audit.ping import PRESETS
from udslab.audit.verdicts import VERDICTS, Verdict
from udslab.spawn import Process
from udslab.subjects import READY, load

IS_ROOT = os.geteuid() == 0
MISSING = "[missing]\ncommand = 'no-such-program {socket}'\nget = 'ask its maker'\n"
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def audits(done: subprocess.CompletedProcess[bytes]) -> list[dict]:
    """What `--json -` has printed."""
    assert done.stderr == b""
    told = json.loads(done.stdout)
    return told if isinstance(told, list) else [told]


def found(done: subprocess.CompletedProcess[bytes]) -> dict[str, dict]:
    """The findings about the one subject, by probe."""
    (told,) = audits(done)
    return {finding["probe"]: finding for finding in told["findings"]}


def outcomes(done: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    return {probe: finding["outcome"] for probe, finding in found(done).items()}


@pytest.fixture
def audit(cli, planted) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs `udslab audit OPTIONS… -- COMMAND…` of a planted server, or of ``command``, for JSON unless ``printed``."""

    def run(*options, traits="perfect", command=None, printed=False, **keywords):
        form = () if printed else ("--json", "-")
        return cli("audit", *options, *form, "--", *(command or planted(traits)), **keywords)

    return run


def table(name: str, command: list[str], **more: str) -> str:
    """A subject, as TOML."""
    fields = {"command": command, "ping": "echo", **more}
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())


# What is audited


def test_a_command_is_put_through_the_probes(audit):
    done = audit("--only", "fresh-start", "term-cleanup")
    assert outcomes(done) == {"fresh-start": "listens", "term-cleanup": "removed"}
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "names"),
    [([], ["good", "greedy"]), (["greedy"], ["greedy"]), (["greedy", "good", "good"], ["greedy", "good", "good"])],
)
def test_subjects_come_from_a_file(cli, planted, directory, words, names):
    file = directory / "subjects.toml"
    file.write_text(table("good", planted()) + table("greedy", planted("exists=unlink")))
    done = cli("audit", *words, "--subjects", file, "--only", "regular-file", "--json", "-")
    told = audits(done)
    assert [one["subject"]["name"] for one in told] == names
    expected = {"good": "refused-kept", "greedy": "deleted-starts"}
    assert [one["findings"][0]["outcome"] for one in told] == [expected[name] for name in names]
    assert done.returncode == 1


def test_of_one_subject_the_json_is_one_object_and_of_several_a_list(cli, directory):
    file = directory / "subjects.toml"
    file.write_text(MISSING)
    assert isinstance(json.loads(cli("audit", "--subjects", file, "--json", "-").stdout), dict)
    file.write_text(MISSING + MISSING.replace("[missing]", "[other]"))
    assert isinstance(json.loads(cli("audit", "--subjects", file, "--json", "-").stdout), list)


def test_a_ready_subject_is_audited_by_its_name(cli):
    there = [name for name in ("socketserver", "asyncio") if not load(READY)[name].missing()]
    if not there:
        pytest.skip("no ready subject is installed here")
    done = cli("audit", there[0], "--only", "fresh-start", "--json", "-")
    (told,) = audits(done)
    assert told["subject"]["name"] == there[0]
    assert told["findings"][0]["outcome"] == "listens"
    assert told["subject"]["version"]


def test_a_program_that_is_not_installed_is_told_with_how_to_get_it(cli, directory):
    file = directory / "subjects.toml"
    file.write_text(MISSING)
    (told,) = audits(done := cli("audit", "--subjects", file, "--json", "-"))
    assert told["subject"]["why"] == "no-such-program is not installed: ask its maker"
    assert told["findings"] == []
    assert done.returncode == 1  # nothing is known of it: that is no success
    shown = cli("audit", "--subjects", file)
    assert b"  not audited: no-such-program is not installed: ask its maker\n" in shown.stdout
    assert (shown.returncode, shown.stderr) == (1, b"")


def test_one_that_is_not_installed_does_not_spoil_the_others(cli, planted, directory):
    file = directory / "subjects.toml"
    file.write_text(MISSING + table("good", planted()))
    done = cli("audit", "--subjects", file, "--only", "term-cleanup", "--json", "-")
    missing, good = audits(done)
    assert missing["findings"] == []
    assert good["findings"][0]["outcome"] == "removed"
    assert done.returncode == 0


def test_a_command_that_does_not_start_fails_there_and_is_skipped_elsewhere_with_why(audit):
    command = ["sh", "-c", "echo no luck; exit 3", "{socket}"]
    done = audit("--only", "fresh-start", "term-cleanup", "regular-file", command=command)
    findings = found(done)
    assert findings["fresh-start"]["outcome"] == "fails"
    assert findings["fresh-start"]["verdict"] == "fail"
    for probe in ("term-cleanup", "regular-file"):
        assert findings[probe]["verdict"] == "skip"
        why = "it does not start: the server has ended with status 3; its last line: no luck"
        assert findings[probe]["why"] == why
    assert done.returncode == 1


def test_a_program_that_its_user_may_not_run_is_skipped_with_why(audit, directory):
    program = directory / "server"  # the directory is its owner's alone
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    if not IS_ROOT:
        program.chmod(0o111)
        pytest.skip("needs root, for a server of another user")
    done = audit("--only", "fresh-start", "term-cleanup", command=[str(program), "{socket}"])
    why = f"user nobody may not search {directory.parent}, where it may be; "
    why += "it runs as nobody, or as whom user= (--user) names"
    assert {finding["why"] for finding in found(done).values()} == {
        f"agent: {program}: Permission denied (EACCES): {why}"
    }
    assert done.returncode == 1


def test_a_program_that_is_there_and_is_none_is_told_with_what_it_is(audit, directory):
    for outer in (directory, directory.parent):
        outer.chmod(0o711)
    (directory / "plain").touch()
    for name, reason in (("plain", "it is not executable: chmod +x"), (".", "it is a directory")):
        done = audit("--only", "term-cleanup", command=[f"{directory}/{name}", "{socket}"])
        why = found(done)["term-cleanup"]["why"]
        assert why.startswith(f"agent: {directory}/{name}: Permission denied (EACCES): {reason}")


def test_a_program_may_be_named_from_where_one_is(audit, directory, planted):
    for outer in (directory, directory.parent):
        outer.chmod(0o711)
    program = directory / "server"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(planted()[:-1])} "$1"\n')
    program.chmod(0o755)
    done = audit("--only", "fresh-start", command=["./server", "{socket}"], cwd=directory)
    assert outcomes(done) == {"fresh-start": "listens"}
    assert audits(done)[0]["subject"]["command"] == [str(program), "{socket}"]


def test_where_one_of_several_does_not_start_the_status_tells(cli, planted, directory):
    file = directory / "subjects.toml"
    file.write_text(table("good", planted()) + table("broken", ["false", "{socket}"]))
    assert cli("audit", "--subjects", file, "--only", "term-cleanup", "--json", "-").returncode == 1


# Which probes


@pytest.mark.parametrize(
    ("patterns", "probes"),
    [
        (["--only", "term-cleanup"], ["term-cleanup"]),
        (["--only", "*-cleanup"], ["term-cleanup", "int-cleanup"]),
        (["--only", "int-cleanup", "term-*"], ["term-cleanup", "int-cleanup"]),
        (["--only", "int-cleanup", "--only", "[t]erm-cleanup"], ["term-cleanup", "int-cleanup"]),
    ],
)
def test_only_plays_those_probes_in_their_own_order(audit, patterns, probes):
    assert list(outcomes(audit(*patterns))) == probes


# How it is started, and asked


@pytest.mark.parametrize("words", [["echo"], ["p\\x69ng\\n", "\\160ing\\n"], ["ping\n", "ing"]])
@pytest.mark.parametrize(("traits", "outcome"), [("perfect", "answers"), ("half-close=aborts", "no-answer")])
def test_ping_is_a_preset_or_what_is_sent_and_expected_with_escapes(audit, words, traits, outcome):
    assert outcomes(audit("--only", "half-close", "--ping", *words, traits=traits)) == {"half-close": outcome}


def test_without_a_ping_a_probe_that_asks_is_skipped_and_says_so(audit):
    done = audit("--only", "half-close")
    why = "nobody knows how to ask this server whether it answers: give a ping"
    assert found(done)["half-close"]["why"] == why
    assert done.returncode == 1  # nothing has been told


@pytest.mark.parametrize("type", ["stream", "dgram", "seqpacket"])
def test_type_is_that_of_the_socket(audit, type):
    done = audit("--type", type, "--ping", "echo", "--only", "fresh-start", traits=f"type={type}")
    assert found(done)["fresh-start"]["facts"]["type"] == type


def test_start_limit_is_how_long_a_start_may_take(audit, cli, planted, directory):
    assert outcomes(audit("--start-limit", "0.3", "--only", "fresh-start", traits="start=slow")) == {
        "fresh-start": "hangs"
    }
    file = directory / "subjects.toml"
    file.write_text(table("slow", planted("start=slow")) + "start_limit = 0.3\n")
    for options, outcome in ((), "hangs"), (("--start-limit", "30"), "listens"):
        done = cli("audit", "--json", "-", "--only", "fresh-start", "--subjects", file, *options)
        assert outcomes(done) == {"fresh-start": outcome}


def test_setup_is_run_in_its_directory_before_each_first_start_in_order(audit, planted):
    command = ["sh", "-c", 'test "$(cat made)" = 12 && exec "$@"', "sh", *planted()]
    setup = ("--setup", "sh -c 'printf 1 > made'", "--setup", "sh -c 'printf 2 >> {dir}/made'")
    assert outcomes(audit(*setup, "--only", "fresh-start", command=command)) == {"fresh-start": "listens"}


def test_setup_may_be_what_tells_the_server_its_path(audit, planted):
    setup = ("--setup", "sh -c 'echo {socket} > path'")
    command = ["sh", "-c", f'exec {shlex.join(planted()[:-1])} "$(cat "$0")"', "{dir}/path"]
    assert outcomes(audit(*setup, "--only", "fresh-start", command=command)) == {"fresh-start": "listens"}


def test_a_setup_that_fails_skips_with_its_last_words(audit):
    done = audit("--setup", "sh -c 'echo no disk; exit 4'", "--only", "fresh-start", "term-cleanup")
    whys = {finding["why"] for finding in found(done).values()}
    assert whys == {"its set-up 'sh -c echo no disk; exit 4' has ended with status 4: no disk"}
    assert done.returncode == 1


def test_root_command_is_how_root_starts_it(audit, planted):
    if not IS_ROOT:
        pytest.skip("needs root, to start a server as root")
    root_command = " ".join(planted("perfect", "--user", "65534"))
    finding = found(audit("--root-command", root_command, "--only", "privilege-drop"))["privilege-drop"]
    assert finding["outcome"] == "removed"
    assert finding["facts"]["users"] == ["nobody", "root"]


@pytest.mark.parametrize(("user", "owner"), [(None, "nobody"), ("daemon", "daemon"), ("root", "root")])
def test_user_is_whom_the_server_runs_as(audit, user, owner):
    if not IS_ROOT:
        pytest.skip("needs root, to become another user")
    (told,) = audits(audit(*(["--user", user] if user else []), "--only", "fresh-start"))
    assert told["subject"]["user"] == owner
    assert told["findings"][0]["facts"]["owner"] == owner


def test_an_ordinary_user_audits_as_himself_and_as_nobody_else(cli_as_nobody, complaint, planted):
    command = ["--only", "fresh-start", "read-only-directory", "foreign-stale", "--json", "-", "--", *planted()]
    done = cli_as_nobody("audit", *command)
    findings = found(subprocess.CompletedProcess(done.args, done.returncode, done.stdout, done.stderr.encode()))
    assert [findings[probe]["outcome"] for probe in ("fresh-start", "read-only-directory")] == ["listens", "refused"]
    assert findings["fresh-start"]["facts"]["owner"] == "nobody"
    assert "run the audit as root" in findings["foreign-stale"]["why"]
    assert found(done_as_himself := cli_done(cli_as_nobody("audit", "--user", "nobody", *command[:2], *command[4:])))
    assert done_as_himself.returncode == 0
    line = complaint(cli_as_nobody("audit", "--user", "daemon", *command), status=2)
    reason = "only root can run a server as daemon (EINVAL): leave out --user, or audit as root"
    assert line == f"udslab: service: {reason}"


def cli_done(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.encode(), done.stderr.encode())


# Wrong use


WORDS = ["--", "server", "{socket}"]
PROBES = ", ".join(VERDICTS)
NAMES = ", ".join(load(READY))
UNASKED = "is for a command, and none is given (EINVAL): write {socket} in the command where the path belongs"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing is given to audit (EINVAL): name subjects (--list shows them), or a command after --"),
        (["--", "redis-server"], f"no subject is called 'redis-server' (EINVAL): there are {NAMES}; a command has "
         "{socket} where its path belongs"),
        (["--", "server", "{sock}"], "the command 'server {sock}' is not told which path it is to serve (EINVAL): "
         "write {socket} in the command where the path belongs"),
        (["--only", "nothing", *WORDS], f"no probe is called 'nothing' (EINVAL): there are {PROBES}"),
        (["--only", "term-*", "x*", *WORDS], f"no probe is called 'x*' (EINVAL): there are {PROBES}"),
        (["--ping", "gopher", *WORDS], f"no ping is called 'gopher' (EINVAL): there are "
         f"{', '.join(PRESETS)}"),
        (["--ping", "a", "b", "c", *WORDS], "--ping takes the name of a preset, or what to send "
         "and what to expect (EINVAL)"),
        (["--ping", "\\x", "b", *WORDS], "--ping '\\\\x': invalid \\x escape at position 0 (EINVAL)"),
        (["--ping", "echo", "--", "redis"], f"--ping {UNASKED}"),
        (["--setup", "true", "--", "redis"], f"--setup {UNASKED}"),
        (["--root-command", "true", "--", "redis"], f"--root-command {UNASKED}"),
        (["--type", "stream", "--", "redis"], f"--type {UNASKED}"),
        (["--subjects", "mine.toml", *WORDS], "--subjects is for names, and a command is given (EINVAL): audit one "
         "after the other"),
        (["--start-limit", "0", *WORDS], "start_limit: a start takes no 0 seconds (EINVAL): give a number above 0"),
        (["--start-limit", "nan", *WORDS], "start_limit: a start takes no nan seconds (EINVAL): give a number above 0"),
        (["--user", "no-such-user", *WORDS], "no user is called 'no-such-user' (EINVAL): give the "
         "name of one that /etc/passwd has"),
        *((words, f"{words[0][2:].replace('-', '_')}: {words[1]!r} is no command: No closing quotation (EINVAL): "
           "its words are taken apart as by a shell")
          for words in (["--setup", "'", *WORDS], ["--root-command", "a 'b", *WORDS])),
        *((words, f"{key}: the command {command} names no program (EINVAL): its first word is to be one")
          for words, key, command in ((["--setup", "", *WORDS], "setup", "[]"),
                                      (["--root-command", " ", *WORDS], "root_command", "[]"),
                                      (["--", "", "{socket}"], "command", "['', '{socket}']"))),
        (["--root-command", "server -u nobody", *WORDS], "the root_command 'server -u nobody' is not told which path "
         "it is to serve (EINVAL): write {socket} in the command where the path belongs"),
        (["--ping", "hello", "", *WORDS], "the ping expects nothing, which all answers have (EINVAL): give what is to "
         "be in the answer"),
        (["--json", "-", "--html", "-", *WORDS], "two forms cannot be written to the same place "
         "(EINVAL)"),
    ],
)  # fmt: skip
def test_wrong_use_is_told_in_a_line(main_here, complaint, words, said):
    assert complaint(main_here("audit", *words), status=2) == f"udslab: service: {said}"


@pytest.mark.parametrize("jobs", ["0", "-1", "65", "two", "1.5", ""])
def test_the_number_of_jobs_is_one_from_1_to_64(main_here, jobs):
    done = main_here("audit", f"-j{jobs}" if jobs.startswith("-") else f"--jobs={jobs}", "redis")
    assert done.returncode == 2
    word = f"-j{jobs}"[2:] if jobs.startswith("-") else jobs
    assert f"argument -j/--jobs: {word!r} is no number from 1 to 64" in done.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--type", "raw"], "argument --type: invalid choice: 'raw'"),
        (["--fail-on", "info"], "argument --fail-on: invalid choice: 'info'"),
        (["--ping"], "argument --ping: expected at least one argument"),
        (["--only"], "argument --only: expected at least one argument"),
        (["--start-limit", "soon"], "argument --start-limit: invalid float value: 'soon'"),
    ],
)
def test_an_option_that_is_none_is_told_with_the_usage(main_here, option, said):
    done = main_here("audit", *option, "--", "server", "{socket}")
    assert done.returncode == 2
    assert f"udslab audit: error: {said}" in done.stderr
    assert done.stderr.startswith("usage: udslab audit [options] -- COMMAND... {socket}\n")


def test_a_file_of_subjects_that_cannot_be_used_is_told_with_its_name(main_here, complaint, directory):
    file = directory / "subjects.toml"
    for path, reason in ((file, "No such file or directory (ENOENT)"), (directory, "Is a directory (EISDIR)")):
        assert complaint(main_here("audit", "--subjects", path), status=2) == f"udslab: {path}: {reason}"
    for text, reason in (
        ("x", ": it is to be a TOML file, with a table for each subject"),
        ("", f"{file}: it names no subjects (EINVAL): each subject is a table, as in [redis]"),
        ("x = 1", f"{file}: x is no table (EINVAL): each subject is a table, as in [redis]"),
        ("[x]", f"{file}: the subject x has no command (EINVAL)"),
        ("[x]\ncommand = 'a {socket}'\nport = 1", f"{file}: the subject x has port, which no subject has (EINVAL)"),
        (MISSING + "image = 'debian'", "the subject missing runs in a container, and this command audits processes of "
         "this machine (EINVAL): put it through uds_audit, in a test"),
    ):  # fmt: skip
        file.write_text(text)
        line = complaint(main_here("audit", "--subjects", file), status=2)
        assert line.startswith("udslab: service: ")
        assert line.endswith(reason)


# What is printed and written


def test_the_score_card_is_printed(audit):
    done = audit("--only", "regular-file", "directory", traits="exists=unlink", printed=True)
    lines = done.stdout.decode().splitlines()
    assert any(re.fullmatch(r"X regular-file +deleted-starts +fail", line) for line in lines)
    assert any(re.fullmatch(r"\. directory +refused-kept +pass", line) for line in lines)
    assert lines[-1] == "2 findings:  X 1 fail  ! 0 warn  . 1 pass  i 0 info  - 0 skip"
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_json_is_what_is_promised(audit):
    """The contract: keys, the types of what is behind them, and the words."""
    done = audit("--only", "fresh-start", "*-cleanup", "second-*", "half-close", "path-length", traits="exists=unlink")
    told = json.loads(done.stdout)
    assert list(told) == ["schema", "subject", "findings"]
    assert told["schema"] == SCHEMA == 1
    subject = told["subject"]
    assert list(subject) == ["name", "command", "version", "user", "kernel", "lab"]
    assert all(isinstance(word, str) for word in subject["command"])
    assert all(isinstance(value, str) for key, value in subject.items() if key != "command")
    assert subject["command"][-1] == "{socket}"
    assert subject["kernel"] == f"{os.uname().sysname} {os.uname().release}"
    assert subject["lab"] == udslab.__version__
    for finding in told["findings"]:
        keys = ["probe", "outcome", "verdict", "facts", "evidence", "seconds"]
        skipped = finding["verdict"] == "skip"
        assert list(finding) == [*keys, "why"] if skipped else keys
        assert finding["verdict"] in list(Verdict)
        assert finding["outcome"] in ([""] if skipped else VERDICTS[finding["probe"]])
        assert isinstance(finding["facts"], dict)
        assert all(isinstance(line, str) and line.isprintable() for line in finding["evidence"])
        assert skipped or finding["evidence"]
        assert isinstance(finding["seconds"], float)
        assert finding["seconds"] >= 0
    facts = {finding["probe"]: finding["facts"] for finding in told["findings"]}
    assert facts["fresh-start"] == {
        **{"modes": {"022": "0755", "077": "0700", "000": "0777"}, "follows_umask": True, "open_to_all": False},
        **{"owner": facts["fresh-start"]["owner"], "type": "stream", "backlog": 128, "sockets": 1, "processes": 1},
        "seconds": facts["fresh-start"]["seconds"],
    }
    assert facts["path-length"] == {"107": "listens", "108": "refused", "120": "refused", "max_ok": 107}
    assert Audit.from_dict(told).as_dict() == told


def test_each_form_is_written_where_it_is_wanted_and_the_card_is_printed_as_well(audit, directory):
    pytest.importorskip("jinja2")
    files = {form: directory / f"card.{form}" for form in ("json", "html", "markdown")}
    files["json"].write_text("what was there before, and is longer than what is to be written" * 1000)
    options = [word for form, file in files.items() for word in (f"--{form}", str(file))]
    done = audit(*options, "--only", "term-cleanup", printed=True)
    assert b"term-cleanup                removed" in done.stdout
    assert json.loads(files["json"].read_text())["findings"][0]["outcome"] == "removed"
    assert files["html"].read_text().startswith("<!DOCTYPE html>")
    assert "Nothing fails, nothing warns." in files["markdown"].read_text()
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("form", "begins"), [("json", b"{"), ("html", b"<!DOCTYPE html>"), ("markdown", b"# ")])
def test_one_form_on_standard_output_takes_the_place_of_the_card_there(cli, directory, form, begins):
    pytest.importorskip("jinja2")
    file = directory / "subjects.toml"
    file.write_text(MISSING)
    done = cli("audit", "--subjects", file, f"--{form}", "-")
    assert done.stdout.startswith(begins)
    assert b"  not audited: " not in done.stdout


@pytest.mark.parametrize("form", ["json", "html", "markdown"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_audited(audit, complaint, directory, form):
    done = audit(
        f"--{form}",
        directory / "missing" / "card",
        command=["sh", "-c", f"touch {directory}/run", "{socket}"],
        printed=True,
    )
    path = f"{directory}/missing/card"
    assert complaint(done, status=2) == f"udslab: {path}: No such file or directory (ENOENT)"
    assert not (directory / "run").exists()


def test_what_cannot_be_written_at_the_end_is_told_and_all_else_is_printed_and_written(audit, directory):
    reports = directory / "reports"
    for place, mode in ((directory.parent, 0o711), (directory, 0o777)):
        place.chmod(mode)
    reports.mkdir()
    files = ("--json", "/dev/full", "--html", f"{reports}/card", "--markdown", f"{directory}/card")
    done = audit(*files, "--setup", f"rm -rf {reports}", "--only", "term-cleanup", printed=True)
    assert b"term-cleanup                removed" in done.stdout
    assert "Nothing fails, nothing warns." in (directory / "card").read_text()
    assert done.stderr.decode().splitlines() == [
        "udslab: /dev/full: No space left on device (ENOSPC): what was to be written is lost",
        f"udslab: {reports}/card: No such file or directory (ENOENT): what was to be written is lost",
    ]
    assert done.returncode == 2


def test_a_file_is_written_when_nobody_reads_what_is_printed(audit, complaint, broken_pipe, directory):
    done = audit("--only", "term-cleanup", "--json", directory / "card", stdout=broken_pipe, printed=True)
    assert complaint(done) == "udslab: standard output: Broken pipe (EPIPE): what was to be printed is lost"
    assert json.loads((directory / "card").read_text())["findings"][0]["outcome"] == "removed"


def test_another_name_of_standard_output_is_standard_output(audit, directory):
    for name in ("/dev/stdout", "/proc/self/fd/1"):
        done = audit("--only", "term-cleanup", "--json", name, printed=True, redirect=f">{directory}/printed")
        assert done.stderr == b""
        assert json.loads((directory / "printed").read_text())["findings"][0]["outcome"] == "removed"


def test_without_jinja2_there_is_no_html_and_that_is_told_before(audit, complaint, directory):
    (directory / "jinja2.py").write_text("raise ImportError('not here')\n")
    shadow = {"PYTHONPATH": f"{directory}:{Path(udslab.__file__).parent.parent}"}
    for file in ("-", directory / "card.html"):
        line = complaint(audit("--json", directory / "card.json", "--html", file, set=shadow, printed=True), status=2)
        assert line == "udslab: service: --html: jinja2 is not installed (EINVAL): pip install 'pytest-udslab[report]'"
    assert not list(directory.glob("card.*"))


@pytest.mark.parametrize(
    ("traits", "least", "status"),
    [
        ("perfect", "fail", 0),
        ("perfect", "warn", 0),
        ("term=leave", "fail", 0),
        ("term=leave", "warn", 1),
        ("start=exit-3", "fail", 1),
        ("start=exit-3", "warn", 1),
    ],
)
def test_the_status_tells_whether_a_probe_has_failed(audit, traits, least, status):
    done = audit("--fail-on", least, "--only", "fresh-start", "term-cleanup", traits=traits)
    assert done.returncode == status


def test_list_shows_subjects_with_how_to_get_them_and_probes_with_what_is_done(main_here, directory):
    file = directory / "subjects.toml"
    file.write_text(MISSING + "[there]\ncommand = 'sh {socket}'\n")
    done = main_here("audit", "--list", "--subjects", file)
    subjects, probes = done.stdout.split("\n\n")
    assert subjects.splitlines() == [
        "SUBJECT  PROGRAM  HOW TO GET IT",
        "missing  missing  ask its maker",
        "there    there",
    ]
    assert [line.split()[0] for line in probes.splitlines()] == ["PROBE", *VERDICTS]
    assert all(len(line.split()) > 1 for line in probes.splitlines())
    assert (done.returncode, done.stderr) == (0, "")


def test_list_shows_the_ready_subjects(main_here):
    listed = main_here("audit", "--list").stdout.split("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(load(READY))


def test_a_closed_standard_output_is_told(audit, complaint):
    done = audit("--only", "term-cleanup", printed=True, redirect=">&-")
    reason = "Bad file descriptor (EBADF): what was to be printed is lost"
    assert complaint(done) == f"udslab: standard output: {reason}"


def test_a_reader_that_has_gone_is_told(audit, complaint, broken_pipe):
    done = audit("--only", "term-cleanup", stdout=broken_pipe)
    assert complaint(done) == "udslab: standard output: Broken pipe (EPIPE): what was to be printed is lost"


def test_on_a_terminal_a_bar_shows_how_far_it_is_and_the_card_fits(on_terminal, planted):
    pytest.importorskip("rich")
    shown = on_terminal("audit", "-j1", "--only", "*-cleanup", "--", *planted("term=leave"))
    plain = COLOUR.sub("", shown)
    assert re.search(r"audit ━+ 0/2 \d:\d\d:\d\d", plain)
    assert "2/2" in plain
    assert re.search(r"\x1b\[\d*[A2]?K", shown)  # it is erased at the end
    card = plain[plain.rindex("2/2") :].splitlines()[1:]
    assert card[-1] == "2 findings:  X 0 fail  ! 1 warn  . 1 pass  i 0 info  - 0 skip"
    assert max(map(len, card)) <= 80


def test_no_bar_where_there_is_no_terminal(audit):
    assert audit("--only", "fresh-start", command=["false", "{socket}"], printed=True).stderr == b""


def test_no_harness_in_the_background_hands_down_an_ignored_signal(audit):
    done = audit("--only", "int-cleanup", setup="trap '' INT QUIT HUP")
    assert outcomes(done) == {"int-cleanup": "removed"}


# Ended before its end


class Running:
    """An audit that is at its second probe, in which the server waits for ever; ``marked`` are its processes."""

    def __init__(self, process: Process, marked: Callable[[Path], set[int]], directory: Path) -> None:
        self.process = process
        self.marked = lambda: marked(directory)
        self.directory = directory

    def is_at_the_second_probe(self) -> bool:
        """Only there is a file at the path; and the server is in its scene."""
        scenes = [file.parent.parent for file in self.directory.glob("udslab-*/d/*/p/sock") if file.is_file()]
        for pid in self.marked() if scenes else ():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/cwd").startswith(f"{scenes[0]}/"):
                    return True
        return False

    def left(self) -> list[str]:
        return os.listdir(self.directory)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        select.select([], [], [], 0.01)


@pytest.fixture
def start(variables, planted, marked, directory) -> Iterator[Callable[..., Running]]:
    """Starts such an audit."""
    for outer in (directory, directory.parent):  # the servers' user passes through
        outer.chmod(0o711)
    with contextlib.ExitStack() as processes:

        def begin(traits: str, *options: str, setup: str = "", first: Sequence[str] = ("path-length",)) -> Running:
            probes = ("-j1", "--only", *first, "regular-file")
            command = [sys.executable, "-m", "udslab", "audit", *probes, *options, "--", *planted(traits)]
            shell = ["sh", "-c", f'{setup}\nexec "$@"', "sh", *command]
            env = {**variables, "TMPDIR": str(directory), "UDSLAB_TEST": str(directory)}
            process = processes.enter_context(Process(shell, env=env))
            running = Running(process, marked, directory)
            wait_for(running.is_at_the_second_probe)
            return running

        yield begin


WAITS = "exists=wait"
STUBBORN = "exists=wait,term=ignore,int=ignore,fork=daemon-twice"
INTERRUPTED = "udslab: interrupted: the probes that had not ended are missing\n"


@pytest.mark.parametrize("traits", [WAITS, STUBBORN])
@pytest.mark.parametrize(
    ("number", "setup"),
    [(signal.SIGINT, ""), (signal.SIGINT, "trap '' INT"), (signal.SIGTERM, ""), (signal.SIGHUP, "")],
    ids=["", "ignored", "term", "hup"],
)
def test_interrupted_it_prints_what_is_known_and_leaves_nothing(start, traits, number, setup):
    running = start(traits, "--json", "-", setup=setup)
    assert len(running.marked()) >= 3
    running.process.send_signal(number)
    assert running.process.wait(30) == 128 + number
    assert running.marked() == set()
    assert running.left() == []
    output = running.process.output()
    assert output.count(INTERRUPTED) == 1
    told = json.loads(output.replace(INTERRUPTED, ""))
    assert [(finding["probe"], finding["outcome"]) for finding in told["findings"]] == [("path-length", "honest")]
    assert told["subject"]["kernel"]


def test_interrupted_it_prints_the_card_of_what_is_known(start):
    running = start(WAITS)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 130
    lines = running.process.output().splitlines()
    assert "1 findings:  X 0 fail  ! 0 warn  . 1 pass  i 0 info  - 0 skip" in lines
    assert INTERRUPTED[:-1] in lines


@pytest.mark.parametrize(("first", "found"), [([], 0), (["path-length"], 1)])
def test_interrupted_it_writes_what_is_known_and_nothing_over_an_older_report(start, directory, first, found):
    reports = directory.parent / "old", directory.parent / "new"
    reports[0].write_text("old")
    running = start(WAITS, "--json", str(reports[0]), "--markdown", str(reports[1]), first=first)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 130
    if found:
        assert len(json.loads(reports[0].read_text())["findings"]) == found
        assert "path-length" in reports[1].read_text()
    else:
        assert reports[0].read_text() == "old"
        assert not reports[1].exists()


def test_started_with_nohup_it_goes_on_when_its_terminal_closes(start):
    running = start(WAITS, setup="trap '' HUP")
    running.process.send_signal(signal.SIGHUP)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 130


@pytest.mark.parametrize("traits", [WAITS, STUBBORN])
def test_killed_it_leaves_no_process_and_the_next_one_sweeps(start, audit, traits):
    running = start(traits)
    running.process.send_signal(signal.SIGKILL)
    assert running.process.wait(30) == -signal.SIGKILL
    wait_for(lambda: not running.marked())
    assert "Traceback" not in running.process.output()
    done = audit("--only", "fresh-start", command=["false", "{socket}"], set={"TMPDIR": str(running.directory)})
    assert outcomes(done) == {"fresh-start": "fails"}
    assert running.left() == []
