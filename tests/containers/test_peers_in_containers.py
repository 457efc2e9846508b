"""The C peers in containers with ours outside, the other way round, and with each other: no Python has part in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from docker.types import Mount

import udslab
from udslab.containers import Container, Session, Shared
from udslab.remote import RemoteProcess
from udslab.spawn import Process, wait_until
from udslab.testing import assert_gone, assert_stale

IMAGE = "udslab-base:debian-12"
ROOT = Path(__file__).parent.parent.parent
LINES = b"hello\n\nlast"
SERVED = "server: a client of uid {}\nserver: the other side has been closed\n"


@pytest.fixture(scope="session")
def static_peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the C programs, which need nothing of the image that they run in."""
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("no C compiler (cc and make)")
    out = tmp_path_factory.mktemp("static-peers")
    out.chmod(0o755)  # who is in the containers is somebody else
    subprocess.run(["make", "-s", "-C", ROOT / "lab" / "peers", f"OUT={out}", "LDFLAGS=-static"], check=True)
    return out


@pytest.fixture(scope="session")
def directory(lab: Session) -> Shared:
    """Where servers and clients meet: at the same path everywhere."""
    return lab.directory()


@pytest.fixture(scope="session")
def box(lab: Session, directory: Shared, static_peers: Path) -> Container:
    """A container with the peers. What it has in /var/tmp, where a C client puts its file, no other has."""
    peers = Mount("/peers", str(static_peers), type="bind", read_only=True)
    return lab.container(IMAGE, directory, peers, Mount("/var/tmp", lab.directory().path, type="bind"))


@pytest.fixture
def path(directory: Shared, request: pytest.FixtureRequest) -> str:
    """A path where nothing is yet."""
    return f"{directory.path}/{abs(hash(request.node.nodeid)):x}"


def start_server(box: Container, path: str) -> RemoteProcess:
    server = box.start(["/peers/server", path])
    wait_until(path, lambda found: found.serving)
    return server


def c_client(box: Container, path: str, data: bytes, setup: str = ":") -> RemoteProcess:
    """A C client in a container, to its end."""
    script = f'{setup}; printf %b "$2" | exec /peers/client "$1"'
    escaped = "".join(f"\\0{byte:03o}" for byte in data)
    client = box.start(["sh", "-c", script, "sh", path, escaped])
    client.wait(30)
    return client


def test_their_server_inside_answers_our_client_outside(box, directory, path):
    server = start_server(box, path)
    with udslab.connect(path, bind=f"{path}-c", timeout=10) as client:
        client.sendall(LINES)
        assert client.read_exactly(len(LINES)) == LINES.upper()
        assert client.credentials.uid == box.started.uid
    assert server.wait(10) == 0
    assert server.output() == SERVED.format(os.geteuid())
    assert_stale(path)  # as everywhere: it does not remove its file


def test_their_server_inside_answers_our_client_in_another_container(box, kept, lab, directory, path):
    server = start_server(box, path)
    with lab.container(IMAGE, directory) as other:
        with other.connect(path, bind=f"{path}-c", timeout=10) as client:
            client.settimeout(10)
            client.sendall(LINES)
            assert client.read_exactly(len(LINES)) == LINES.upper()
        assert server.wait(10) == 0
        assert server.output() == SERVED.format(other.started.uid)
        assert other.status(path).removable
        with other.serve(path):  # and ours takes its place
            assert c_client(box, path, b"again\n").output() == "AGAIN\n"


def test_our_server_outside_answers_their_client_inside(box, serve, path):
    # Whoever made the file may connect to it: here that is root, and the client is not.
    server = serve(path, "--mode", "0666")
    client = c_client(box, path, LINES)
    assert client.output() == LINES.upper().decode()
    assert client.wait() == 0
    assert server.end() == 0
    assert_gone(path)


def test_our_server_inside_answers_their_client_outside(box, peers, path):
    with box.serve(path):
        client = subprocess.Popen([peers / "client", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert client.communicate(LINES, timeout=10)[0] == LINES.upper()
        finally:
            client.kill()
            client.wait()
            Path(f"/var/tmp/{client.pid:05}").unlink(missing_ok=True)
        assert client.returncode == 0
    assert_gone(path)


def test_their_client_needs_a_place_for_its_file(kept, lab, directory, static_peers, path):
    # A lab container's root is read-only: the classic client stops at its bind, and ours has no file unless asked.
    mount = Mount("/peers", str(static_peers), type="bind", read_only=True)
    with lab.container(IMAGE, directory, mount) as bare, bare.serve(path):
        client = c_client(bare, path, LINES)
        assert client.wait() == 2
        assert "client: bind: /var/tmp/" in client.output()
        assert "Read-only file system (errno 30)" in client.output()
        with bare.connect(path, timeout=10) as ours:
            ours.settimeout(10)
            ours.sendall(LINES)
            assert ours.read_exactly(len(LINES)) == LINES.upper()


def test_who_calls_from_another_mount_namespace_is_nobody_to_their_server(c_server_outside, box, path):
    # It looks for the client's file by a name that means another file, or none, where it runs itself.
    server = c_server_outside(path)
    client = c_client(box, path, LINES, "trap '' PIPE")
    assert server.wait(10) == 12
    assert "server: a bad filename: /var/tmp/" in server.output()
    assert "No such file or directory (errno 2)" in server.output()
    assert client.wait() == 5


def test_ours_turns_it_away_too_if_told_to_identify_callers_so_and_serves_on(box, serve, path):
    server = serve(path, "--identify", "--mode", "0666")
    assert c_client(box, path, LINES, "umask 077; trap '' PIPE").wait() == 5  # reset, or a broken pipe
    (line,) = [line for line in server.output().splitlines() if "client 1: " in line]
    assert f" uid {box.started.uid} gid {box.started.gid} " in line  # the kernel's word
    assert "turned away: a bad filename: /var/tmp/" in line
    with box.connect(path, bind=f"{path}-c", umask=0o077, timeout=10) as client:
        client.settimeout(10)
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
    assert server.end() == 0


def test_their_server_steals_a_path_from_another_container_and_ours_does_not(box, directory, lab, path):
    with lab.container(IMAGE, directory) as other:
        victim = other.serve(path)
        victims = udslab.status(path).inode
        thief = box.start(["/peers/server", path])
        wait_until(path, lambda found: found.serving and found.inode != victims)
        assert victim.returncode is None  # it lives, and nobody can reach it
        with pytest.raises(udslab.AddressInUse):
            other.serve(path)
        assert victim.end() == 0
        assert other.status(path).serving  # the victim takes nothing back
        assert thief.kill() == -9
        assert_stale(path)


@pytest.fixture
def c_server_outside(peers: Path, sockets):
    """Starts the C server here, at a path that all may connect to, and waits until it listens."""

    def start(path: str) -> Process:
        process = sockets.enter_context(Process(["sh", "-c", 'umask 0; exec "$@"', "sh", peers / "server", path]))
        process.wait_serving(path)
        return process

    return start
