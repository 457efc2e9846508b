"""What a process in a lab container cannot do, seen by itself."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest

import udslab
from udslab.containers import Container, Session, Shared
from udslab.errors import AgentGone

IMAGE = "udslab-base:debian-12"


@pytest.fixture(scope="session")
def places(lab: Session) -> list[Shared]:
    return [lab.directory(), lab.volume()]


@pytest.fixture(scope="session")
def confined(lab: Session, places: list[Shared]) -> Container:
    return lab.container(IMAGE, *places)


def seen(container: Container, source: str) -> Any:
    """What Python in the container finds ``said`` to be, when ``source`` has run."""
    program = f"import json, os\n{textwrap.dedent(source)}\nprint(json.dumps(said))"
    with container.start(["python3", "-c", program]) as process:
        code = process.wait(30)
        assert code == 0, process.output()
        return json.loads(process.output())


TRY = """
def tried(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"
"""


@pytest.mark.parametrize("pid", ["self", "1"])
def test_it_has_no_capability_and_cannot_get_any(confined, pid):
    status = seen(confined, f"said = dict(line.split(':', 1) for line in open('/proc/{pid}/status') if ':' in line)")
    for what in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[what], 16) == 0, what
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


def test_it_is_not_root_and_cannot_become_root(confined, lab):
    said = seen(
        confined,
        TRY + "said = [os.getresuid(), os.getresgid(), os.getgroups(), tried(os.setuid, 0), tried(os.setgid, 0)]",
    )
    assert said[0] == [lab.uid] * 3
    assert said[1] == [lab.gid] * 3
    assert set(said[2]) <= {lab.gid}
    assert said[3:] == ["PermissionError"] * 2
    assert lab.uid != 0


def test_it_has_no_network_but_loopback(confined):
    said = seen(
        confined,
        TRY
        + """
import socket
def flags(name):
    return int(open(f"/sys/class/net/{name}/flags").read(), 16)
up = [name for _, name in socket.if_nameindex() if flags(name) & 1]
outside = [socket.socket(socket.AF_INET, socket.SOCK_STREAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
errnos = [sock.connect_ex(("192.0.2.1", 80)) for sock in outside]
listener = socket.create_server(("127.0.0.1", 0))
loopback = tried(socket.create_connection, listener.getsockname())
said = [up, [os.strerror(number) for number in errnos], loopback]
""",
    )
    assert said == [["lo"], ["Network is unreachable"] * 2, "done"]


def test_it_can_write_nowhere_but_in_what_it_shares_and_in_memory(confined, places):
    said = seen(
        confined,
        """
said = []
for directory, within, files in os.walk("/"):
    if directory in ("/proc", "/sys"):
        within.clear()
        continue
    if os.access(directory, os.W_OK):
        said.append(directory)
    for name in files:
        path = os.path.join(directory, name)
        if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.W_OK):
            said.append(path)
""",
    )
    shared = {place.path for place in places}
    writable = {path for path in said if path in shared or not path.startswith(("/tmp/", "/dev/shm/"))}
    # /dev/shm and /dev/mqueue are the engine's, in memory, and its own.
    assert writable - {"/dev/shm", "/dev/mqueue"} == {"/tmp"} | shared


def test_a_file_of_the_kernels_cannot_be_written(confined):
    said = seen(
        confined,
        TRY + "said = [tried(open, path, 'w') for path in ('/proc/sys/kernel/hostname', '/sys/kernel/mm/ksm/run')]",
    )
    assert set(said) <= {"PermissionError", "OSError"}  # OSError: the file system is read-only


def test_it_can_neither_mount_nor_make_namespaces_nor_devices(confined):
    said = seen(
        confined,
        TRY
        + """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def said_of(result):
    return errno.errorcode[ctypes.get_errno()] if result else "done"
said = [
    said_of(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
    said_of(libc.unshare(0x10000000)),
    said_of(libc.unshare(0x00020000)),
    tried(os.mknod, "/tmp/null", 0o020666, os.makedev(1, 3)),
    tried(os.chroot, "/tmp"),
]
""",
    )
    assert said == ["EPERM"] * 3 + ["PermissionError"] * 2


# The agent beside it, which has the same user


def test_it_cannot_see_the_agents_descriptors_nor_its_memory(confined):
    said = seen(
        confined,
        TRY
        + """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
said = [
    tried(os.listdir, "/proc/1/fd"),
    tried(open, "/proc/1/fd/0"),
    tried(open, "/proc/1/fd/1", "w"),
    tried(open, "/proc/1/mem"),
    tried(open, "/proc/1/environ"),
    tried(os.readlink, "/proc/1/cwd"),
    "done" if libc.ptrace(16, 1, 0, 0) == 0 else errno.errorcode[ctypes.get_errno()],
]
""",
    )
    assert said == ["PermissionError"] * 6 + ["EPERM"]


def test_it_can_kill_all_beside_process_1_and_the_next_one_is_served_all_the_same(confined, places):
    path = f"{places[0].path}/after"
    said = seen(
        confined,
        TRY
        + """
others = [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) not in (1, os.getpid())]
said = [tried(os.kill, pid, 9) for pid in others]
""",
    )
    assert set(said) <= {"done"}
    with confined.serve(path, mode=0o666), udslab.connect(path, timeout=10) as client:
        client.sendall(b"hello")
        assert client.read_exactly(5) == b"HELLO"


def test_it_inherits_nothing_of_the_agents(confined):
    source = (
        "said = {fd: os.readlink(f'/proc/self/fd/{fd}') for fd in range(100) if os.path.lexists(f'/proc/self/fd/{fd}')}"
    )
    said = seen(confined, source)
    assert set(said) == {"0", "1", "2"}
    assert said["0"] == "/dev/null"
    assert said["1"] == said["2"]
    assert said["1"].startswith("pipe:")


def test_it_cannot_kill_nor_stop_process_1(confined):
    # A process 1 gets no signal from inside that it has no handler for.
    said = seen(
        confined,
        """
import signal
sent = [number for number in signal.valid_signals() if number not in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
for number in sent:
    os.kill(1, number)
said = [signal.SIGKILL in sent, signal.SIGSTOP in sent, signal.SIGHUP in sent]
""",
    )
    assert said == [True] * 3
    assert confined.info() == confined.started


@pytest.mark.parametrize("number", ["TERM", "INT"])
def test_it_can_end_it_and_then_all_goes_in_order(lab, places, number):
    path = f"{places[0].path}/ended-by-{number}"
    container = lab.container(IMAGE, *places)
    container.serve(path)
    killer = container.start(["sh", "-c", f"kill -{number} 1; sleep 100"])
    with pytest.raises(AgentGone):
        killer.wait(10)  # the answer may be that it was ended, and is the last one
        container.info()
    assert udslab.status(path).state == "absent"
    container.close()


def test_it_sees_no_process_of_another_container(confined, kept):
    with kept.start(["sleep", "4711"]) as sleeper:
        source = """
said = {}
for name in os.listdir("/proc"):
    if name.isdecimal():
        with open(f"/proc/{name}/stat") as stat:
            said[name] = stat.read().split()[1:4]
"""
        processes = seen(confined, source)
        assert {name for name, _, parent in processes.values()} == {"(python3)"}
        assert sleeper.returncode is None
