"""How requests and answers travel between an agent and whoever drives it: one JSON object on a line.

Bytes go as base64, addresses and paths by their exact bytes, errors of the lab as themselves: what fails at one end is
raised at the other with its class, stage, errno, path and hint.
"""

from __future__ import annotations

import base64
import errno
import json
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

from udslab import errors
from udslab.address import Address, AddressKind, AddressLike
from udslab.credentials import Credentials
from udslab.errors import AddressInUse, Stage, UdsError, failure
from udslab.probe import Answer
from udslab.socktype import SocketType
from udslab.state import State, Status

__all__ = [
    "Lines",
    "Message",
    "decode_address",
    "decode_credentials",
    "decode_error",
    "decode_status",
    "encode_address",
    "encode_credentials",
    "encode_error",
    "encode_status",
    "line",
    "pack",
    "unpack",
]

Message = dict[str, Any]

_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for each message
_STAT_FIELDS = 10
"""Of ``os.stat_result``: those that a plain tuple has."""


def line(message: Message) -> bytes:
    """The line that carries a message."""
    return _encode(message).encode() + b"\n"


class Lines:
    """Puts messages together from pieces as they happen to be cut.

    Raises :class:`~udslab.errors.UdsError` (EPROTO) for a line that is no message.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._whole: deque[bytearray] = deque()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes, and before them those that nobody has taken yet."""
        *whole, rest = data.split(b"\n")
        for end in whole:
            self._whole.append(self._rest + end)
            self._rest = bytearray()
        self._rest += rest
        while self._whole:
            text = self._whole.popleft()
            try:
                message = json.loads(text)
                if not isinstance(message, dict):
                    raise ValueError("no object")
            except (ValueError, RecursionError) as error:
                raise UdsError(
                    Stage.AGENT, errno.EPROTO, None, f"it begins with {bytes(text[:60])!r}", "a line is no message"
                ) from error
            yield message


def pack(data: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(data).decode()


def unpack(text: str) -> bytes:
    """What :func:`pack` packed."""
    return base64.b64decode(text)


def encode_address(address: AddressLike) -> list[str]:
    """An address, by its exact bytes."""
    parsed = Address.parse(address)
    # Not os.fsdecode: the other end's file names may be in another encoding.
    return [parsed.kind.value, parsed.name.decode("utf-8", "surrogateescape")]


def decode_address(message: list[str]) -> Address:
    """What :func:`encode_address` encoded."""
    kind, name = message
    return Address(AddressKind(kind), name.encode("utf-8", "surrogateescape"))


def encode_credentials(credentials: Credentials) -> list[int]:
    """Pid, uid and gid."""
    return [credentials.pid, credentials.uid, credentials.gid]


def decode_credentials(message: list[int]) -> Credentials:
    """What :func:`encode_credentials` encoded."""
    return Credentials(*message)


def encode_error(error: BaseException) -> Message:
    """An error of any class. Those that are not the lab's own are told as one of stage ``agent``, with their text."""
    if not isinstance(error, UdsError):
        if isinstance(error, OSError) and error.errno:
            error = failure(Stage.AGENT, error, error.filename)
        else:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            error = UdsError(Stage.AGENT, errno.EPROTO, None, what=text)
    message = {
        "class": type(error).__name__,
        "stage": error.stage.name,
        "errno": error.errno,
        "what": error.strerror,
        "filename": error.filename,
        "hint": error.hint,
    }
    if isinstance(error, AddressInUse) and error.status is not None:
        message["status"] = encode_status(error.status)
    return message


def decode_error(message: Message) -> UdsError:
    """What :func:`encode_error` encoded."""
    name = message["class"]
    found = getattr(errors, name, UdsError) if name in errors.__all__ else UdsError
    cls = found if isinstance(found, type) and issubclass(found, UdsError) else UdsError
    error = errors.restore(cls, message["errno"], message["what"], message["filename"], {})
    error.stage = Stage[message["stage"]]
    error.hint = message["hint"]
    if isinstance(error, AddressInUse) and "status" in message:
        error.status = decode_status(message["status"])
    return error


def encode_status(found: Status) -> Message:
    """All of a :class:`~udslab.state.Status`."""
    answer = None
    if found.answer is not None:
        answer = found.answer._asdict()
        answer["asked"] = [[type.value, number] for type, number in found.answer.asked]
        answer["type"] = found.answer.type and found.answer.type.value
    return {
        "address": encode_address(found.address),
        "state": found.state.value,
        "certain": found.certain,
        "notes": found.notes,
        "answer": answer,
        "info": None if found.info is None else [int(value) for value in found.info[:_STAT_FIELDS]],
        "made": found.made,
        "link": found.link,
        "pids": found.pids,
        "backlog": found.backlog,
    }


def decode_status(message: Message) -> Status:
    """What :func:`encode_status` encoded."""
    answer = message["answer"]
    if answer is not None:
        asked = tuple((SocketType(type), number) for type, number in answer["asked"])
        answer = Answer(**{**answer, "asked": asked, "type": answer["type"] and SocketType(answer["type"])})
    info = message["info"]
    return Status(
        decode_address(message["address"]),
        State(message["state"]),
        message["certain"],
        tuple(message["notes"]),
        answer,
        # The times have fractions only as named fields, which a dictionary sets.
        None if info is None else os.stat_result(info, {"st_ctime": message["made"]}),
        message["link"],
        None if message["pids"] is None else tuple(message["pids"]),
        message["backlog"] and tuple(message["backlog"]),
    )
