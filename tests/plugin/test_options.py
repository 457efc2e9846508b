"""The options, the ini file, the marker: who wins, what is lacking, and what wrong words are answered with; and that
nothing of a user's process is touched."""

from __future__ import annotations

import pytest

IMAGE = "udslab-base:debian-12"


def backends(inner) -> list[str]:
    return [line.partition("backend: ")[2] for line in inner.lines_with("backend: ")]


@pytest.mark.parametrize(
    ("marker", "option", "ini", "chosen"),
    [
        (None, None, None, "thread"),
        (None, None, "process", "process"),
        (None, "thread", "process", "thread"),
        (None, "process", None, "process"),
        ("container", "thread", "process", "container"),
        ("process", None, "thread", "process"),
        ("thread", "process", None, "thread"),
    ],
)
def test_the_marker_wins_over_the_option_and_that_over_the_ini_file(inner, marker, option, ini, chosen):
    source = f"pytestmark = pytest.mark.uds(backend={marker!r})\n" if marker else ""
    options = ["-rP"]
    options += [f"--uds-backend={option}"] if option else []
    options += ["-o", f"uds_backend={ini}"] if ini else []
    inner(source + "def test_it(uds_backend): print('backend:', uds_backend)", *options).assert_outcomes(passed=1)
    assert backends(inner) == [chosen]


def test_the_nearest_marker_that_says_something_counts(inner):
    inner(
        """
        pytestmark = pytest.mark.uds(backend="process", service="echo")

        class TestIt:
            pytestmark = pytest.mark.uds(needs="kill")

            @pytest.mark.uds(service="discard")
            def test_service(self, uds_backend, uds_server, uds_client):
                assert uds_backend == "process"
                uds_client.sendall(b"x")
                uds_client.shutdown(socket.SHUT_WR)
                assert uds_client.recv(1) == b""

            @pytest.mark.uds(backend="thread", needs=())
            def test_backend(self, uds_server, uds_client):
                assert uds_server.pid == os.getpid()
                uds_client.sendall(b"x")
                assert uds_client.recv(1) == b"x"
        """
    ).assert_outcomes(passed=2)


NEEDS = """
    @pytest.mark.uds(needs={"kill"})
    def test_kill(uds_server): print("backend:", uds_server.backend)

    @pytest.mark.uds(needs=["pause", "abstract"])
    def test_pause(uds_server): print("backend:", uds_server.backend)

    @pytest.mark.uds(needs="handler")
    def test_handler(uds_server): print("backend:", uds_server.backend)

    @pytest.mark.uds(needs=())
    def test_none(uds_server): print("backend:", uds_server.backend)

    @pytest.mark.uds(needs={"handler", "kill"})
    def test_nobody(uds_server): pass
"""


def test_a_test_runs_in_the_first_backend_that_has_what_it_needs(inner):
    inner(NEEDS, "-rPs").assert_outcomes(passed=4, skipped=1)
    assert backends(inner) == ["process", "process", "thread", "thread"]
    assert inner.lines_with("SKIPPED")[0].endswith(
        "it needs kill, which the backend thread has not: a thread cannot be killed"
    )


def test_where_the_backend_was_said_a_test_that_needs_another_is_skipped(inner):
    inner(NEEDS, "--uds-backend=process", "-rs").assert_outcomes(passed=3, skipped=2)
    why = "it needs handler, which the backend process has not: a handler is a function of this process"
    lines = inner.lines_with("SKIPPED [")
    assert lines
    assert all(line.endswith(why) for line in lines)
    assert backends(inner) == []


def test_where_the_backend_is_required_such_a_test_fails(inner):
    result = inner(NEEDS, "--uds-backend=thread", "--uds-require=thread", "--tb=short")
    result.assert_outcomes(passed=2, errors=3)
    for need, why in (("kill", "killed"), ("pause", "stopped for a while")):
        result.stdout.fnmatch_lines(
            [f"--uds-require thread: it needs {need}, which the backend thread has not: a thread cannot be {why}"]
        )
    inner(NEEDS, "--uds-backend=thread", "-o", "uds_require=container thread").assert_outcomes(passed=2, errors=3)
    inner(NEEDS, "--uds-backend=thread", "--uds-require=process").assert_outcomes(passed=2, skipped=3)


def test_what_a_test_asks_for_without_saying_so_skips_it_or_fails_too(inner):
    source = """
        def test_abstract(make_uds_server): make_uds_server("echo", abstract=True)

        def test_handler(make_uds_server): make_uds_server(handler=print)

        def test_kill(uds_server): uds_server.kill()

        def test_after(uds_server): pass
    """
    result = inner(source, "-rs")
    result.assert_outcomes(passed=3, failed=1)
    assert inner.errors() == [
        "udslab.errors.Unsupported: service: kill is not to be had in a thread: a thread cannot be killed (ENOTSUP): "
        "use the backend process or container"
    ]
    inner(source, "--uds-backend=process", "-rs").assert_outcomes(passed=3, skipped=1)
    at = f"test_x.py:{inner.line('def test_handler')}: "
    why = (
        "service: handler is not to be had in a process: a handler is a function of this process (ENOTSUP): "
        "use the backend thread"
    )
    assert inner.lines_with("SKIPPED [1]") == [f"SKIPPED [1] {at}{why}"]
    result = inner(source, "--uds-backend=process", "--uds-require=process", "--tb=short")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines([f"--uds-require process: {why}"])


# Words that are none

CHOICES = "thread, process, container"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--uds-backend=tread"], "*--uds-backend: invalid choice: 'tread' (choose from *thread*process*container*)"),
        (["--uds-require=x"], "*--uds-require: invalid choice: 'x' (choose from *thread*process*container*)"),
        (["-o", "uds_backend=tread"], f"ERROR: uds_backend is one of {CHOICES}, not 'tread'"),
        (["-o", "uds_require=thread x"], f"ERROR: uds_require is one of {CHOICES}, not 'x'"),
    ],
)
def test_unknown_words_of_options_are_usage_errors(inner, options, said):
    result = inner("def test_it(): pass", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("backend='tread'", f"the marker's backend is one of {CHOICES}, not 'tread'"),
        ("needs={'flight'}", "each of the marker's needs is one of handler, abstract, kill, pause, not 'flight'"),
        ("colour=1", "the marker uds takes needs, backend and service, not colour"),
        ("'thread'", "the marker uds takes needs, backend and service, not an argument without a name"),
    ],
)
def test_unknown_words_of_the_marker_are_usage_errors_before_any_test_is_run(inner, marker, said):
    result = inner(f"def test_before(): pass\n\n@pytest.mark.uds({marker})\ndef test_it(): pass")
    assert result.errlines == [f"ERROR: test_x.py::test_it: {said}", ""]
    assert result.ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("uds(colour=1)", "the marker uds takes needs, backend and service, not colour"),
        ("uds_leaks('x')", "uds_leaks is one of default, all, warn, off, not 'x'"),
    ],
)
def test_in_workers_the_test_fails_that_has_a_wrong_marker_and_the_others_are_run(inner, marker, said):
    source = f"""
        def test_before(): pass

        @pytest.mark.xfail
        @pytest.mark.{marker}
        class TestIt:
            def test_it(self, uds_path): pass

        def test_after(uds_path): pass
    """
    result = inner(source, "-n", "2", plugins=("xdist",), forked=True)
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert f"test_x.py::TestIt::test_it: {said}" in result.outlines
    assert "Traceback" not in result.stdout.str()


# Where there are no containers

BOTH = """
    @pytest.mark.parametrize("uds_backend", ["thread", "process", "container"])
    def test_it(uds_server, uds_client):
        uds_client.sendall(b"x")
        assert uds_client.recv(1) == b"X"

    @pytest.mark.parametrize("uds_backend", ["container"])
    def test_path(uds_path): pass

    def test_process(make_uds_process):
        assert make_uds_process([sys.executable, "server.py", "{socket}"]).status().serving
"""
NO_SDK = """
    import sys

    sys.modules["docker"] = None
"""


def check_lacking(inner, why: str, *options: str, files: dict[str, str] | None = None) -> None:
    forked = files is not None
    result = inner(BOTH, *options, "-rs", files=files, forked=forked)
    result.assert_outcomes(passed=3, skipped=2)
    for line in inner.lines_with("SKIPPED ["):
        assert why in line
    assert inner.lines_with("SKIPPED [")
    result = inner(BOTH, *options, "--uds-require=container", "--tb=short", files=files, forked=forked)
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.no_fnmatch_line("*exception*")
    told = [line for line in inner.result.outlines if line.startswith("--uds-require container: ")]
    assert len(told) == 2
    assert all(why in line for line in told)


def test_without_the_sdk_containers_are_skipped_with_what_to_install(inner):
    check_lacking(inner, "pip install 'pytest-udslab[docker]'", files={"conftest": NO_SDK})


def test_with_an_engine_that_is_not_there_containers_are_skipped_with_its_name(inner):
    check_lacking(inner, "unix:///nowhere/docker.sock", "--uds-engine=unix:///nowhere/docker.sock")
    check_lacking(inner, "no-such-context", "--uds-engine=no-such-context")
    check_lacking(inner, "unix:///nowhere/docker.sock", "-o", "uds_engine=unix:///nowhere/docker.sock")


@pytest.mark.usefixtures("engine")
def test_with_an_image_that_is_not_there_containers_are_skipped_with_its_name(inner):
    check_lacking(inner, "udslab-base:no-such-distro", "--uds-distro=no-such-distro")
    check_lacking(inner, "no-such-image:1", "--uds-image=no-such-image:1")
    check_lacking(inner, "udslab-base:no-such-distro", "-o", "uds_distro=no-such-distro")
    check_lacking(inner, "no-such-image:1", "-o", "uds_image=no-such-image:1")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "options",
    [
        ["--uds-distro=no-such", f"--uds-image={IMAGE}"],
        ["-o", "uds_distro=no-such", "-o", f"uds_image={IMAGE}"],
        ["--uds-distro=no-such", "-o", f"uds_image={IMAGE}"],
        ["-o", "uds_image=no-such:1", f"--uds-image={IMAGE}"],
        ["-o", "uds_distro=no-such", f"--uds-distro={IMAGE.partition(':')[2]}"],
    ],
)
def test_the_image_wins_over_the_distribution_and_the_option_over_the_ini_file(inner, options):
    inner(BOTH, *options, "-k", "container").assert_outcomes(passed=2, deselected=3)


# Being there, and not


def test_turned_off_nothing_of_it_is_there(pytester):
    pytester.makepyfile("def test_it(uds_path): pass")
    others = [word for name in ("asyncio", "anyio", "randomly", "socket", "timeout") for word in ("-p", f"no:{name}")]
    result = pytester.runpytest_inprocess("-p", "no:udslab", *others)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *fixture 'uds_path' not found"])
    result = pytester.runpytest_inprocess("-p", "no:udslab", *others, "--uds-backend=thread")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --uds-backend=thread"])


def test_no_fixture_is_used_unasked(inner):
    inner(
        """
        def test_it(request):
            assert request.fixturenames == ["request"]
            assert "udslab.containers" not in sys.modules and "docker" not in sys.modules
        """,
        forked=True,
    ).assert_outcomes(passed=1)


def test_markers_and_options_are_shown_with_what_they_do(inner):
    inner("", "--markers")
    (line,) = (line for line in inner.lines_with("@pytest.mark.uds("))
    assert line == (
        '@pytest.mark.uds(needs={"kill", …}, backend="process", service="echo"): what a test needs of its server\'s '
        "backend (handler, abstract, kill, pause), which backend it wants, and what uds_server serves"
    )
    text = " ".join(" ".join(inner("", "--help").outlines).split())
    for word in ("--uds-backend", "--uds-require", "--uds-distro", "--uds-image", "--uds-engine", "--uds-leaks"):
        assert text.count(f" {word}") == 1, word
        assert f" {word[2:].replace('-', '_')} " in text, word  # in the ini file
    assert "Unix domain sockets:" in text


def test_fixtures_are_shown_with_a_line_each(inner):
    result = inner("", "--fixtures")
    shown = [line for line in result.outlines if "udslab/fixtures.py" in line]
    assert {line.split()[0] for line in shown} == {
        "uds",
        "uds_backend",
        "uds_client",
        "uds_distro",
        "uds_obstacle",
        "uds_path",
        "uds_server",
        "uds_type",
        *("make_uds_" + word for word in ("client", "obstacle", "path", "process", "server")),
    }
    for line in shown:
        doc = result.outlines[result.outlines.index(line) + 1]
        assert doc.startswith("    ")
        assert len(doc) > 20
    assert [line for line in shown if "[session scope]" in line] == [line for line in shown if line.startswith("uds [")]


# A user's process

MANNERS = """
    STATES = []

    def state():
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        umask = os.umask(0)
        os.umask(umask)
        return handlers, signal.set_wakeup_fd(-1), threading.active_count(), umask, os.getcwd(), dict(os.environ)

    @pytest.fixture(autouse=True)
    def between(request):
        STATES.append(state())
        environ = STATES[-1][-1]
        environ.pop("PYTEST_CURRENT_TEST", None)

    @pytest.mark.parametrize("number", range(2))
    def test_server(uds_server, uds_client, uds_path, number):
        uds_client.sendall(b"x")
        assert uds_client.recv(1) == b"X"
        assert [signal.getsignal(number) for number in STATES[0][0]] == list(STATES[0][0].values())

    def test_process(make_uds_process):
        make_uds_process([sys.executable, "server.py", "{socket}"])

    def test_after():
        assert len(STATES) == 4
        assert STATES[1:] == STATES[:1] * 3
        assert STATES[0][2] == 1
"""
FORKS = """
    @pytest.mark.skipif("BACKEND" == "thread", reason="a server in a thread is a thread")
    def test_fork(uds_server, uds_client, make_uds_process):
        make_uds_process([sys.executable, "server.py", "{socket}"])
        if threading.active_count() > 1:  # while a container is used it beats
            pytest.skip("not alone")
        check_fork()

    def test_fork_after():
        assert threading.active_count() == 1
        check_fork()

    def check_fork():
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_between_tests_the_process_is_as_before_and_can_fork(inner, backend):
    source = MANNERS + FORKS.replace("BACKEND", backend)
    thread = int(backend == "thread")
    inner(source, f"--uds-backend={backend}", forked=True).assert_outcomes(passed=6 - thread, skipped=thread)


@pytest.mark.usefixtures("engine")
def test_between_tests_with_containers_the_process_is_as_before_and_can_fork(inner):
    result = inner(MANNERS + FORKS, "--uds-backend=container", "--uds-require=container", forked=True)
    result.assert_outcomes(passed=5, skipped=1)
