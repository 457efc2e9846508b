"""A test lab for Unix domain sockets (AF_UNIX).

``listen`` and ``bind`` make servers' sockets without stealing a path, ``connect`` makes clients, ``status`` tells what
is at a path. Importing this needs the standard library of Python alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from udslab.address import Address, AddressKind
    from udslab.connection import Connection, connect
    from udslab.credentials import Credentials
    from udslab.errors import (
        AccessDenied,
        AddressError,
        AddressInUse,
        AgentGone,
        CallerRejected,
        EngineError,
        LockTimeout,
        NoSuchPath,
        PathLost,
        PeerGone,
        Refused,
        ServiceError,
        Stage,
        TimedOut,
        UdsError,
        Unsupported,
        WrongType,
    )
    from udslab.listener import Listener, OnExisting, bind, inherited, listen
    from udslab.socketfile import BoundSocket
    from udslab.socktype import SocketType
    from udslab.state import FileKind, State, Status, status

__version__ = "0.1.0"

# Each is imported when it is first asked for: a plugin that is installed costs every run of pytest.
_WHERE = {
    "AccessDenied": "errors",
    "Address": "address",
    "AddressError": "errors",
    "AddressInUse": "errors",
    "AddressKind": "address",
    "AgentGone": "errors",
    "BoundSocket": "socketfile",
    "CallerRejected": "errors",
    "Connection": "connection",
    "Credentials": "credentials",
    "EngineError": "errors",
    "FileKind": "state",
    "Listener": "listener",
    "LockTimeout": "errors",
    "NoSuchPath": "errors",
    "OnExisting": "listener",
    "PathLost": "errors",
    "PeerGone": "errors",
    "Refused": "errors",
    "ServiceError": "errors",
    "SocketType": "socktype",
    "Stage": "errors",
    "State": "state",
    "Status": "state",
    "TimedOut": "errors",
    "UdsError": "errors",
    "Unsupported": "errors",
    "WrongType": "errors",
    "bind": "listener",
    "connect": "connection",
    "inherited": "listener",
    "listen": "listener",
    "status": "state",
}
__all__ = [
    "AccessDenied",
    "Address",
    "AddressError",
    "AddressInUse",
    "AddressKind",
    "AgentGone",
    "BoundSocket",
    "CallerRejected",
    "Connection",
    "Credentials",
    "EngineError",
    "FileKind",
    "Listener",
    "LockTimeout",
    "NoSuchPath",
    "OnExisting",
    "PathLost",
    "PeerGone",
    "Refused",
    "ServiceError",
    "SocketType",
    "Stage",
    "State",
    "Status",
    "TimedOut",
    "UdsError",
    "Unsupported",
    "WrongType",
    "bind",
    "connect",
    "inherited",
    "listen",
    "status",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'udslab' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"udslab.{_WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
