"""Which engine is meant, two of them at once, podman, and what goes wrong with engines, images and volumes: each is
told in one line that names the thing, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.errors import ImageNotFound
from docker.types import Mount

import udslab
from udslab.containers import Container, Engine, Session, Shared, find, leftovers, sweep
from udslab.containers.labels import Owner
from udslab.errors import AccessDenied, AddressInUse, EngineError, UdsError
from udslab.places.images import provide
from udslab.spawn import Process
from udslab.testing import assert_gone, assert_stale

IMAGE = "udslab-base:debian-12"
PODMAN = "unix:///run/udslab-engine/podman.sock"


def told(error: pytest.ExceptionInfo[UdsError], *words: str) -> None:
    """It is one line, not too long, in which these words stand in this order."""
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 500
    place = 0
    for word in words:
        place = line.find(word, place)
        assert place >= 0, f"{word!r} does not stand there, or not in this order: {line}"
        place += len(word)


# Which engine is meant


@pytest.fixture
def private(tmp_path, monkeypatch) -> Path:
    """A configuration of the docker command's with nothing in it."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "docker"
    config.mkdir()
    (config / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    return config


@pytest.fixture
def context(private, engine) -> str:
    """A Docker context that means the engine."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    if not engine.url.startswith("unix://"):
        pytest.skip(f"the engine is not at a socket of this machine: {engine.url}")
    command = ["docker", "context", "create", "lab", "--docker", f"host={engine.url}"]
    subprocess.run(command, check=True, capture_output=True)
    return "lab"


def test_without_a_name_it_is_the_one_at_the_usual_socket(private):
    if not os.path.exists("/var/run/docker.sock"):
        pytest.skip("no engine is at the usual socket")
    with Engine() as engine:
        assert engine.url == engine.name == "unix:///var/run/docker.sock"


def test_it_is_the_one_that_docker_host_names(private, engine, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    with Engine() as named:
        assert (named.url, named.version) == (engine.url, engine.version)


def test_it_is_the_one_of_the_context_that_is_named(context, engine):
    with Engine(context) as named:
        assert (named.name, named.url, named.version) == (context, engine.url, engine.version)


def test_it_is_the_one_of_docker_context(context, engine, monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", context)
    with Engine() as named:
        assert named.url == engine.url


def test_it_is_the_one_of_the_current_context(private, context, engine):
    subprocess.run(["docker", "context", "use", context], check=True, capture_output=True)
    assert json.loads((private / "config.json").read_text())["currentContext"] == context
    with Engine() as named:
        assert named.url == engine.url


def test_docker_host_comes_before_contexts(context, monkeypatch, path):
    monkeypatch.setenv("DOCKER_CONTEXT", context)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with pytest.raises(EngineError) as error:
        Engine()
    told(error, f"container engine: unix://{path}: no engine is there (ENOENT)")


@pytest.mark.parametrize("how", ["by name", "by DOCKER_CONTEXT"])
def test_a_context_that_is_not_there_is_told_by_its_name(context, monkeypatch, how):
    monkeypatch.setenv("DOCKER_CONTEXT", "nonesuch")
    with pytest.raises(EngineError) as error:
        Engine("nonesuch" if how == "by name" else None)
    told(error, "nonesuch: there is no Docker context of that name (ENOENT)", "docker context ls")


def test_why_the_sdk_does_not_see_a_context_is_told(private, context):
    (private / "config.json").unlink()
    with pytest.raises(EngineError) as error:
        Engine(context)
    told(error, "lab: there is no Docker context of that name", f"echo '{{}}' >{private}/config.json")


# Sockets at which there is no engine


Answer = Callable[[socket.socket], None]


@pytest.fixture
def answering(path, make_socket) -> Iterator[Callable[[Answer], str]]:
    """Something that listens and does ``answer`` with each connection; its URL."""
    listener = make_socket(path, backlog=10)
    held = []

    def run(answer: Answer) -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(listener.accept()[0])
                answer(held[-1])

    threads = []

    def start(answer: Answer) -> str:
        threads.append(threading.Thread(target=run, args=[answer]))
        threads[-1].start()
        return f"unix://{path}"

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for connection in held:
        connection.close()


def saying(text: bytes) -> Answer:
    def say(connection: socket.socket) -> None:
        if connection.recv(1 << 16):
            connection.sendall(text)
            connection.shutdown(socket.SHUT_RDWR)

    return say


def http(status: str, body: str) -> Answer:
    return saying(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda connection: None, ["(ETIMEDOUT): it is there, and does not answer in time"]),
        (lambda connection: connection.shutdown(socket.SHUT_RDWR), ["does not answer as a container engine"]),
        (saying(b"220 mail.example.org ESMTP\r\n"), ["does not answer as a container engine", "220 mail.example.org"]),
        (saying(bytes(range(256)) * 4 + b"\n"), ["does not answer as a container engine"]),
        (http("200 OK", "<html>\nhello\n</html>"), ["does not answer as a container engine", "Expecting value"]),
        (http("200 OK", "[]"), ["does not answer as a container engine"]),
        (http("200 OK", "{}"), ["does not answer as a container engine", "ApiVersion"]),
        (http("200 OK", '{"ApiVersion": "1.12"}'), ["does not answer as a container engine", "1.24"]),
        (http("404 Not Found", "who are you?"), ["does not answer as a container engine", "who are you?"]),
        (http("500 Oh", '{"message": "broken\\nin two lines"}'), ["container engine", "broken in two lines"]),
    ],
    ids=["silence", "hang-up", "mail", "noise", "html", "a list", "no version", "too old", "404", "500"],
)
def test_what_is_no_engine_is_told_within_the_time_limit(answering, answer, words):
    url = answering(answer)
    with pytest.raises(EngineError) as error:
        Engine(url, timeout=0.5 if "(ETIMEDOUT)" in words[0] else 30)
    told(error, f"container engine: {url}: ", *words)


def test_a_backlog_that_is_full_is_told_within_the_time_limit(path, make_socket):
    make_socket(path, backlog=0)
    make_socket().connect(str(path))
    with pytest.raises(EngineError) as error:
        Engine(f"unix://{path}", timeout=0.2)
    told(error, f"unix://{path}", "(ETIMEDOUT)")


def a_stale_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ["no engine is there (ENOENT): is it started?", "DOCKER_HOST"]),
        (a_stale_file, ["no engine answers there (ECONNREFUSED): is it started?"]),
        (lambda path: path.write_text(""), ["no engine answers there (ECONNREFUSED): is it started?"]),
    ],
    ids=["nothing", "stale", "a file"],
)
def test_an_engine_that_is_down_is_told(path, make, words):
    make(path)
    with pytest.raises(EngineError) as error:
        Engine(f"unix://{path}")
    told(error, f"container engine: unix://{path}: ", *words)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tcp://127.0.0.1:1", ["no engine answers there (ECONNREFUSED)"]),
        ("tcp://nonesuch.invalid:1", ["does not answer as a container engine", "nonesuch.invalid"]),
        ("gopher://x", ["gopher://x"]),
    ],
)
def test_a_url_that_leads_nowhere_is_told(url, words):
    with pytest.raises(EngineError) as error:
        Engine(url, timeout=5)
    told(error, f"container engine: {url}: ", *words)


def test_a_socket_that_this_user_may_not_use_is_told(path, directory, make_socket):
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    make_socket(path, backlog=1)
    path.chmod(0o600)
    directory.chmod(0o711)
    directory.parent.chmod(0o711)
    # That user cannot read this Python's packages: they are imported first.
    source = """
import os, sys
from udslab.containers import Engine
from udslab.errors import EngineError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    Engine(sys.argv[1])
except EngineError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(udslab.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", source, f"unix://{path}"], env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout == (
        f"container engine: unix://{path}: Permission denied (EACCES): "
        "this user may not use its socket: join its group (docker), or use a rootless engine\n"
    )


# Images


@pytest.fixture
def nothing_left(lab: Session) -> Iterator[None]:
    """What fails in the test leaves no container and no volume."""

    def there() -> set[str]:
        return {leftover.name for leftover in find(lab.engine, lab.owner.session)}

    before = there()
    yield
    assert there() == before


@pytest.fixture
def imported(engine) -> Iterator[Callable[..., str]]:
    """Makes an image of one file, or of none; its name."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    made = []

    def make(program: bytes | None = None, *options: str) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            if program is not None:
                entry = tarfile.TarInfo("usr/bin/python3")
                entry.size, entry.mode = len(program), 0o755
                tar.addfile(entry, io.BytesIO(program))
        made.append(f"udslab-test:{uuid.uuid4().hex[:12]}")
        command = ["docker", "-H", engine.url, "import", *options, "-", made[-1]]
        subprocess.run(command, input=archive.getvalue(), check=True, capture_output=True)
        return made[-1]

    yield make
    for name in made:
        engine.client.images.remove(name, force=True)


def elf(machine: int) -> bytes:
    """The first bytes of a program for another machine; the kernel reads no further."""
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\x00" + machine.to_bytes(2, "little") + bytes(100)


AARCH64 = 183


def test_an_image_that_is_not_there_is_told(lab, nothing_left):
    with pytest.raises(EngineError) as error:
        lab.container("udslab-nonesuch:1")
    told(error, "udslab-nonesuch:1 (ENOENT): pull or build it first", "script/base-images")


def test_a_name_that_no_image_can_have_is_told(lab, nothing_left):
    with pytest.raises(EngineError) as error:
        lab.container("No Such Name")
    told(error, "No Such Name: invalid reference format")


def test_an_image_without_python_is_told(lab, imported, nothing_left):
    image = imported()
    with pytest.raises(EngineError) as error:
        lab.container(image)
    told(error, f"{image} has no python3 (ENOEXEC): an agent needs Python 3.9 or newer")


def test_an_image_of_another_machine_is_told(lab, imported, nothing_left):
    image = imported(elf(AARCH64), "--platform", "linux/arm64")
    with pytest.raises(EngineError) as error:
        lab.container(image)
    told(error, f"{image} is made for arm64 (ENOEXEC): the engine runs on {lab.engine.machine}")


def test_a_program_of_another_machine_in_an_image_of_this_one_is_told(lab, imported, nothing_left):
    image = imported(elf(AARCH64))
    with pytest.raises(EngineError) as error:
        lab.container(image)
    told(error, f"the python3 of {image} is no program for {lab.engine.machine} (ENOEXEC)")


def test_a_python_that_lacks_its_interpreter_is_told(lab, imported, nothing_left):
    image = imported(b"#!/no/such/interpreter\n")
    with pytest.raises(EngineError) as error:
        lab.container(image)
    told(error, f"no agent could be started in {image} (ENOEXEC): ", "/usr/bin/python3")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        # The image's own, which says that it is another one, and does what it is told.
        (
            "shift 2; code=$1; shift; exec /usr/bin/python3 -c "
            '"import sys; sys.version_info = (3, 8, 20); sys.version = \'3.8.20 (x)\'\n$code" "$@"',
            "the lab needs Python 3.9 or newer, and this is 3.8.20",
        ),
        ("echo 'python3: cannot be used' >&2; exit 1", "python3: cannot be used"),
        ("exit 0", "has ended"),
        ("kill -9 $$; exec sleep 0", "has ended"),  # a process 1 cannot
    ],
    ids=["too old", "complains", "ends", "kills itself"],
)
def test_a_python_that_becomes_no_agent_is_told(lab, tmp_path, nothing_left, script, words):
    wrapper = tmp_path / "python3"
    wrapper.write_text(f"#!/bin/sh\n{script}\n")
    wrapper.chmod(0o755)
    # Comes first in the PATH.
    mount = Mount("/usr/local/bin/python3", str(wrapper), type="bind", read_only=True)
    with pytest.raises(EngineError) as error:
        lab.container(IMAGE, mount)
    told(error, f"no agent could be started in {IMAGE} (ENOEXEC): ", words)


# What else cannot be had


@pytest.mark.parametrize(
    ("mounts", "options", "words"),
    [
        ([Mount("/x", "/no/such/directory", type="bind")], {}, ["could be made of", "/no/such/directory"]),
        ([Mount("x", "/tmp", type="bind")], {}, ["could be made of", "'x' mount path must be absolute"]),
        ([], {"runtime": "nonesuch"}, ["could be made of", "nonesuch"]),
        ([], {"user": "nonesuch"}, ["could be started", "nonesuch"]),
    ],
    ids=["a directory", "a relative path", "a runtime", "a user"],
)
def test_what_a_container_cannot_have_is_told(lab, nothing_left, mounts, options, words):
    with pytest.raises(EngineError) as error:
        lab.container(IMAGE, *mounts, **options)
    told(error, f"container engine: {lab.engine.name}: no container ", IMAGE, *words[1:])
    assert words[0] in str(error.value)


def test_a_container_that_has_gone_lends_no_namespace(lab, nothing_left):
    gone = lab.container(IMAGE)
    gone.close()
    with pytest.raises(EngineError) as error:
        lab.container(IMAGE, network=gone)
    told(error, "no container of", IMAGE, gone.id)


def test_what_is_done_to_a_container_in_vain_is_told(lab, nothing_left):
    container = lab.container(IMAGE)
    with pytest.raises(EngineError) as error:
        container.unpause()
    told(error, f"{container.name} cannot be unpaused: ", "is not paused")
    container.pause()
    with pytest.raises(EngineError) as error:
        container.pause()
    told(error, f"{container.name} cannot be paused: ", "is already paused")
    container.kill()
    for call in (container.kill, container.pause):
        with pytest.raises(EngineError) as error:
            call()
        told(error, container.name)
    container.close()
    container.close()


# Volumes


@pytest.fixture
def odd_volume(lab: Session) -> Iterator[Callable[[str], Shared]]:
    """Makes a volume in memory with mount options of its own."""
    api = lab.engine.client.api
    made = []

    def make(options: str) -> Shared:
        made.append(f"udslab-test-{uuid.uuid4().hex[:12]}")
        settings = {"type": "tmpfs", "device": "tmpfs", "o": options}
        api.create_volume(made[-1], driver_opts=settings, labels=lab.owner.labels)
        return Shared("volume", made[-1], "/run/odd", "/run/odd")

    yield make
    for name in made:
        api.remove_volume(name, force=True)


@pytest.mark.parametrize("type", ["stream", "dgram"])
def test_a_volume_without_room_is_told(lab, odd_volume, type):
    volume = odd_volume("nr_inodes=1,mode=0777")
    with lab.container(IMAGE, volume) as container:
        with pytest.raises(UdsError) as error:
            container.serve("/run/odd/s", type=type)
        assert error.value.errno == errno.ENOSPC
        told(error, "bind: /run/odd/s: No space left on device (ENOSPC): no room, or no inode, is left")
        assert container.status("/run/odd/s").state == "absent"


@pytest.mark.parametrize(
    ("options", "state"), [("uid=4711,mode=0755", "absent"), ("uid=4711,mode=0700", "unreachable")]
)
def test_a_volume_of_somebody_else_is_told(lab, odd_volume, options, state):
    with lab.container(IMAGE, odd_volume(options)) as container:
        with pytest.raises(AccessDenied) as error:
            container.serve("/run/odd/s")
        told(error, "bind: /run/odd/s: Permission denied (EACCES): the directory may not be written or searched")
        assert container.status("/run/odd/s").state == state


def test_a_volume_that_is_in_use_is_told(lab, odd_volume):
    volume = odd_volume("mode=0777")
    with lab.container(IMAGE, volume):
        with pytest.raises(EngineError) as error, lab.engine.telling(f"the volume {volume.source} cannot be removed"):
            lab.engine.client.api.remove_volume(volume.source)
        told(error, f"the volume {volume.source} cannot be removed", "in use")


# Podman, and two engines at once


@pytest.fixture(scope="session")
def podman(engine: Engine) -> Iterator[Engine]:
    """podman at its socket, with the image."""
    try:
        podman = Engine(PODMAN)
    except EngineError as error:
        pytest.skip(f"{error}; script/engine starts it")
    with podman:
        try:
            podman.image_machine(IMAGE)
        except EngineError:
            podman.client.images.load(engine.client.images.get(IMAGE).save(named=True))
        yield podman


@pytest.fixture(scope="session")
def podman_lab(podman: Engine) -> Iterator[Session]:
    with Session(podman) as session:
        yield session


@pytest.fixture(scope="session")
def podman_shared(podman_lab: Session) -> Shared:
    return podman_lab.directory()


@pytest.fixture(scope="session")
def in_podman(podman_lab: Session, podman_shared: Shared) -> Container:
    return podman_lab.container(IMAGE, podman_shared)


def upper(connection) -> bool:
    connection.settimeout(10)
    connection.sendall(b"hello")
    return connection.recv(100) == b"HELLO"


@pytest.mark.parametrize("type", ["stream", "seqpacket", "dgram"])
def test_podman_serves_clients_outside(in_podman, podman_shared, type):
    path = f"{podman_shared.path}/{type}"
    with in_podman.serve(path, type=type, mode=0o666) as server:
        with udslab.connect(path, type=type, bind="auto" if type != "dgram" else f"{path}-c", timeout=10) as client:
            if type == "dgram":
                os.chmod(f"{path}-c", 0o777)  # the server is somebody else, and answers there
            assert upper(client)
        with pytest.raises(AddressInUse):
            in_podman.serve(path, type=type)
        assert server.kill() == -9
    assert_stale(path)
    with in_podman.serve(path, type=type):
        assert udslab.status(path).serving
    assert_gone(path)


def test_podman_pauses_and_goes_on(in_podman, podman_shared):
    path = f"{podman_shared.path}/paused"
    with in_podman.serve(path, mode=0o666):
        in_podman.pause()
        try:
            assert udslab.status(path).state == "listening"
            client = udslab.connect(path, timeout=10)
        finally:
            in_podman.unpause()
        with client:
            assert upper(client)


def test_podman_kills_and_leaves_nothing_but_the_stale_file(podman_lab, podman_shared, in_podman):
    path = f"{podman_shared.path}/killed"
    doomed = podman_lab.container(IMAGE, podman_shared)
    doomed.serve(path)
    doomed.kill()
    assert_stale(path)
    doomed.close()
    assert doomed.id[:12] not in {leftover.name for leftover in find(podman_lab.engine)}
    with in_podman.serve(path):
        assert in_podman.status(path).state == "listening"


def test_a_session_on_podman_leaves_nothing(podman):
    with Session(podman) as session:
        directory, volume, memory = session.directory(), session.volume(), session.volume("/run/memory", tmpfs=True)
        container = session.container(IMAGE, directory, volume, memory)
        for place in (directory, volume, memory):
            container.serve(f"{place.path}/s")
        other = session.container(IMAGE, directory, volume.read_only, network=container)
        for place in (directory, volume):
            with other.connect(f"{place.path}/s", timeout=10) as client:
                assert upper(client)
        other.pause()  # also that does not keep it
        assert len(list(find(podman, session.owner.session))) == 4
    assert list(find(podman, session.owner.session)) == []
    assert not os.path.exists(directory.path)


def test_podman_takes_no_runtime_and_that_is_told(podman_lab):
    before = {leftover.name for leftover in find(podman_lab.engine, podman_lab.owner.session)}
    with pytest.raises(EngineError) as error:
        podman_lab.container(IMAGE, runtime="runsc")
    told(error, PODMAN, "runsc", "containers.conf")
    assert {leftover.name for leftover in find(podman_lab.engine, podman_lab.owner.session)} == before


def test_podman_tells_of_an_image_that_is_not_there(podman_lab):
    with pytest.raises(EngineError) as error:
        podman_lab.container("udslab-nonesuch:1")
    told(error, PODMAN, "udslab-nonesuch:1", "(ENOENT): pull or build it first")


def test_what_a_dead_session_has_left_on_podman_is_swept(podman, monkeypatch):
    with subprocess.Popen(["true"]) as process:
        dead = Owner.this_process()
        dead = Owner(dead.session, dead.machine, dead.boot, dead.pidns, str(process.pid), "1")
    name = f"udslab-test-{uuid.uuid4().hex[:12]}"
    podman.client.api.create_volume(name, labels=dead.labels)
    podman.client.api.create_container(IMAGE, ["true"], labels=dead.labels)
    sweep(podman)
    assert len(list(find(podman, dead.session))) == 2  # too fresh
    monkeypatch.setattr(leftovers, "_FRESH", -10.0)
    assert {leftover.owner for leftover in sweep(podman)} == {dead}
    assert list(find(podman, dead.session)) == []


def test_two_engines_at_once_meet_in_a_directory(lab, kept, shared, in_podman, podman_lab, podman_shared):
    assert lab.engine.url != podman_lab.engine.url
    with podman_lab.container(IMAGE, shared) as client, kept.serve(f"{shared.path}/two", mode=0o666):
        with client.connect(f"{shared.path}/two", timeout=10) as connection:
            assert upper(connection)
            assert connection.credentials.pid == 0
        with pytest.raises(AddressInUse):
            client.serve(f"{shared.path}/two")
    with lab.container(IMAGE, podman_shared) as client, in_podman.serve(f"{podman_shared.path}/two", mode=0o666):
        with client.connect(f"{podman_shared.path}/two", timeout=10) as connection:
            assert upper(connection)
        # And neither sees, nor would remove, what the other has.
        assert not {one.name for one in find(lab.engine)} & {one.name for one in find(podman_lab.engine)}


def test_a_matrix_is_spread_over_two_engines(engine, podman, tmp_path):
    file = tmp_path / "m.toml"
    file.write_text(
        "distros = ['debian-12']\nusers = ['root', 'nobody']\nonly = ['NAM-01', 'BND-01']\n"
        "[output]\njson = 'atlas.json'\n"
    )
    engines = ["--uds-engine", engine.url, "--uds-engine", podman.url]
    command = [sys.executable, "-m", "udslab", "matrix", file, "-n", "2", *engines]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    surveys = json.loads((tmp_path / "atlas.json").read_text())
    assert {one["place"]["engine"] for one in surveys} == {engine.version, podman.version}
    assert {cell["verdict"] for one in surveys for cell in one["cells"]} == {"expected"}


# An image that only a registry has


@pytest.fixture
def registry(tmp_path) -> Iterator[str]:
    """The host and port of a registry that nobody outside reaches."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("there is no docker-registry: apt-get install docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    file = tmp_path / "registry.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}"
    file.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '{host}:{port}'}}\n")
    with Process([program, "serve", str(file)]) as process, socket.socket() as client:
        while client.connect_ex((host, port)):
            assert not process.exits_within(0.02), process.output()
        yield f"{host}:{port}"


def test_an_image_that_only_a_registry_has_is_pulled(engine, registry):
    repository, image = f"{registry}/python", f"{registry}/python:12"
    api = engine.client.api
    api.tag(IMAGE, repository, "12")
    try:
        for line in api.push(repository, "12", stream=True, decode=True):
            assert "error" not in line
        api.remove_image(image)
        assert not engine.image_id(image)
        assert provide(engine, image) == engine.image_id(IMAGE)
    finally:
        with contextlib.suppress(ImageNotFound):
            api.remove_image(image)
