"""What an engine or a runtime lacks is found by trying, and told as a reason."""

from __future__ import annotations

import dataclasses

import pytest

from images import IMAGE
from udslab.containers import Reach, reach
from udslab.errors import EngineError


@pytest.fixture
def runtime(engine, request) -> str:
    if request.param not in engine.client.info()["Runtimes"]:
        pytest.skip(f"the engine has no runtime {request.param}")
    return request.param


def test_a_local_engine_lacks_nothing(lab):
    assert reach(lab, IMAGE) == Reach()


@pytest.mark.parametrize("runtime", ["crun"], indirect=True)
def test_nor_does_another_runtime_on_the_same_kernel(lab, runtime):
    assert reach(lab, IMAGE, runtime=runtime).lacks == {}


@pytest.mark.parametrize("runtime", ["runsc"], indirect=True)
def test_gvisor_keeps_its_sockets_to_itself(lab, runtime):
    found = reach(lab, IMAGE, runtime=runtime)
    assert (found.directory, found.users) == (None, None)
    assert "does not lead into it" in found.inward
    assert "not seen by the container: Connection refused" in found.outward
    assert set(found.lacks) == {"inward", "outward", "credentials"}


@pytest.mark.parametrize("runtime", ["runsc-uds"], indirect=True)
def test_gvisor_with_host_sockets_tells_false_credentials(lab, runtime):
    found = reach(lab, IMAGE, runtime=runtime)
    assert set(found.lacks) == {"credentials"}
    assert found.credentials == f"a server in the container is uid 0 to a client here, and not {lab.uid}"


def test_a_runtime_that_the_engine_lacks_is_told(lab):
    with pytest.raises(EngineError, match="no-such-runtime") as caught:
        reach(lab, IMAGE, runtime="no-such-runtime")
    assert len(str(caught.value).splitlines()) == 1


def test_an_engine_that_does_not_see_this_machines_directories_is_told(lab, engine, monkeypatch):
    # As with a remote engine: the directory is not there where the engine runs.
    real = lab.directory
    monkeypatch.setattr(lab, "directory", lambda: dataclasses.replace(real(), source="/no/such/directory"))
    found = reach(lab, IMAGE)
    assert found.directory.startswith("the engine cannot mount a directory of this machine's: ")
    assert "/no/such/directory" in found.directory
    assert set(found.lacks) == {"directory", "users", "inward", "outward", "credentials"}


def test_an_engine_that_sees_another_machines_directories_is_told(lab, directory, monkeypatch):
    # As with Docker Desktop or a remote engine that has a directory of that name.
    real = lab.directory
    directory.chmod(0o755)
    monkeypatch.setattr(lab, "directory", lambda: dataclasses.replace(real(), source=str(directory)))
    found = reach(lab, IMAGE)
    assert found.directory == "what is written to it here is not seen in the container: absent"
