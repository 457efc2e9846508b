"""A test lab for Unix domain sockets (AF_UNIX).

``listen`` and ``bind`` make servers' sockets without stealing a path, ``connect`` makes clients, ``status`` tells what
is at a path. Importing this needs the standard library of Python alone.
"""

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
