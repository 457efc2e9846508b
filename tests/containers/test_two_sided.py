"""A server in one container, and clients in others: what reaches what, what is seen of whom, and who may replace it."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from udslab.containers import Container, Session, Shared
from udslab.credentials import Credentials
from udslab.errors import AccessDenied, AddressInUse, EngineError, NoSuchPath, Refused, UdsError
from udslab.remote import Remote, RemoteConnection
from udslab.spawn import wait_until
from udslab.state import State

IMAGE = "udslab-base:debian-12"
TYPES = ("stream", "seqpacket", "dgram")
PLACES = ("volume", "directory", "memory", "read-only")
NUMBERS = itertools.count(1)

each_type = pytest.mark.parametrize("type", TYPES)

Make = Callable[..., Container]


@pytest.fixture(scope="session")
def places(lab: Session) -> dict[str, Shared]:
    """What the containers share; the last one is the first one, mounted a second time."""
    volume = lab.volume()
    read_only = replace(volume, mountpoint="/run/look", path=volume.path.replace("/run/lab", "/run/look"))
    memory = lab.volume("/run/memory", tmpfs=True)
    return {"volume": volume, "directory": lab.directory(), "memory": memory, "read-only": read_only}


@pytest.fixture(scope="session")
def make(lab: Session, places: dict[str, Shared]) -> Make:
    """Makes a container that sees all the places, and keeps it: the same one the next time, unless it has ended."""
    made: dict[object, Container] = {}

    def make(who: str = "", *, image: str = IMAGE, **options: object) -> Container:
        key = (who, image, *options.items())
        if key not in made or not made[key].alive:
            if "runtime" in options and options["runtime"] not in lab.engine.client.info()["Runtimes"]:
                pytest.skip(f"the engine has no runtime {options['runtime']}; script/engine starts one that has")
            try:
                lab.engine.image_machine(image)
            except EngineError:
                pytest.skip(f"there is no image {image}; make it: script/base-images {image.rpartition(':')[2]}")
            mounts = [places[name] for name in PLACES[:-1]]
            made[key] = lab.container(image, *mounts, places["read-only"].read_only, **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def there(make: Make) -> Container:
    """Where the servers are."""
    return make("there")


@pytest.fixture(scope="session")
def here(make: Make) -> Container:
    """Where the clients are."""
    return make("here")


@pytest.fixture
def name() -> str:
    """A name that no other test takes."""
    return f"s{next(NUMBERS)}"


@pytest.fixture
def path(places: dict[str, Shared], name: str) -> str:
    """A path in the volume where nothing is yet."""
    return f"{places['volume'].path}/{name}"


@contextmanager
def connected(client: Remote, path: str, type: str, places: dict[str, Shared]) -> Iterator[RemoteConnection]:
    """A connection; of datagrams with a file that the server can answer to."""
    own = f"{places['directory'].path}/c{next(NUMBERS)}" if type == "dgram" else None
    with client.connect(path, type=type, timeout=10, bind=own) as connection:
        connection.settimeout(10)
        yield connection


def answers(client: Remote, path: str, type: str, places: dict[str, Shared]) -> Credentials | None:
    """That the server there answers; its credentials."""
    with connected(client, path, type, places) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"HELLO"
        return connection.credentials


# Places and types


@each_type
@pytest.mark.parametrize("place", PLACES)
def test_a_server_is_reached_and_seen_and_not_replaced_from_another_container(there, here, places, name, place, type):
    seen = f"{places[place].path}/{name}"
    with there.serve(seen.replace("/run/look", "/run/lab"), type=type):
        answers(here, seen, type, places)
        found = here.status(seen)
        assert (found.serving, found.certain, found.type) == (True, True, type)
        with pytest.raises(AddressInUse) as error:
            here.serve(seen, type=type)
        assert error.value.status is not None
        assert (error.value.status.state, error.value.status.certain) == (found.state, True)
        answers(here, seen, type, places)  # and it has not noticed
    assert here.status(seen).state is State.ABSENT


def test_nothing_can_be_bound_where_the_volume_is_mounted_read_only(here, places, name):
    with pytest.raises(UdsError) as error:
        here.serve(f"{places['read-only'].path}/{name}")
    assert error.value.errno == errno.EROFS
    assert "a server needs a writable one" in str(error.value)


@each_type
@pytest.mark.parametrize("place", PLACES[:-1])
def test_what_a_killed_server_leaves_is_stale_from_the_other_container_and_replaced_there(
    there, here, places, name, place, type
):
    path = f"{places[place].path}/{name}"
    assert there.serve(path, type=type).kill() == -9
    found = here.status(path)
    assert (found.state, found.certain) == (State.STALE, True)
    with pytest.raises(Refused):
        here.connect(path, type=type)
    with here.serve(path, type=type):
        answers(there, path, type, places)
    assert there.status(path).state is State.ABSENT


def test_where_it_cannot_be_replaced_it_is_stale_all_the_same(there, here, places, name):
    there.serve(f"{places['volume'].path}/{name}").kill()
    found = here.status(f"{places['read-only'].path}/{name}")
    assert (found.state, found.certain) == (State.STALE, True)
    with pytest.raises(UdsError) as error:
        here.serve(f"{places['read-only'].path}/{name}")
    assert error.value.errno == errno.EROFS


def test_a_server_that_is_frozen_is_not_replaced(there, here, path):
    with there.serve(path) as server:
        server.freeze()
        with pytest.raises(AddressInUse):
            here.serve(path)
        server.thaw()


# Whole containers


def test_what_a_killed_container_leaves_is_stale_and_replaced(make, here, places, path):
    doomed = make("doomed")
    doomed.serve(path)
    assert here.status(path).state is State.LISTENING
    doomed.kill()
    found = here.status(path)
    assert (found.state, found.certain) == (State.STALE, True)
    with here.serve(path):
        answers(here, path, "stream", places)


def test_a_container_that_is_closed_leaves_nothing_stale(make, here, path):
    closed = make("doomed")
    closed.serve(path)
    closed.close()
    assert here.status(path).state is State.ABSENT


def test_a_paused_container_is_seen_listening_and_answers_when_it_goes_on(there, here, path):
    with there.serve(path):
        there.pause()
        try:
            found = here.status(path)
            assert (found.state, found.certain, found.full) == (State.LISTENING, True, False)
            connection = here.connect(path, timeout=10)  # its backlog takes it
            connection.sendall(b"hello")
            with pytest.raises(AddressInUse):
                here.serve(path)
        finally:
            there.unpause()
        with connection:
            connection.settimeout(10)
            assert connection.recv(100) == b"HELLO"


# Namespaces


@pytest.mark.parametrize("spaces", [(), ("network",), ("pid",), ("network", "pid")], ids="-".join)
def test_what_is_known_and_reached_depends_on_the_namespaces_that_are_shared(make, there, places, path, name, spaces):
    client = make(**dict.fromkeys(spaces, there))
    with there.serve(path) as server:
        # First, for the server's end of a connection is a socket of the *client's* network namespace, with that name.
        found = client.status(path, owners=True)
        assert (found.state, found.certain) == (State.LISTENING, True)  # that does not depend on them
        table = found.evidence[-1]
        assert ("stream listening (socket:[" in table) == ("network" in spaces)
        assert ("proves nothing" in table) == ("network" not in spaces)
        assert (found.backlog is not None) == ("network" in spaces)
        assert found.pids == ((server.pid,) if len(spaces) == 2 else ())
        credentials = answers(client, path, "stream", places)
        pid = server.pid if "pid" in spaces else 0
        assert credentials == Credentials(pid, there.started.uid, there.started.gid)
    with there.serve(f"@{name}"):
        found = client.status(f"@{name}")
        if "network" in spaces:
            answers(client, f"@{name}", "stream", places)
            assert (found.state, found.certain) == (State.LISTENING, True)
            with pytest.raises(AddressInUse):
                client.serve(f"@{name}")
        else:
            assert (found.state, found.certain) == (State.ABSENT, False)
            with pytest.raises(Refused):
                client.connect(f"@{name}")
            with client.serve(f"@{name}"):  # another one of the same name
                answers(client, f"@{name}", "stream", places)


def test_without_a_user_namespace_of_its_own_a_client_is_who_it_is(make, there, places, path):
    client = make(userns="host")
    with there.serve(path, "whoami"), connected(client, path, "stream", places) as connection:
        assert connection.credentials.uid == there.started.uid
        assert f"uid {client.started.uid} gid {client.started.gid}" in connection.read_line().decode()


# Users


@pytest.fixture(scope="session")
def open_directory(lab: Session) -> Shared:
    """A directory that all users may search: who may connect is then up to the socket file."""
    directory = lab.directory()
    os.chmod(directory.path, 0o755)
    return directory


@pytest.fixture(scope="session")
def owner(lab: Session, open_directory: Shared) -> Container:
    return lab.container(IMAGE, open_directory)


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        ((1, 0), {0o600: False, 0o755: False, 0o660: True, 0o666: True}),
        ((2, 2), {0o600: False, 0o755: False, 0o660: False, 0o666: True}),
    ],
    ids=["of one group", "of none"],
)
def test_which_other_user_may_connect_is_said_by_the_files_mode(
    lab, owner, there, open_directory, places, name, who, allowed
):
    user = f"{lab.uid + who[0]}:{lab.gid + who[1]}"
    path = f"{open_directory.path}/{name}"
    with lab.container(IMAGE, open_directory, places["directory"], user=user) as client:
        for mode, may in allowed.items():
            with owner.serve(path, "whoami", mode=mode):
                found = client.status(path)
                if may:
                    with client.connect(path, timeout=10) as connection:
                        connection.settimeout(10)
                        said = connection.read_line().decode()
                    assert f"uid {client.started.uid} gid {client.started.gid}" in said
                    assert connection.credentials.uid == owner.started.uid
                    assert (found.state, found.certain) == (State.LISTENING, True)
                else:
                    with pytest.raises(AccessDenied) as error:
                        client.connect(path)
                    assert "write permission on the socket file" in str(error.value)
                    assert (found.state, found.certain) == (State.UNKNOWN, False)
                with pytest.raises((AddressInUse, AccessDenied)):
                    client.serve(path)
                assert owner.status(path).state is State.LISTENING
        hidden = f"{places['directory'].path}/{name}"  # its directory may not be searched by others
        with there.serve(hidden, mode=0o666):
            with pytest.raises(AccessDenied):
                client.connect(hidden)
            assert client.status(hidden).state is State.UNREACHABLE


# Distributions


def take_turns(server, client, path, places):
    """Each serves and is called by the other; the second takes over the path of the first, which was killed."""
    for type in TYPES:
        with server.serve(path, type=type) as process:
            answers(client, path, type, places)
            assert client.status(path).serving
            with pytest.raises(AddressInUse):
                client.serve(path, type=type)
            process.kill()
        assert client.status(path).removable
        with client.serve(path, type=type):
            answers(server, path, type, places)


@pytest.mark.parametrize("distribution", ["debian-11", "debian-13", "debian-testing", "debian-sid"])
def test_the_other_side_may_be_another_distribution(make, there, places, path, distribution):
    other = make(image=f"udslab-base:{distribution}")
    for server, client in ((there, other), (other, there)):
        take_turns(server, client, path, places)


# Runtimes


@pytest.mark.parametrize("who", ["server", "client", "both"])
def test_the_runtime_makes_no_difference_as_long_as_the_kernel_is_the_same(make, there, here, places, path, who):
    server = there if who == "client" else make("server", runtime="crun")
    client = here if who == "server" else make("client", runtime="crun")
    take_turns(server, client, path, places)


@pytest.mark.parametrize("runtime", ["runsc", "runsc-uds"])
def test_no_live_server_is_certainly_stale_through_the_wall_of_gvisor_nor_replaced_there(make, there, path, runtime):
    sandbox, other = make(runtime=runtime), make("other", runtime=runtime)
    for type in TYPES:
        with there.serve(path, type=type):
            found = sandbox.status(path, owners=True)
            assert not found.certain
            with pytest.raises(AddressInUse) as error:
                sandbox.serve(path, type=type)
            assert not error.value.status.certain
            assert there.status(path).serving
        with sandbox.serve(path, type=type):
            for side in (sandbox, other, there):
                found = side.status(path, owners=True)
                assert (found.state, found.certain) != (State.STALE, True)
            with pytest.raises(AddressInUse):
                sandbox.serve(path, type=type)


def test_a_sandbox_without_host_sockets_has_sockets_of_its_own(make, here, places, path):
    sandbox, other = make(runtime="runsc"), make("other", runtime="runsc")
    with sandbox.serve(path):
        answers(sandbox, path, "stream", places)
        found = sandbox.status(path)
        assert (found.state, found.certain) == (State.LISTENING, False)
        for side in (other, here):
            assert side.status(path).state is State.ABSENT  # not even the file
            with pytest.raises(NoSuchPath):
                side.connect(path)
    with here.serve(path):
        for side in (sandbox, other):
            assert side.status(path).state is State.STALE  # and not certain: see above
            with pytest.raises(Refused):
                side.connect(path)


def test_in_gvisor_not_even_what_is_its_own_is_certain(make, name):
    sandbox, path = make(runtime="runsc"), f"/tmp/{name}"  # in its memory, where no other kernel has part
    with sandbox.serve(path) as server:
        assert sandbox.status(path).describe() == "listening stream (not certain)"
        server.kill()
    found = sandbox.status(path)
    # It goes on to know what type of socket was bound there.
    assert found.describe() == "bound stream (not certain)"
    assert "the pair probe does not tell the truth here" in found.evidence
    with pytest.raises(AddressInUse):
        sandbox.serve(path)


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_a_sandbox_with_host_sockets_is_reached_and_reaches(make, here, places, path, type):
    sandbox, other = make(runtime="runsc-uds"), make("other", runtime="runsc-uds")
    with here.serve(path, type=type):
        answers(sandbox, path, type, places)
        found = sandbox.status(path)
        assert (found.state, found.certain) == (State.LISTENING, False)
    with sandbox.serve(path, type=type):
        answers(here, path, type, places)
        answers(other, path, type, places)
        found = here.status(path)
        assert (found.state, found.certain) == (State.LISTENING, True)
        with pytest.raises(AddressInUse):
            here.serve(path, type=type)
    assert here.status(path).state is State.ABSENT


def test_credentials_across_the_wall_of_a_sandbox_are_false(make, here, places, path):
    sandbox = make(runtime="runsc-uds")
    with here.serve(path):
        credentials = answers(sandbox, path, "stream", places)
        assert credentials.pid != 0  # its own: not in another pid namespace, as it really is
    with sandbox.serve(path):
        assert answers(here, path, "stream", places) == Credentials(0, 0, 0)  # the sandbox's helper, which is root


def test_a_sandbox_holds_what_a_server_killed_in_it_has_bound_until_it_ends_itself(make, here, path):
    sandbox = make("doomed", runtime="runsc-uds")
    sandbox.serve(path).kill()
    assert here.status(path).state is State.LISTENING  # nobody accepts, and it is not stale
    with pytest.raises(AddressInUse):
        here.serve(path)
    sandbox.kill()
    assert here.status(path).removable
    with here.serve(path):
        assert here.status(path).state is State.LISTENING


BINDS = "import signal, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); signal.pause()"


def test_a_server_in_a_sandbox_is_not_stale_to_those_outside_before_it_listens(make, here, places, name):
    path = f"{places['directory'].path}/{name}"
    with make(runtime="runsc-uds").start(["python3", "-c", BINDS, path]):
        found = wait_until(path, lambda found: found.state is not State.ABSENT)
        assert (found.state, found.certain) == (State.BOUND, True)
        with pytest.raises(AddressInUse):
            here.serve(path)
