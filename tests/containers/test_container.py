"""A server in a container, and clients on both sides of its wall."""

from __future__ import annotations

import udslab


def test_a_client_outside_reaches_a_server_inside(kept, shared):
    path = f"{shared.path}/{kept.id[:8]}"
    with kept.serve(path, "upper", mode=0o666), udslab.connect(path) as client:
        client.sendall(b"hello")
        assert client.read_exactly(5) == b"HELLO"
        assert client.credentials.uid == int(kept.started.uid)
    assert udslab.status(path).state == "absent"
