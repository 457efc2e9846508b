"""`udslab explain`: an address byte by byte as the kernel gets it, with TCP's beside it."""

from __future__ import annotations

import ctypes
import json
import re

import pytest


def explained(main_here, *words, status: int = 0) -> dict:
    done = main_here("explain", "--json", *words)
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)


def shown(main_here, *words, status: int = 0) -> list[str]:
    done = main_here("explain", *words)
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout.splitlines()


def test_a_path_is_explained(main_here):
    assert explained(main_here, "/tmp/a.sock")["unix"] == {
        "family": "AF_UNIX",
        "family_number": 1,
        "kind": "pathname",
        "address": "/tmp/a.sock",
        "sun_path": "2f 74 6d 70 2f 61 2e 73 6f 63 6b",
        "sun_path_offset": 2,
        "path_length": 11,
        "length": 13,
        "sun_path_size": 108,
        "left": 96,
        "fits": True,
    }


def test_a_path_is_shown(main_here):
    lines = shown(main_here, "/tmp/a.sock")
    assert lines[0] == "/tmp/a.sock"
    text = "\n".join(lines)
    assert "AF_UNIX = AF_LOCAL = 1" in text
    assert "2 + 11 = 13, 14 with its NUL" in text
    assert "96 of 107" in text
    assert re.search(r"^sun_path +2f 74 6d 70 2f 61 2e 73 6f 63 6b +/tmp/a.sock$", text, re.MULTILINE)


def test_what_the_kernel_takes_is_the_length_that_is_told(main_here, path, make_socket):
    # bind(2) itself, for Python's socket module counts the NUL as well.
    facts = explained(main_here, path)["unix"]
    raw = (1).to_bytes(2, "little") + bytes.fromhex(facts["sun_path"].replace(" ", ""))
    assert len(raw) == facts["length"] == facts["sun_path_offset"] + facts["path_length"]
    sock = make_socket()
    assert ctypes.CDLL(None).bind(sock.fileno(), raw, len(raw)) == 0
    assert path.is_socket()


@pytest.mark.parametrize(
    ("address", "raw", "left"), [("@name", "00 6e 61 6d 65", 103), ("@", "00", 107), ("unix:@%00%ff", "00 00 ff", 105)]
)
def test_an_abstract_name_is_explained(main_here, address, raw, left):
    facts = explained(main_here, address)["unix"]
    assert (facts["kind"], facts["sun_path"], facts["left"]) == ("abstract", raw, left)
    assert facts["length"] == 2 + len(raw.split())
    assert f"{left} of 108" in "\n".join(shown(main_here, address))
    assert "NUL" not in "\n".join(shown(main_here, address))


@pytest.mark.parametrize("address", ["unix:///tmp/a%2esock", "unix:/tmp/a.sock"])
def test_a_url_is_explained_as_the_path_that_it_means(main_here, address):
    assert explained(main_here, address)["unix"]["address"] == "/tmp/a.sock"


@pytest.mark.parametrize(("length", "left", "status"), [(107, 0, 0), (108, -1, 1), (109, -2, 1), (5000, -4893, 1)])
def test_what_does_not_fit_is_told_with_status_1(main_here, length, left, status):
    path = "/" + "x" * (length - 1)
    facts = explained(main_here, path, status=status)["unix"]
    assert (facts["path_length"], facts["left"], facts["fits"]) == (length, left, status == 0)
    lines = shown(main_here, path, status=status)
    told = f"It does not fit: {length} bytes, and the limit is 107."
    assert (told in lines) == (status == 1)
    assert any(f"none: {-left} too many" in line for line in lines) == (status == 1)
    assert len(lines) < 25


def test_every_byte_that_can_fit_is_shown(main_here):
    path = "/tmp/" + "".join(chr(ord("!") + number % 90) for number in range(102))
    dump = [line[:57] for line in shown(main_here, path) if re.match(r"(sun_path| {8})  ([0-9a-f]{2} ?)+", line)]
    assert bytes.fromhex("".join(line[10:] for line in dump)).decode() == path


def test_tcp_stands_beside_it(main_here):
    facts = explained(main_here, "--tcp", "10.1.2.3:8080", "/tmp/s")["tcp"]
    assert facts == {
        "family": "AF_INET",
        "family_number": 2,
        "address": "10.1.2.3:8080",
        "sin_port": "1f 90",
        "sin_addr": "0a 01 02 03",
        "sin_zero": 8,
        "length": 16,
    }
    text = "\n".join(shown(main_here, "--tcp", "10.1.2.3:8080", "/tmp/s"))
    assert "TCP 10.1.2.3:8080" in text
    assert "AF_INET = 2" in text
    assert "port 1f 90, IP 0a 01 02 03" in text


def test_it_looks_at_no_file(main_here, path):
    before = explained(main_here, path)
    path.mkdir()
    assert explained(main_here, path) == before
