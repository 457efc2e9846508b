"""``udslab explain``: an address as the kernel gets it, and a TCP address beside it."""

from __future__ import annotations

import argparse
import ipaddress
import json
from typing import Any

from udslab.address import SUN_PATH_OFFSET, SUN_PATH_SIZE, Address
from udslab.cli.options import Commands, add_json, address
from udslab.report.terminal import print_table

__all__ = ["add_parser"]


_MOST_SHOWN = 128


def add_parser(commands: Commands) -> None:
    """Add ``explain``."""
    parser = commands.add_parser(
        "explain",
        help="show an address as the kernel gets it",
        description="Show what an address looks like in struct sockaddr_un: family, bytes of sun_path, the length that "
        "is handed to the kernel, and what is left; and a TCP address in struct sockaddr_in beside it. Exit status 1 "
        "if the address does not fit.",
    )
    parser.add_argument("address", metavar="ADDRESS", type=address, help="a path, @name (abstract), or a unix: URL")
    parser.add_argument(
        "--tcp", default="127.0.0.1:80", metavar="IP:PORT", type=_tcp, help="the TCP address (default: %(default)s)"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def _tcp(word: str) -> tuple[ipaddress.IPv4Address, int]:
    host, _, port = word.rpartition(":")
    try:
        if int(port) in range(65536):
            return ipaddress.IPv4Address(host), int(port)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{word!r} is no IPv4 address and port, such as 127.0.0.1:80")


def run(options: argparse.Namespace) -> int:
    """Explain."""
    where = Address.parse(options.address)
    unix, tcp = _unix_facts(where), _tcp_facts(*options.tcp)
    if options.json:
        print(json.dumps({"unix": unix, "tcp": tcp}, indent=2))
    else:
        print(f"{where}\n")
        print_table(("", "AF_UNIX", f"TCP {tcp['address']}"), _rows(where, unix, tcp))
        print()
        print_table((), _dump(where.raw))
        if not where.fits:
            print(f"\nIt does not fit: {where.size} bytes, and the limit is {where.limit}.")
    return 0 if where.fits else 1


def _unix_facts(where: Address) -> dict[str, Any]:
    return {
        "family": "AF_UNIX",
        "family_number": 1,
        "kind": where.kind.value,
        "address": str(where),
        "sun_path": where.raw.hex(" "),
        "sun_path_offset": SUN_PATH_OFFSET,
        "path_length": where.size,
        "length": where.length,
        "sun_path_size": SUN_PATH_SIZE,
        "left": where.limit - where.size,
        "fits": where.fits,
    }


def _tcp_facts(host: ipaddress.IPv4Address, port: int) -> dict[str, Any]:
    return {
        "family": "AF_INET",
        "family_number": 2,
        "address": f"{host}:{port}",
        "sin_port": port.to_bytes(2, "big").hex(" "),
        "sin_addr": host.packed.hex(" "),
        "sin_zero": 8,
        "length": 16,
    }


def _rows(where: Address, unix: dict[str, Any], tcp: dict[str, Any]) -> list[tuple[str, str, str]]:
    nul = f", {where.length + 1} with its NUL" if where.is_pathname else ""
    left = unix["left"]
    return [
        ("kind", str(where.kind), "IPv4 address and port"),
        ("struct", f"sockaddr_un, {SUN_PATH_OFFSET + SUN_PATH_SIZE} bytes", "sockaddr_in, 16 bytes"),
        ("family", "AF_UNIX = AF_LOCAL = 1", "AF_INET = 2"),
        ("address", f"bytes of sun_path: {where.size}", f"port {tcp['sin_port']}, IP {tcp['sin_addr']}"),
        ("length", f"{SUN_PATH_OFFSET} + {where.size} = {where.length}{nul}", "2 + 2 + 4 + 8 (zeros) = 16"),
        ("left", f"{left} of {where.limit}" if left >= 0 else f"none: {-left} too many", "none: it is always full"),
        ("protocol", "0: AF_UNIX has none", "6: TCP, on IP"),
    ]


def _dump(raw: bytes) -> list[tuple[str, str, str]]:
    """sun_path in hexadecimal and in characters, sixteen bytes a line; of one that is far too long the beginning."""
    lines = []
    for start in range(0, min(len(raw), _MOST_SHOWN), 16):
        part = raw[start : start + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        lines.append(("sun_path" if start == 0 else "", f"{part.hex(' '):47}", text))
    if len(raw) > _MOST_SHOWN:
        lines.append(("", f"and {len(raw) - _MOST_SHOWN} bytes more", ""))
    return lines
