"""Where servers run: whom as, in which directories, and that nothing of either is left."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import stat
import threading
from pathlib import Path

import pytest

from udslab.audit.host import ProcessHost, user_named
from udslab.audit.scene import User
from udslab.errors import AgentGone, NoSuchPath, ServiceError
from udslab.scratch import ROOM

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root, to become another user")
ENV = {"PATH": os.environ["PATH"]}


def run(host: ProcessHost, *command: str, cwd: str, **options) -> str:
    """What a command prints, that has ended."""
    process = host.start(command, **{"env": ENV, "cwd": cwd, **options})
    try:
        assert process.gone_within(30)
        return process.output()
    finally:
        process.__exit__()


# Whom as


@needs_root
def test_root_has_servers_run_by_an_ordinary_user_unless_told():
    assert user_named(None) == User("nobody", 65534, 65534)
    assert user_named("root") is None
    found = user_named("daemon")
    assert (found.name, found.uid) == ("daemon", 1)


@needs_root
def test_a_user_has_his_groups(host):
    import grp

    member = next((group for group in grp.getgrall() if group.gr_mem and group.gr_mem[0] != "root"), None)
    if member is None:
        pytest.skip("no user here has a second group")
    name = member.gr_mem[0]
    assert member.gr_gid in user_named(name).groups


def test_without_a_name_an_ordinary_user_stays_himself():
    assert user_named(getpass.getuser()) is None
    assert (user_named(None) is None) == (not IS_ROOT)


def test_a_user_that_there_is_not_is_told():
    with pytest.raises(ServiceError) as raised:
        user_named("no-such-user")
    reason = "no user is called 'no-such-user' (EINVAL): give the name of one that /etc/passwd has"
    assert str(raised.value) == f"service: {reason}"


@needs_root
def test_a_command_is_that_users_and_has_no_other_groups(host):
    with host.directory() as directory:
        os.chmod(directory, 0o777)
        assert run(host, "id", "-u", cwd=directory).strip() == "65534"
        assert run(host, "id", "-G", cwd=directory).strip() == "65534"
        assert run(host, "id", "-u", cwd=directory, as_root=True).strip() == "0"


def test_a_command_has_the_umask_and_directory_that_it_is_given(host):
    with host.directory() as directory:
        shown = run(host, "sh", "-c", "umask; pwd", cwd=directory, umask=0o027)
        assert shown.split("\n") == ["0027", directory, ""]


@pytest.mark.parametrize(
    ("path", "searched"),
    [
        ("/usr/bin:/bin", "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"),
        ("/usr/sbin:/usr/bin:/bin:/usr/local/sbin", "/usr/sbin:/usr/bin:/bin:/usr/local/sbin:/sbin"),
    ],
)
def test_a_command_has_the_path_that_it_is_given_and_behind_it_the_directories_of_servers(host, path, searched):
    with host.directory() as directory:
        assert run(host, "sh", "-c", "echo $PATH", cwd=directory, env={"PATH": path}) == f"{searched}\n"


@pytest.mark.skipif(not os.path.exists("/usr/sbin/ldconfig"), reason="needs ldconfig in /usr/sbin")
def test_a_program_in_a_directory_of_servers_starts_for_who_has_it_not_in_path(host):
    with host.directory() as directory:
        assert "ldconfig" in run(host, "ldconfig", "--version", cwd=directory, env={"PATH": "/usr/bin:/bin"})


# Directories


def test_directories_are_fresh_short_and_anybody_can_pass(host):
    with host.directory() as one, host.directory() as two:
        assert one != two
        for path in (one, two):
            assert os.listdir(path) == []
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
            assert len(os.fsencode(path)) <= 103 - ROOM + 5
            assert all(outer.stat().st_mode & 0o001 for outer in Path(path).parents)
    assert not os.path.exists(one)
    assert not os.path.exists(two)


def test_the_umask_does_not_matter(host):
    before = os.umask(0o077)
    try:
        with host.directory() as path:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    finally:
        os.umask(before)


def test_directories_go_with_their_host(directory, monkeypatch):
    for outer in (directory, directory.parent):
        outer.chmod(0o711)
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    with ProcessHost(user_named(None)) as host, contextlib.ExitStack() as left:
        path = left.enter_context(host.directory())
        assert path.startswith(f"{directory}/udslab-")
        left.pop_all()
    assert os.listdir(directory) == []


@needs_root
def test_where_others_cannot_pass_they_are_elsewhere(directory, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(directory))  # it is its owner's alone
    with ProcessHost(user_named(None)) as host, host.directory() as path:
        assert not path.startswith(str(directory))
        assert run(host, "pwd", cwd=path).strip() == path
    with ProcessHost(None) as host, host.directory() as path:
        assert path.startswith(str(directory))


HARD = {
    "unreadable": "mkdir -p a/b && touch a/b/c && chmod 000 a/b a",
    "unwritable": "mkdir -p a/b && touch a/b/c && chmod 500 a/b a",
    "of every kind": "mkdir a && mkfifo a/f && ln -s / a/l && ln -s nothing a/d && touch a/-rf 'a/\n'",
    "its own": "chmod 000 .",
}


@pytest.mark.parametrize("commands", HARD.values(), ids=HARD)
def test_a_directory_goes_whatever_the_server_did_to_it(host, commands):
    with host.directory() as path:
        inner = os.path.join(path, "own")
        os.mkdir(inner)
        if host.user is not None:
            os.chown(inner, host.user.uid, host.user.gid)
        assert run(host, "sh", "-c", commands, cwd=inner) == ""
    assert not os.path.exists(path)


@pytest.mark.parametrize("depth", [100, 800])
def test_a_deep_tree_goes(host, depth, deepen):
    with host.directory() as path:
        deepen(path, "some-directory", depth)
    assert not os.path.exists(path)


# Its end


def test_who_waits_does_so_no_longer_when_another_thread_ends_all(marked, directory, monkeypatch):
    monkeypatch.setenv("UDSLAB_TEST", str(directory))
    with ProcessHost(user_named(None)) as host, host.directory() as path:
        env = {**ENV, "UDSLAB_TEST": str(directory)}
        process = host.start(["sh", "-c", "echo here; exec sleep 1000"], env=env, cwd=path)
        assert process.pid in marked(directory)
        threading.Timer(0.1, host.cancel).start()
        with contextlib.suppress(AgentGone):  # unless that of the process is told before
            assert process.gone_within(60)
    assert marked(directory) == set()


def test_at_its_end_what_still_runs_is_ended(marked, directory, monkeypatch):
    monkeypatch.setenv("UDSLAB_TEST", str(directory))
    with ProcessHost(user_named(None)) as host, host.directory() as path:
        env = {**ENV, "UDSLAB_TEST": str(directory)}
        stubborn = "trap '' TERM INT HUP; echo here; while :; do sleep 1000; done"
        host.start(["setsid", "sh", "-c", stubborn], env=env, cwd=path)
    assert marked(directory) == set()


def test_a_program_that_is_not_there_is_told(host):
    with host.directory() as path, pytest.raises(NoSuchPath, match=re.escape(f"agent: {path}/nothing: ")):
        host.start([f"{path}/nothing"], env=ENV, cwd=path)
