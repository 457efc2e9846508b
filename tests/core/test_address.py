"""Addresses: every spelling, exact bytes, exact lengths, and what fits in sun_path."""

from __future__ import annotations

import errno
import os
import pickle
import socket
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from udslab import Address, AddressError, AddressKind, Stage
from udslab.address import MAX_PATH, SUN_PATH_OFFSET, SUN_PATH_SIZE, printable

PATH, ABSTRACT = AddressKind.PATHNAME, AddressKind.ABSTRACT

path_names = st.binary(min_size=1, max_size=200).map(lambda name: name.replace(b"\0", b"_"))
"""Any bytes that can be a path."""
abstract_names = st.binary(max_size=150)


class Pathlike:
    """An os.PathLike that is no pathlib.Path."""

    def __init__(self, path: str | bytes) -> None:
        self.path = path

    def __fspath__(self) -> str | bytes:
        return self.path


# Spellings


@pytest.mark.parametrize(
    ("spelling", "kind", "name"),
    [
        ("/run/a.sock", PATH, b"/run/a.sock"),
        ("a.sock", PATH, b"a.sock"),
        (b"/run/a.sock", PATH, b"/run/a.sock"),
        ("/run/sœur", PATH, "/run/sœur".encode()),
        ("/run/a\udcff", PATH, b"/run/a\xff"),
        (b"/run/a\xff", PATH, b"/run/a\xff"),
        (PurePosixPath("/run/a.sock"), PATH, b"/run/a.sock"),
        (Pathlike("@a"), PATH, b"@a"),
        (Pathlike(b"unix:/a"), PATH, b"unix:/a"),
        (Pathlike(b"\xff"), PATH, b"\xff"),
        ("./@a", PATH, b"./@a"),
        ("a@b", PATH, b"a@b"),
        ("./unix:a", PATH, b"./unix:a"),
        ("/run/unix:a", PATH, b"/run/unix:a"),
        ("UNIX:a", PATH, b"UNIX:a"),
        ("http://a", PATH, b"http://a"),
        ("a%20b", PATH, b"a%20b"),
        ("unix:a.sock", PATH, b"a.sock"),
        ("unix:/run/a.sock", PATH, b"/run/a.sock"),
        ("unix:///run/a.sock", PATH, b"/run/a.sock"),
        (b"unix:///run/a.sock", PATH, b"/run/a.sock"),
        ("unix:///run/a%20b%2fc%FF", PATH, b"/run/a b/c\xff"),
        ("unix:%40a", PATH, b"@a"),
        ("unix:a%2", PATH, b"a%2"),
        ("unix:100%", PATH, b"100%"),
        ("unix:///run/a?b#c", PATH, b"/run/a?b#c"),
        ("unix:///run//a", PATH, b"/run//a"),
        ("unix:unix:a", PATH, b"unix:a"),
        ("@name", ABSTRACT, b"name"),
        (b"@name", ABSTRACT, b"name"),
        ("@", ABSTRACT, b""),
        ("@@name", ABSTRACT, b"@name"),
        ("\0name", ABSTRACT, b"name"),
        (b"\0name\0", ABSTRACT, b"name\0"),
        (b"\0", ABSTRACT, b""),
        (b"@\xff\0\0", ABSTRACT, b"\xff\0\0"),
        ("unix:@name", ABSTRACT, b"name"),
        ("unix://@name", ABSTRACT, b"name"),
        ("unix:@na%00me%ff", ABSTRACT, b"na\0me\xff"),
        ("unix-abstract:name", ABSTRACT, b"name"),
        ("unix-abstract:na%00me", ABSTRACT, b"na\0me"),
        ("unix-abstract:@name", ABSTRACT, b"@name"),
    ],
)
def test_each_spelling_is_read_exactly(spelling, kind, name):
    assert Address.parse(spelling) == Address(kind, name)


def test_an_address_is_itself():
    for address in (Address.pathname(b"a"), Address.abstract(b"a"), Address.unnamed()):
        assert Address.parse(address) is address


@pytest.mark.parametrize("nothing", ["", b"", "unix:", "unix://", Pathlike(""), Pathlike(b"")])
def test_an_empty_path_is_refused(nothing):
    with pytest.raises(AddressError, match="the path is empty") as caught:
        Address.parse(nothing)
    assert (caught.value.stage, caught.value.errno) == (Stage.ADDRESS, errno.EINVAL)


@pytest.mark.parametrize("path", ["a\0b", b"/run/a\0", "unix:a%00b", Pathlike("\0a"), "unix:%00a", "./\0"])
def test_a_nul_in_a_path_is_refused(path):
    with pytest.raises(AddressError, match="NUL") as caught:
        Address.parse(path)
    assert caught.value.errno == errno.EINVAL
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize("url", ["unix://localhost/run/a", "unix://run/a", "unix://a", "unix://%40name"])
def test_a_url_with_a_host_is_refused_with_the_way_to_write_it(url):
    with pytest.raises(AddressError, match="no host") as caught:
        Address.parse(url)
    assert f"unix:///{url[7:]}" in caught.value.hint


@pytest.mark.parametrize("text", ["/run/\ud800", "unix:/run/\udfff", "@\ud800\n"])
def test_text_that_no_name_can_hold_is_refused_on_one_line(text):
    with pytest.raises(AddressError, match="no file name can hold") as caught:
        Address.parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("other", [None, 3, ["/a"], bytearray(b"/a")])
def test_what_is_no_address_is_a_type_error(other):
    with pytest.raises(TypeError, match=type(other).__name__):
        Address.parse(other)


@given(path_names)
def test_any_bytes_as_a_path_are_taken_exactly(name):
    assert Address.parse(Pathlike(name)) == Address(PATH, name)
    assert Address.pathname(name).raw == name
    if not name.startswith((b"@", b"unix:", b"unix-abstract:")):
        assert Address.parse(name).raw == name
        assert Address.parse(os.fsdecode(name)).raw == name


@given(path_names)
def test_any_path_survives_a_url(name):
    if not name.startswith(b"//"):  # that is where a host would be
        assert Address.parse("unix:" + quote(name)) == Address(PATH, name)
    assert Address.parse("unix:///" + quote(name, safe="")) == Address(PATH, b"/" + name)


@given(abstract_names)
def test_any_bytes_as_an_abstract_name_are_taken_exactly(name):
    wanted = Address(ABSTRACT, name)
    assert Address.parse(b"@" + name) == wanted
    assert Address.parse(b"\0" + name) == wanted
    assert Address.parse("unix-abstract:" + quote(name)) == wanted
    assert Address.parse("unix:@" + quote(name)) == wanted
    assert Address.from_sockaddr(b"\0" + name) == wanted
    assert wanted.raw == b"\0" + name


@given(st.binary(max_size=200) | st.text(max_size=100).filter(lambda text: text.isprintable()))
def test_parse_gives_an_address_or_an_address_error(value):
    try:
        outcome = Address.parse(value)
    except AddressError as error:
        outcome = error
    if isinstance(outcome, Address):
        assert outcome.kind in (PATH, ABSTRACT)
        assert outcome.fits is (outcome.size <= outcome.limit)
    else:
        assert outcome.errno == errno.EINVAL
        assert str(outcome).isprintable()


# What the kernel says


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("", Address.unnamed()),
        (b"", Address.unnamed()),
        (None, Address.unnamed()),
        ("/run/a", Address.pathname(b"/run/a")),
        ("@a", Address.pathname(b"@a")),
        ("unix:a", Address.pathname(b"unix:a")),
        ("/run/a\udcff", Address.pathname(b"/run/a\xff")),
        (b"\0a", Address.abstract(b"a")),
        (b"\0", Address.abstract(b"")),
    ],
)
def test_what_the_socket_module_gives_is_read_as_it_is(value, address):
    assert Address.from_sockaddr(value) == address


@pytest.mark.parametrize(
    "name", [b"s", b"\xff\xfe", "é".encode(), "é".encode("latin-1"), b"a b\tc\n", b"@s", b"unix:s", b"%41", b"\\x41"]
)
def test_a_name_of_any_bytes_is_bound_exactly(directory, make_socket, name):
    address = Address.parse(Path(os.fsdecode(os.fsencode(directory) + b"/" + name)))
    sock = make_socket()
    sock.bind(address.sun_path())
    assert os.listdir(os.fsencode(directory)) == [name]
    assert Address.from_sockaddr(sock.getsockname()) == address
    assert address.name.endswith(b"/" + name)


@pytest.mark.parametrize("tail", [b"", b"\0", b"\0\0", b"a\0b", b"\xff", b" ", b"\0a"])
def test_every_byte_of_an_abstract_name_counts(make_socket, tail):
    base = b"udslab test " + os.urandom(8)
    for name in (base + tail, base + tail + b"\0"):
        sock = make_socket()
        sock.bind(Address.abstract(name).sun_path())
        assert sock.getsockname() == b"\0" + name
        assert Address.from_sockaddr(sock.getsockname()).name == name


def test_an_unnamed_socket_has_the_unnamed_address(make_socket):
    assert Address.from_sockaddr(make_socket().getsockname()) == Address.unnamed()


# Limits


def test_the_limits_are_the_kernels(directory, make_socket):
    assert (SUN_PATH_SIZE, MAX_PATH, SUN_PATH_OFFSET) == (108, 107, 2)
    base = os.fsencode(directory) + b"/"
    longest = Address.pathname(base.ljust(107, b"x"))
    make_socket().bind(longest.sun_path())
    assert os.path.exists(longest.name)
    longest_abstract = Address.abstract(os.urandom(8).ljust(107, b"x"))
    sock = make_socket()
    sock.bind(longest_abstract.sun_path())
    assert Address.from_sockaddr(sock.getsockname()) == longest_abstract
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        make_socket().bind(longest_abstract.raw + b"x")


def test_107_bytes_fit():
    address = Address.parse("/" + "x" * 106)
    assert address.fits
    assert (address.size, address.limit, address.length) == (107, 107, 109)
    assert address.sun_path() == b"/" + b"x" * 106


@pytest.mark.parametrize("size", [108, 109, 5000])
@pytest.mark.parametrize("make", [lambda size: "/" + "x" * (size - 1), lambda size: b"\xff" * size])
def test_more_do_not_and_the_error_says_how_many_the_limit_and_the_way_round(size, make):
    address = Address.parse(make(size))
    assert not address.fits
    with pytest.raises(AddressError) as caught:
        address.sun_path()
    error = caught.value
    assert (error.errno, error.errno_name, error.stage) == (errno.ENAMETOOLONG, "ENAMETOOLONG", Stage.ADDRESS)
    assert f"{size} bytes long" in str(error)
    assert "holds 107" in str(error)
    assert "long_path='alias'" in error.hint
    assert isinstance(error, ValueError)
    assert "\n" not in str(error)


def test_bytes_are_counted_not_characters():
    assert Address.parse("é" * 53).fits  # 106
    with pytest.raises(AddressError, match="108 bytes"):
        Address.parse("é" * 54).sun_path()
    assert Address.parse("🧦" * 26).size == 104
    with pytest.raises(AddressError, match="108 bytes"):
        Address.parse("🧦" * 27).sun_path()


def test_an_abstract_name_may_have_107_bytes():
    address = Address.parse("@" + "x" * 107)
    assert address.fits
    assert (address.size, address.limit, address.length) == (108, 108, 110)
    assert address.sun_path() == b"\0" + b"x" * 107


@pytest.mark.parametrize("size", [108, 109, 5000])
def test_a_longer_abstract_name_is_refused_by_its_own_length(size):
    with pytest.raises(AddressError, match=f"{size} bytes long and sun_path holds 107") as caught:
        Address.parse("@" + "x" * size).sun_path()
    assert caught.value.errno == errno.ENAMETOOLONG
    assert "alias" not in caught.value.hint


def test_the_unnamed_address_has_no_bytes():
    address = Address.unnamed()
    assert (address.raw, address.size, address.length, address.fits) == (b"", 0, 2, True)


@given(path_names | abstract_names.map(lambda name: b"\0" + name))
def test_what_fits_is_what_python_hands_to_the_kernel(raw):
    address = Address.from_sockaddr(raw)
    assume(address.kind is not AddressKind.UNNAMED)
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            # Fails in the kernel, or succeeds at nothing: there is no such server.
            error = sock.connect_ex(address.raw)
        except OSError:
            too_long = True
        else:
            too_long = False
            assert error != 0
    assert address.fits is (not too_long)
    if address.fits:
        assert address.sun_path() == raw
    else:
        with pytest.raises(AddressError, match=f"{len(address.name)} bytes"):
            address.sun_path()


# As text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"/run/a b", "/run/a b"),
        ("/run/sœur🧦".encode(), "/run/sœur🧦"),
        (b"a\xffb", "a\\xffb"),
        (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"a\0b", "a\\x00b"),
        ("a\u202eb\u2028c".encode(), "a\\u202eb\\u2028c"),
    ],
)
def test_odd_characters_are_shown_and_do_nothing_to_a_terminal(name, text):
    assert printable(name) == text


@given(st.binary(max_size=200))
def test_every_name_is_shown_on_one_line_of_printable_text(name):
    text = printable(name)
    assert text.isprintable()
    assert (not text) is (not name)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])))
def test_printable_names_are_shown_as_they_are(text):
    assert printable(text.encode()) == text


def test_each_kind_has_its_text():
    assert str(Address.pathname(b"/run/a\xff")) == "/run/a\\xff"
    assert str(Address.abstract(b"a\0")) == "@a\\x00"
    assert str(Address.unnamed()) == "(unnamed)"
    assert f"{AddressKind.ABSTRACT:>10}" == "  abstract"
    assert [kind.value for kind in AddressKind] == ["pathname", "abstract", "unnamed"]


@pytest.mark.parametrize(
    ("name", "private"),
    [
        (b"/proc/self/fd/3/s", True),
        (b"/proc/thread-self/fd/3/s", True),
        (b"/dev/fd/3/s", True),
        (b"/proc/1/root/s", False),
        (b"/run/proc/self/s", False),
        (b"s", False),
    ],
)
def test_a_path_by_way_of_ones_own_descriptors_is_private(name, private):
    assert Address.pathname(name).is_private is private
    assert not Address.abstract(name).is_private


def test_addresses_can_be_compared_and_kept():
    address = Address.parse("/run/a")
    assert {address: 1}[Address.parse("unix:/run/a")] == 1
    assert address != Address.abstract(b"/run/a")
    assert pickle.loads(pickle.dumps(address)) == address
