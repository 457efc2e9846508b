"""The audit as tests: which there are, when they fail, warn and are skipped, and what a project accepts."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from udslab.audit.verdicts import VERDICTS
from udslab.scratch import scratch_directory

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def inner(inner, planted):
    """With `server(TRAITS)` in the conftest.py: a planted server, as a subject."""
    inner.pytester.makeconftest(
        f"""
        import os, sys
        import pytest

        @pytest.fixture(scope="session")
        def server():
            from udslab.audit import Subject

            def make(traits="perfect", **fields):
                command = {planted()!r}
                command[-2] = traits
                return Subject(command, **{{"name": "server", "ping": "echo", **fields}})
            return make
        """
    )
    return inner


def one(probe: str, body: str = "uds_audit(server({!r}))", traits: str = "perfect") -> str:
    """A test of one probe."""
    mark = f"@pytest.mark.parametrize('uds_audit', [{probe!r}], indirect=True)"
    return f"{mark}\ndef test_it(uds_audit, server, request): {body.format(traits)}\n"


def accept(inner, text: str) -> None:
    inner.pytester.path.joinpath("pyproject.toml").write_text(text)


def test_each_probe_is_a_test_with_its_name(inner):
    result = inner("def test_it(uds_audit): pass", "--collect-only", "-q")
    ids = [line for line in result.outlines if line.startswith("test_x.py::")]
    assert ids == [f"test_x.py::test_it[{probe}]" for probe in VERDICTS]


def test_some_are_selected_by_name(inner):
    result = inner("def test_it(uds_audit, server): uds_audit(server())", "-k", "term-cleanup or int-cleanup", "-v")
    result.assert_outcomes(passed=2, deselected=len(VERDICTS) - 2)
    result.stdout.fnmatch_lines(
        ["test_x.py::test_it[[]term-cleanup] PASSED*", "test_x.py::test_it[[]int-cleanup] PASSED*"]
    )


def test_a_test_may_choose_the_probes_and_be_marked(inner):
    result = inner(
        """
        PROBES = [
            "term-cleanup",
            pytest.param("regular-file", marks=pytest.mark.xfail(strict=True)),
            pytest.param("directory", marks=pytest.mark.skip("not today")),
            pytest.param("missing-parent", id="own-name"),
        ]

        @pytest.mark.parametrize("uds_audit", PROBES, indirect=True)
        def test_it(uds_audit, server): uds_audit(server("exists=unlink"))
        """,
        "-v",
    )
    result.assert_outcomes(passed=2, xfailed=1, skipped=1)
    result.stdout.fnmatch_lines(["*[[]own-name] PASSED*"])


def test_a_test_may_be_of_several_subjects_and_of_fixtures_of_its_own(inner):
    result = inner(
        """
        @pytest.fixture
        def configured(server, tmp_path):
            return server("parent=made")

        @pytest.fixture(params=["perfect", "parent=made"])
        def each(request, server): return server(request.param)

        @pytest.mark.parametrize("uds_audit", ["missing-parent"], indirect=True)
        def test_own(uds_audit, configured): assert uds_audit(configured).outcome == "created"

        @pytest.mark.parametrize("uds_audit", ["missing-parent"], indirect=True)
        def test_each(uds_audit, each): print("found:", uds_audit(each).outcome)
        """,
        "-rP",
    )
    result.assert_outcomes(passed=3)
    assert sorted(inner.lines_with("found:")) == ["found: created", "found: refused"]


def test_it_is_the_same_on_several_workers(inner):
    source = "def test_it(uds_audit, server): uds_audit(server('term=leave'))"
    options = ("-n", "2", "-k", "term-cleanup or int-cleanup or missing-parent")
    options += ("-W", "default::pytest_udslab.audit.AuditWarning")
    inner(source, *options, plugins=("xdist",), forked=True).assert_outcomes(passed=3, warnings=1)


def test_a_failure_is_the_evidence_and_no_traceback(inner):
    result = inner(one("regular-file", traits="exists=unlink"))
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    head = "server: regular-file: deleted-starts (fail)\n"
    shown = text[text.index(head) : text.index("short test summary info")].splitlines()
    assert shown[1].startswith("  the server serves the path after ")
    assert shown[2].startswith("  the path: listening")
    assert shown[3] == "  the file, or what was in it, is lost"
    assert "Traceback" not in text
    assert "def test_it" not in text
    assert "FAILED test_x.py::test_it[regular-file] - Failed: server: regular-file: del" in text


def test_what_a_server_has_said_does_nothing_to_the_terminal(inner):
    source = """
        from udslab.audit import Subject

        SAYS = r"import os, sys; os.write(1, b'\\x1b[2J\\x1b]0;mine\\x07caf\\xc3\\xa9\\n'); sys.exit(1)"

        @pytest.mark.parametrize("uds_audit", ["fresh-start", "term-cleanup"], indirect=True)
        def test_it(uds_audit): uds_audit(Subject(["python3", "-S", "-E", "-c", SAYS, "{socket}"], name="server"))
    """
    result = inner(source, "-rs")
    result.assert_outcomes(failed=1, skipped=1)
    text = result.stdout.str()
    assert text.count(r"its last line: \x1b[2J\x1b]0;mine\x07café") == 2
    assert "\x1b" not in text


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_path_that_is_not_utf_8_is_told_with_a_backslash(inner, workers):
    with scratch_directory(tempfile.gettempdir()) as top:
        place = os.path.join(top, os.fsdecode(b"caf\xe9"))
        os.mkdir(place)
        for directory in (place, top, os.path.dirname(top)):
            os.chmod(directory, 0o755)
        source = f"import tempfile; tempfile.tempdir = {place!r}\n{WARNED}"
        options = ("--uds-audit-fail-on=warn", *workers)
        inner(source, *options, plugins=("xdist",), forked=True).assert_outcomes(failed=1)
    inner.result.stdout.fnmatch_lines([r"  */caf\udce9/udslab-*/again/sock: stale*"])


def test_the_finding_is_given_and_its_facts_can_be_asserted(inner):
    body = "finding = uds_audit(server()); assert finding.outcome == 'listens'; assert finding.verdict == 'pass'; "
    body += "assert finding.facts['modes']['077'] == '0700'; assert finding.evidence; assert finding.seconds > 0"
    inner(one("fresh-start", body)).assert_outcomes(passed=1)
    inner(one("fresh-start", "assert uds_audit(server()).facts['processes'] == 7"))
    inner.result.assert_outcomes(failed=1)
    assert inner.errors()[0] == "assert 1 == 7"


# Warnings


WARNED = one("term-cleanup", traits="term=leave")


def test_a_warning_is_warned_of(inner):
    result = inner(WARNED, "-W", "default::pytest_udslab.audit.AuditWarning")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*AuditWarning: server: term-cleanup: left (warn)", "*SIGTERM to the first (pid *"])
    assert f"test_x.py:{inner.line('def test_it')}: AuditWarning" in result.stdout.str()


def test_a_warning_can_be_made_an_error_as_any(inner):
    inner(WARNED)  # with -W error
    inner.result.assert_outcomes(failed=1)
    assert inner.errors()[0] == "pytest_udslab.audit.AuditWarning: server: term-cleanup: left (warn)"


@pytest.mark.parametrize("options", [("--uds-audit-fail-on=warn",), ("-o", "uds_audit_fail_on=warn")])
def test_with_fail_on_warn_it_fails(inner, options):
    result = inner(WARNED, *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["server: term-cleanup: left (warn)"])


def test_the_command_line_wins_over_the_ini_file(inner):
    options = ("-o", "uds_audit_fail_on=warn", "--uds-audit-fail-on=fail")
    result = inner(WARNED, *options, "-W", "default::pytest_udslab.audit.AuditWarning")
    result.assert_outcomes(passed=1, warnings=1)


def test_wrong_words_for_it_are_told(inner):
    result = inner(WARNED, "-o", "uds_audit_fail_on=info")
    result.assert_outcomes(errors=1)
    assert "uds_audit_fail_on is one of fail, warn, not 'info'" in result.outlines
    result = inner(WARNED, "--uds-audit-fail-on=info")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "argument --uds-audit-fail-on: invalid choice: 'info'" in result.stderr.str()


# Skipped


@pytest.mark.parametrize(
    ("probe", "body", "why"),
    [
        ("half-close", "uds_audit(server(ping=None))",
         "nobody knows how to ask this server whether it answers: give a ping"),
        ("first-stops-after-steal", "uds_audit(server())", "the second does not steal the path"),
        ("half-close", "uds_audit(server('type=dgram', type='dgram'))", "nobody connects to a datagram server"),
        ("privilege-drop", "uds_audit(server())",
         "it is not known to have an option for that: give its root_command"),
        ("term-cleanup", "uds_audit(server('start=exit-3'))",
         "it does not start: the server has ended with status 3; its last line: (nothing)"),
        ("term-cleanup", "uds_audit(server(setup=['false']))",
         "its set-up 'false' has ended with status 1: it has written nothing"),
        ("term-cleanup", "uds_audit(server(setup=['no-such-program']))", "no-such-program is not installed"),
        ("term-cleanup", "uds_audit(server(setup=['no-such-program'], get='ask its maker'))",
         "no-such-program is not installed: ask its maker"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_skipped_with_why(inner, probe, body, why):
    result = inner(one(probe, body.replace("{", "{{")), "-rs")
    result.assert_outcomes(skipped=1)
    (line,) = (line for line in result.outlines if line.startswith("SKIPPED"))
    assert re.sub(r"^SKIPPED \[1\] \S+: ", "", line) == why


def test_a_subject_that_is_none_is_an_error_of_the_test(inner):
    inner(one("term-cleanup", "from udslab.audit import Subject; uds_audit(Subject('server'))"))
    inner.result.assert_outcomes(failed=1)
    reason = "service: the command 'server' is not told which path it is to serve (EINVAL): "
    hint = "write {socket} in the command where the path belongs"
    assert inner.errors()[0] == f"udslab.errors.ServiceError: {reason}{hint}"


# What a project accepts


def test_what_a_project_accepts_passes_without_a_warning(inner):
    accept(inner, "[tool.udslab.audit]\nregular-file = ['deleted-starts', 'hangs']\nterm-cleanup = ['left']\n")
    source = "def test_it(uds_audit, server): assert uds_audit(server('exists=unlink,term=leave')).verdict != 'pass'"
    result = inner(source, "--uds-audit-fail-on=warn", "-k", "regular-file or term-cleanup or symlink-dangling")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["server: symlink-dangling: link-replaced (warn)"])


ACCEPTED = "[tool.udslab.audit]\nterm-cleanup = ['left']\n"


@pytest.mark.parametrize(
    ("ini", "options"),
    [
        ("tests/pytest.ini", ("tests",)),  # which makes tests/ the root
        ("conf/p.ini", ("-c", "conf/p.ini", "tests")),
        ("pytest.ini", ("--rootdir=/", "-c", "pytest.ini", "tests")),
    ],
)
def test_it_is_read_wherever_pytest_has_its_root(inner, ini, options):
    in_tests(inner)
    inner.pytester.path.joinpath(ini).parent.mkdir(exist_ok=True)
    inner.pytester.path.joinpath(ini).write_text("[pytest]\n")
    accept(inner, ACCEPTED)
    inner("", *options).assert_outcomes(passed=1)


def test_the_nearest_one_that_has_it_counts_and_none_above_the_repository(inner):
    accept(inner, ACCEPTED)
    in_tests(inner).joinpath("pyproject.toml").write_text("[tool.udslab]\n")
    options = ("--uds-audit-fail-on=warn", "--rootdir=tests", "tests")
    inner("", *options).assert_outcomes(passed=1)
    inner.pytester.mkdir("tests/.git")
    inner("", *options).assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("audit.regular-files = []", "[tool.udslab.audit]: no probe is called 'regular-files'"),
        ("audit.regular-file = ['gone']", "[tool.udslab.audit]: regular-file has a list of some of: "
         "refused-kept, deleted-starts, deleted-fails, hangs"),
        ("audit.directory = 'deleted'", "[tool.udslab.audit]: directory has a list of some of: "
         "refused-kept, deleted, hangs"),
        ("audit.directory = [['deleted']]", "[tool.udslab.audit]: directory has a list of some of: "
         "refused-kept, deleted, hangs"),
        ("audit.directory = [3]", "[tool.udslab.audit]: directory has a list of some of: "
         "refused-kept, deleted, hangs"),
        ("audit = ['deleted']", "[tool.udslab.audit] is a table: a probe, and the outcomes that are accepted"),
        ("audit = 3", "[tool.udslab.audit] is a table: a probe, and the outcomes that are accepted"),
    ],
)  # fmt: skip
def test_what_no_probe_says_cannot_be_accepted(inner, text, reason):
    refuses(inner, f"[tool.udslab]\n{text}\n", reason)


def test_what_is_no_table_of_a_project_is_told(inner):
    refuses(inner, "[tool]\nudslab = 3\n", "[tool.udslab] is a table")
    in_tests(inner).joinpath("pytest.ini").write_text("[pytest]\n")  # pytest itself reads no other
    refuses(inner, "tool = 3\n", "[tool] is a table", "tests")
    refuses(inner, "tool\n", "Expected '=' after a key in a key/value pair (at line 1, column 5)", "tests")


def in_tests(inner) -> Path:
    """A directory with the server, and a test that warns."""
    tests = inner.pytester.mkdir("tests")
    inner.pytester.path.joinpath("conftest.py").rename(tests / "conftest.py")
    tests.joinpath("test_y.py").write_text(f"import pytest\n\n{WARNED}")
    return tests


def refuses(inner, text: str, reason: str, *options: str) -> None:
    """It is one line, and no traceback."""
    accept(inner, text)
    inner(one("directory"), *options).assert_outcomes(errors=1)
    assert f"{inner.pytester.path}/pyproject.toml: {reason}" in inner.result.outlines
    assert inner.errors() == []


# Whom it runs as, where, and what it leaves


def test_it_runs_as_an_ordinary_user_or_as_whom_it_is_told(inner):
    body = "[print('owner:', uds_audit(server(), user=user).facts['owner']) for user in (None, {})]"
    if IS_ROOT:
        inner(one("fresh-start", body.format("'daemon'")), "-rP").assert_outcomes(passed=1)
        assert inner.lines_with("owner:") == ["owner: nobody", "owner: daemon"]
    inner(one("fresh-start", body.format("'no-such-user'"))).assert_outcomes(failed=1)
    reason = "service: no user is called 'no-such-user' (EINVAL): give the name of one that /etc/passwd has"
    assert inner.errors()[-1] == f"udslab.errors.ServiceError: {reason}"


def test_its_patience_is_measured_once_for_a_subject_in_a_session(inner, planted):
    source = """
        @pytest.mark.parametrize("uds_audit", ["term-cleanup", "int-cleanup", "stale-restart"], indirect=True)
        def test_it(uds_audit, server):
            from udslab.audit import Subject
            count = ["sh", "-c", 'mktemp -p PLACE > /dev/null; exec "$@"', "sh"]
            uds_audit(Subject([*count, *server().command], ping="echo"))  # another one each time, and equal
            print("starts:", len(os.listdir("PLACE")))
    """
    with scratch_directory(os.path.dirname(planted()[3])) as place:
        for directory in (place, os.path.dirname(place)):
            os.chmod(directory, 0o777)
        inner(source.replace("PLACE", place), "-rP").assert_outcomes(passed=3)
    assert inner.lines_with("starts:") == ["starts: 2", "starts: 3", "starts: 5"]


def test_no_test_is_blamed_for_a_socket_of_the_audit(inner):
    source = "def test_it(uds_audit, server): uds_audit(server())\ndef test_next(): pass"
    options = (
        "--uds-leaks=all",
        "-k",
        "term-cleanup or silent-client or vanishing-clients or symlink-to-stale or next",
    )
    inner(source, *options).assert_outcomes(passed=5)


def test_who_does_not_use_it_imports_the_names_of_its_probes_alone(inner):
    source = """
        def test_it():
            assert [name for name in sys.modules if name.startswith("udslab.audit")] == NAMES

        NAMES = ["udslab.audit", "udslab.audit.verdicts"]
    """
    inner(source, forked=True).assert_outcomes(passed=1)


@pytest.mark.usefixtures("engine")
def test_nobody_is_chosen_for_an_image(inner):
    body = "uds_audit(server(image='udslab-base:debian-12'), user='nosuchuser')"
    inner(one("fresh-start", body)).assert_outcomes(failed=1)
    reason = "service: whom a server in a container runs as is not for the audit to say, and 'nosuchuser' is asked for"
    hint = "leave out user=: it is who tests, or uid 10001 if that is root"
    assert inner.errors() == [f"udslab.errors.ServiceError: {reason} (EINVAL): {hint}"]


@pytest.fixture
def contained(planted):
    """The source of a test of a planted server in a container."""

    def source(traits="perfect", verdicts=("pass", "info"), image="udslab-base:debian-12"):
        return f"""
            from pathlib import Path
            from udslab.audit import Subject

            SUBJECT = Subject(
                ["python3", "-S", "-E", "{{dir}}/planted.py", {traits!r}, "{{socket}}"],
                name="contained",
                files={{"planted.py": Path({planted()[3]!r}).read_text()}},
                ping="echo",
                image={image!r},
            )

            def test_it(uds_audit):
                finding = uds_audit(SUBJECT)
                assert finding.verdict in {verdicts!r}, finding.describe()
        """

    return source


@pytest.mark.usefixtures("engine")
def test_a_subject_can_be_in_a_container_of_an_image(inner, contained):
    result = inner(contained(), "-n", "4", "-rs", plugins=("xdist",), forked=True)
    result.assert_outcomes(passed=19, skipped=7)
    whys = {re.sub(r"^SKIPPED \[(\d)\] \S+: ", r"\1: ", line) for line in result.outlines if line.startswith("SKIPPED")}
    assert whys == {
        "6: it needs a process of this machine, and this server runs in a container",
        "1: the second does not steal the path",
    }


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("traits", "deaf"), [("term=leave", True), ("term=ignore", False)])
def test_a_signal_that_the_kernel_keeps_from_the_first_process_of_a_container_is_told(inner, contained, traits, deaf):
    text = inner(contained(traits, verdicts=()), "-k", "term-cleanup").stdout.str()
    assert "term-cleanup: ignored (warn)" in text
    assert ("is the first process of its container and has no handler for SIGTERM: the kernel does" in text) is deaf


@pytest.mark.usefixtures("engine")
def test_an_image_that_cannot_be_had_skips_or_fails_if_containers_are_required(inner, contained):
    source = contained(image="no-such-image:at-all")
    inner(source, "-k", "term-cleanup").assert_outcomes(skipped=1)
    inner(source, "-k", "term-cleanup", "--uds-require=container").assert_outcomes(failed=1)
