"""Services: sessions over bytes, without any socket."""

from __future__ import annotations

import itertools
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udslab import Credentials, ServiceError
from udslab.services import SERVICES, Peer, per_chunk, per_line, per_record, pieces, resolve

STREAM = Peer()
RECORDS = Peer(records=True)
DATAGRAM = Peer(records=True, greets=False)


def said(service, chunks, peer=STREAM):
    """All that a session says to these chunks and the end of file."""
    session = resolve(service)(peer)
    outputs = [session.start(), *map(session.feed, chunks), session.eof()]
    return b"".join(piece for output in outputs for piece in pieces(output))


def len_as_bytes(data):
    return str(len(data)).encode()


@st.composite
def cut_anywhere(draw):
    """Bytes with newlines, and the same bytes in pieces."""
    data = b"".join(draw(st.lists(st.sampled_from([b"\n", b"a", b"\r", b"\r\n", b"\0", b"\x85", b"\xff", b"bc"]))))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    ends = [0, *cuts, len(data)]
    return data, [chunk for chunk in (data[ends[n] : ends[n + 1]] for n in range(len(ends) - 1)) if chunk]


# By name


def test_the_names_are_the_contracts():
    assert list(SERVICES) == ["upper", "echo", "discard", "chargen", "whoami"]


@pytest.mark.parametrize(
    ("name", "answer"), [("upper", b"A\0B\xe9\xff\n"), ("echo", b"a\0b\xe9\xff\n"), ("discard", b"")]
)
@pytest.mark.parametrize("peer", [STREAM, RECORDS, DATAGRAM])
def test_the_simple_ones_answer_each_chunk(name, answer, peer):
    session = resolve(name)(peer)
    assert session.start() == b""
    assert session.feed(b"a\0b\xe9\xff\n") == answer
    assert session.eof() == b""


@pytest.mark.parametrize(
    ("service", "answers"),
    [
        ("upper", [b""]),
        ("echo", [b""]),
        (per_chunk(len_as_bytes), [b"0"]),
        (per_record(bytes), [b""]),
        ("discard", []),
        (per_line(bytes), []),
    ],
)
def test_an_empty_datagram_is_answered_by_those_who_answer(service, answers):
    session = resolve(service)(DATAGRAM)
    outputs = [session.feed(b""), session.eof()]
    assert [piece for output in outputs for piece in pieces(output, empty=True)] == answers


@given(cut_anywhere())
def test_upper_does_not_care_where_it_is_cut(cut):
    data, chunks = cut
    assert said("upper", chunks) == data.upper()


@pytest.mark.parametrize(
    "credentials",
    [Credentials(pid=7, uid=1000, gid=100), Credentials(pid=0, uid=65534, gid=65534)],
)
def test_whoami_greets_with_credentials_and_address_on_one_line(credentials):
    session = resolve("whoami")(Peer("/run/client", credentials))
    assert session.start() == f"{credentials} bound to /run/client\n".encode()
    assert session.feed(b"x") == session.eof() == b""


def test_whoami_answers_each_datagram_for_which_it_cannot_greet():
    session = resolve("whoami")(Peer("@a", Credentials(7, 8, 9), records=True, greets=False))
    assert session.feed(b"x") == session.feed(b"") == b"pid 7 uid 8 gid 9 bound to @a\n"


def test_whoami_says_when_nothing_is_known():
    assert resolve("whoami")(STREAM).start() == b"no credentials bound to (unnamed)\n"


# RFC 864


def test_chargen_speaks_first_in_the_pattern_of_rfc_864():
    lines = list(itertools.islice(resolve("chargen")(STREAM).start(), 200))
    assert lines[0] == b""" !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefg\r\n"""
    assert lines[1] == b"""!"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefgh\r\n"""
    printable = bytes(range(0x20, 0x7F))
    for number, line in enumerate(lines):
        assert line == bytes(printable[(number + column) % 95] for column in range(72)) + b"\r\n"


def test_chargen_does_not_answer_a_connection_but_each_datagram():
    assert resolve("chargen")(STREAM).feed(b"x") == b""
    session = resolve("chargen")(DATAGRAM)
    answer = session.feed(b"x")
    assert (len(answer), answer[-2:]) == (74, b"\r\n")


def test_two_chargen_sessions_begin_each_at_the_beginning():
    first, second = resolve("chargen")(STREAM).start(), resolve("chargen")(STREAM).start()
    next(first)
    assert next(first) != next(second)


# Framing


def bracket(data):
    return b"[" + data + b"]"


@given(cut_anywhere())
def test_per_line_gives_whole_lines_however_they_are_cut(cut):
    data, chunks = cut
    *lines, rest = data.split(b"\n")
    wanted = [bracket(line + b"\n") for line in lines] + ([bracket(rest)] if rest else [])
    assert said(per_line(bracket), chunks) == b"".join(wanted)


def test_per_line_answers_a_line_as_soon_as_it_is_whole():
    session = per_line(bracket)(STREAM)
    assert session.start() == b""
    assert session.feed(b"one") == b""
    assert session.feed(b"\ntwo\nthr") == b"[one\n][two\n]"
    assert session.feed(b"ee\n") == b"[three\n]"
    assert session.feed(b"\n\n") == b"[\n][\n]"
    assert session.feed(b"a\rb\r\n") == b"[a\rb\r\n]"
    assert session.eof() == b""


def test_per_line_answers_a_last_line_without_newline_once():
    session = per_line(bracket)(STREAM)
    session.feed(b"a\nb")
    assert session.eof() == b"[b]"
    assert session.eof() == b""


def test_per_line_takes_a_long_line_in_many_pieces_in_linear_time():
    session = per_line(len_as_bytes)(STREAM)
    for _ in range(100_000):
        session.feed(b"0123456789")
    assert session.feed(b"\n") == b"1000001"


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_per_record_answers_each_record_as_it_is(records):
    for peer in (RECORDS, DATAGRAM):
        assert said(per_record(bracket), records, peer) == b"".join(map(bracket, records))


@given(cut_anywhere())
def test_per_record_takes_a_stream_as_one_record_up_to_its_end(cut):
    data, chunks = cut
    session = per_record(bracket)(STREAM)
    assert session.start() == b""
    assert [session.feed(chunk) for chunk in chunks] == [b""] * len(chunks)
    assert session.eof() == bracket(data)


@given(st.lists(st.binary(min_size=1), max_size=8))
def test_per_chunk_answers_what_has_come_as_it_comes(chunks):
    session = per_chunk(bracket)(STREAM)
    assert session.start() == b""
    assert [session.feed(chunk) for chunk in chunks] == list(map(bracket, chunks))
    assert session.eof() == b""


def test_sessions_of_one_service_share_nothing():
    service = per_line(bracket)
    one, other = service(STREAM), service(STREAM)
    one.feed(b"mine")
    assert other.feed(b"\n") == b"[\n]"
    assert one.feed(b"\n") == b"[mine\n]"


# Pieces


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (iter([b"a", b"", b"b"]), [b"a", b"b"]),
        ([b"a", b"b"], [b"a", b"b"]),
        (iter(()), []),
    ],
)
def test_pieces_are_what_there_is_to_send(output, wanted):
    assert list(pieces(output)) == wanted


def test_empty_pieces_are_for_those_who_ask_and_of_an_iterator_alone():
    assert list(pieces(iter([b"a", b"", b"b"]), empty=True)) == [b"a", b"", b"b"]
    assert list(pieces(b"", empty=True)) == []


@pytest.mark.parametrize("output", [None, 3, "text", bytearray(b"a"), [None], ["a"], [b"a", 1]])
def test_what_is_not_bytes_is_a_type_error_and_not_sent(output):
    got = pieces(output)
    with pytest.raises(TypeError):
        for piece in got:
            assert piece == b"a"


def test_an_endless_output_is_taken_piece_by_piece():
    assert list(itertools.islice(pieces(itertools.repeat(b"x")), 3)) == [b"x"] * 3


# Resolving


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("services_of_a_test")
    module.shout = per_chunk(lambda data: data + b"!")
    module.number = 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_service_is_named_by_its_module(module):
    assert said("services_of_a_test:shout", [b"a"]) == b"a!"


def test_a_service_is_itself():
    service = per_chunk(bytes)
    assert resolve(service) is service


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nonsense", "no service 'nonsense'"),
        ("", "no service ''"),
        ("UPPER", "no service 'UPPER'"),
        ("no_such_module_of_ours:x", "cannot be imported: No module named"),
        ("services_of_a_test:nothing", "cannot be imported: .*no attribute 'nothing'"),
        ("services_of_a_test:number", "is no service but int"),
        ("services_of_a_test:", "cannot be imported"),
        (":x", "cannot be imported"),
        ("..x:y", "cannot be imported"),
        (":", "cannot be imported"),
    ],
)
def test_what_is_no_service_is_one_clear_error(module, name, why):
    with pytest.raises(ServiceError, match=why) as caught:
        resolve(name)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["no Python", "1 / 0", "raise RuntimeError('two\\nlines')", "import nothing_"])
def test_a_module_that_cannot_be_imported_is_one_clear_error(tmp_path, monkeypatch, source):
    name = f"broken_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ServiceError, match=f"'{name}:x' cannot be imported") as caught:
        resolve(f"{name}:x")
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ServiceError) as caught:
        resolve("nonsense")
    assert "upper, echo, discard, chargen, whoami" in caught.value.hint
