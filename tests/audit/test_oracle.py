"""The oracle against logs as strace writes them, and against what is really there at the end of scenes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calls import Log, split, string, sun_path, trace
from oracle import Contradiction, Replay, Scene, expect, starts

BOUND = """\
1 1.0 socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0) = 3<socket:[70]>
1 1.0 bind(3<socket:[70]>, {sa_family=AF_UNIX, sun_path="/d/s"}, 7) = 0
1 1.0 listen(3<socket:[70]>, 5) = 0
"""


def states(text: str) -> list[tuple[dict[str, str], set[str]]]:
    """In each of the possible states at the end, what kind of thing is at each name, and which sockets serve."""
    log = Log(text)
    found = Replay(log, "/d").at(log.length)
    return sorted(
        (({name: node[0] for name, node in state.names}, set(state.serving)) for state in found),
        key=lambda state: len(state[0]),
    )


def test_of_a_servers_own_files_those_count_that_come_into_the_way_of_others():
    log = Log(
        """\
1 1.0 mkdir("/d/1", 0700) = 0
1 1.0 openat(AT_FDCWD</>, "/d/1/table", O_WRONLY|O_CREAT, 0600) = 3</d/1/table>
1 1.0 openat(AT_FDCWD</>, "/d/1/new", O_WRONLY|O_CREAT, 0600) = 4</d/1/new>
1 1.0 rename("/d/1/new", "/d/s") = 0
1 1.0 mkdir("/d/1/tree", 0700) = 0
1 1.0 openat(AT_FDCWD</>, "/d/1/tree/leaf", O_WRONLY|O_CREAT, 0600) = 5</d/1/tree/leaf>
1 1.0 rename("/d/1/tree", "/d/t") = 0
1 1.0 openat(AT_FDCWD</>, "/d/1/linked", O_WRONLY|O_CREAT, 0600) = 6</d/1/linked>
1 1.0 symlink("1/linked", "/d/l") = 0
1 1.0 socket(AF_UNIX, SOCK_STREAM, 0) = 7<socket:[70]>
1 1.0 bind(7<socket:[70]>, {sa_family=AF_UNIX, sun_path="/d/1/s"}, 8) = 0
1 1.0 unlink("/d/1/s") = 0
"""
    )
    all_of_it, without = (
        {name for state in Replay(log, "/d", own).at(log.length) for name, _ in state.names} for own in ((), ["/d/1"])
    )
    assert without == {"/d/1", "/d/s", "/d/t", "/d/t/leaf", "/d/1/linked", "/d/l"}
    assert all_of_it == without | {"/d/1/table"}


def test_moments_may_be_asked_for_in_any_order():
    log = Log(BOUND + '1 1.0 unlink("/d/s") = 0\n')
    replay = Replay(log, "/d")
    assert [{bool(state.at("/d/s")) for state in replay.at(line)} for line in (4, 1, 3, 2, 4)] == [
        {False},
        {False},
        {True},
        {True},
        {False},
    ]


def test_arguments_are_split_outside_of_strings_brackets_and_annotations():
    given = r'AT_FDCWD</d, e->, "a, \"b\")", {sa_family=AF_UNIX, sun_path="x"}, [{a=1}, 2], O_CREAT|O_EXCL, 0666'
    assert split(given) == [
        "AT_FDCWD</d, e->",
        r'"a, \"b\")"',
        '{sa_family=AF_UNIX, sun_path="x"}',
        "[{a=1}, 2]",
        "O_CREAT|O_EXCL",
        "0666",
    ]


def test_strings_are_bytes_in_octal_as_the_file_system_has_them():
    assert string(r'"rel\303\251 \"a\"\t\\"') == 'relé "a"\t\\'
    assert os.fsencode(string(r'"\377\0011"')) == b"\xff\x011"


def test_abstract_and_unnamed_addresses_are_at_no_path():
    assert sun_path('{sa_family=AF_UNIX, sun_path="/d/s"}') == "/d/s"
    assert sun_path(r'{sa_family=AF_UNIX, sun_path=@"abs\1"}') is None
    assert sun_path("{sa_family=AF_UNIX}") is None
    assert sun_path('{sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr("127.0.0.1")}') is None


def test_a_server_that_listens_and_dies_leaves_a_stale_file():
    assert states(BOUND) == [({"/d/s": "socket"}, {"socket:[70]"})]
    assert states(BOUND + "1 1.0 +++ killed by SIGKILL +++\n") == [({"/d/s": "socket"}, set())]


def test_relative_names_are_those_of_the_current_directory_or_of_a_descriptor():
    text = """\
1 1.0 chdir("/d") = 0
1 1.0 socket(AF_UNIX, SOCK_STREAM, 0) = 3<socket:[70]>
1 1.0 bind(3<socket:[70]>, {sa_family=AF_UNIX, sun_path="a"}, 4) = 0
1 1.0 openat(AT_FDCWD</d>, ".", O_RDONLY|O_DIRECTORY) = 4</d>
1 1.0 renameat(AT_FDCWD</d>, "a", 4</d>, "b") = 0
1 1.0 symlinkat("b", 4</d>, "l") = 0
1 1.0 socket(AF_UNIX, SOCK_STREAM, 0) = 5<socket:[71]>
1 1.0 bind(5<socket:[71]>, {sa_family=AF_UNIX, sun_path="/proc/self/fd/4/c"}, 20) = 0
"""
    assert states(text) == [({"/d/b": "socket", "/d/l": "link", "/d/c": "socket"}, set())]


def test_a_socket_serves_until_the_last_descriptor_of_any_process_is_closed():
    forked = BOUND + "1 1.0 clone(child_stack=NULL, flags=SIGCHLD) = 2\n1 1.0 +++ exited with 0 +++\n"
    assert states(forked) == [({"/d/s": "socket"}, {"socket:[70]"})]
    assert states(forked + "2 1.0 close(3<socket:[70]>) = 0\n") == [({"/d/s": "socket"}, set())]
    doubled = BOUND + "1 1.0 dup(3<socket:[70]>) = 4<socket:[70]>\n1 1.0 close(3<socket:[70]>) = 0\n"
    assert states(doubled) == [({"/d/s": "socket"}, {"socket:[70]"})]
    replaced = BOUND + '1 1.0 execve("/x", ["x"], 0x1 /* 1 var */) = 0\n'
    assert states(replaced) == [({"/d/s": "socket"}, set())]


def test_the_child_of_a_server_that_is_killed_in_its_fork_has_the_servers_socket():
    killed = BOUND + (
        "1 1.0 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n"
        "1 1.0 <... clone resumed> <unfinished ...>) = ?\n"
        "1 1.0 +++ killed by SIGKILL +++\n"
    )
    assert states(killed) == [({"/d/s": "socket"}, set())]
    connected = '3 1.0 connect(3<socket:[71]>, {sa_family=AF_UNIX, sun_path="/d/s"}, 7) = 0\n'
    child = "2 1.0 +++ killed by SIGKILL +++\n"
    assert states("3 1.0 umask(022) = 022\n" + killed + connected + child) == [({"/d/s": "socket"}, set())]
    with pytest.raises(Contradiction, match="connect"):
        states("3 1.0 umask(022) = 022\n" + killed + child + connected + "3 1.0 umask(022) = 022\n")


def test_a_fork_that_is_begun_again_has_made_no_child():
    again = BOUND + (
        "1 1.0 clone(child_stack=NULL, flags=SIGCHLD) = ? ERESTARTNOINTR (To be restarted)\n"
        "1 1.0 clone(child_stack=NULL, flags=SIGCHLD) = 2\n"
        "1 1.0 +++ exited with 0 +++\n"
    )
    assert states(again) == [({"/d/s": "socket"}, {"socket:[70]"})]
    assert states(again + "2 1.0 +++ exited with 0 +++\n") == [({"/d/s": "socket"}, set())]


def test_a_thread_shares_the_descriptors_of_its_process_and_lives_as_long():
    threads = BOUND + "1 1.0 clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD}, 88) = 2\n"
    assert states(threads + "2 1.0 close(3<socket:[70]>) = 0\n") == [({"/d/s": "socket"}, set())]
    assert states(threads + "1 1.0 +++ exited with 0 +++\n") == [({"/d/s": "socket"}, {"socket:[70]"})]


def test_the_results_tell_in_which_order_overlapping_calls_took_effect():
    text = BOUND + (
        '1 1.0 rename("/d/s", "/d/t" <unfinished ...>\n'
        '2 1.0 unlink("/d/s" <unfinished ...>\n'
        "2 1.0 <... unlink resumed>) = -1 ENOENT (No such file or directory)\n"
        "1 1.0 <... rename resumed>) = 0\n"
    )
    assert states(text) == [({"/d/t": "socket"}, {"socket:[70]"})]


def test_where_they_do_not_tell_both_states_are_possible():
    text = (
        '1 1.0 symlink("x", "/d/a") = 0\n'
        '1 1.0 mkdir("/d/b", 0777) = 0\n'
        '1 1.0 rename("/d/a", "/d/c" <unfinished ...>\n'
        '2 1.0 openat(AT_FDCWD</>, "/d/c", O_WRONLY|O_CREAT, 0666 <unfinished ...>\n'
        "2 1.0 <... openat resumed>) = 3</d/c>\n"
        "1 1.0 <... rename resumed>) = 0\n"
    )
    # Before: the new file is replaced by the link. After: it is what the link leads to.
    assert states(text) == [
        ({"/d/b": "directory", "/d/c": "link"}, set()),
        ({"/d/b": "directory", "/d/c": "link", "/d/x": "file"}, set()),
    ]


def test_a_log_that_no_order_explains_is_a_contradiction():
    with pytest.raises(Contradiction, match="line 4"):
        states(BOUND + '2 1.0 unlink("/d/s") = -1 ENOENT (No such file or directory)\n' + '2 1.0 unlink("/d/s") = 0\n')
    with pytest.raises(Contradiction, match="connect"):
        states(
            BOUND
            + "1 1.0 close(3<socket:[70]>) = 0\n"
            + '2 1.0 connect(3<socket:[71]>, {sa_family=AF_UNIX, sun_path="/d/s"}, 7) = 0\n'
            + "2 1.0 +++ exited with 0 +++\n"
        )


# Real servers

_ASYNCIO = """\
import asyncio, signal, sys
async def main():
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_signal_handler(signal.SIGTERM, ended.set_result, None)
    server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), sys.argv[1])
    await ended
    server.close()
asyncio.run(main())
"""
_SOCKETSERVER = """\
import socketserver, sys
with socketserver.UnixStreamServer(sys.argv[1], socketserver.StreamRequestHandler) as server:
    server.serve_forever()
"""
_NGINX = (
    "daemon off; pid pid; error_log stderr; worker_processes 2; events {} http { access_log off;"
    " client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;"
    " server { listen unix:{socket}; } }"
)
_SERVERS = {
    "asyncio": [sys.executable, "-c", _ASYNCIO, "{socket}"],
    "socketserver": [sys.executable, "-c", _SOCKETSERVER, "{socket}"],
    "redis": ["redis-server", "--port", "0", "--unixsocket", "{socket}", "--save", ""],
    "memcached": ["memcached", "-s", "{socket}", "-u", "root"],
    "socat": ["socat", "UNIX-LISTEN:{socket},fork", "PIPE"],
    "socat-early": ["socat", "UNIX-LISTEN:{socket},fork,unlink-early", "PIPE"],
    "nginx": ["sh", "-c", 'printf %s "$1" >conf; exec nginx -p "$PWD" -c "$PWD/conf"', "sh", _NGINX],
    "node": ["node", "-e", "require('net').createServer().listen(process.argv[1])", "{socket}"],
}
_ALWAYS = ("asyncio", "socketserver", "redis", "nginx")
"""Those that every run has a look at; the others on demand."""
_SCENES = ("term-cleanup", "stale-restart", "second-instance", "regular-file", "symlink-dangling")


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("scene", _SCENES)
@pytest.mark.parametrize(
    "server",
    [pytest.param(name, marks=() if name in _ALWAYS else pytest.mark.exhaustive) for name in _SERVERS],
)
def test_its_word_is_the_one_for_what_is_really_there(server: str, scene: str, directory: Path):
    command = _SERVERS[server]
    program = "nginx" if server == "nginx" else command[0]
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    path, log = directory / "p" / "s", directory / "log"
    driver = Path(__file__).with_name("by_hand.py")
    done = subprocess.run(
        [*trace(log), sys.executable, driver, scene.replace("-", "_"), path, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = Log(log.read_text())
    found = starts(read, lambda argv, cwd: cwd.startswith(f"{path.parent}-"))
    assert expect(scene, [Scene(Replay(read, str(directory)), str(path), found)]) == {json.loads(done.stdout)}
