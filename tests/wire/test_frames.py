from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiserverrl.errors import SpaceError, VersionMismatch, WireError
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Close, Open, Opened, Refused, Step
from tests.wire.strategies import ANSWERS, REQUESTS, corrupted

BODIES = st.binary(max_size=40)
DECODERS = [frames.decode_request, frames.decode_answer]
FRAMES = st.builds(frames.encode, st.one_of(REQUESTS, ANSWERS), BODIES)


def framed(header: bytes, *, magic: int = 0x4D, version: int = PROTOCOL_VERSION, flags: int = 0) -> bytes:
    return struct.pack("<BBHI", magic, version, flags, len(header)) + header


@given(REQUESTS, BODIES)
def test_a_request_arrives_as_it_was_sent(request_sent: Any, body: bytes) -> None:
    request, arrived = frames.decode_request(frames.encode(request_sent, body))
    assert request == request_sent
    assert type(request) is type(request_sent)
    assert bytes(arrived) == body


@given(ANSWERS, BODIES)
def test_an_answer_arrives_as_it_was_sent(answer_sent: Any, body: bytes) -> None:
    answer, arrived = frames.decode_answer(frames.encode(answer_sent, body))
    assert answer == answer_sent
    assert type(answer) is type(answer_sent)
    assert bytes(arrived) == body


@given(FRAMES)
def test_the_body_begins_at_a_multiple_of_eight(frame: bytes) -> None:
    size = struct.unpack_from("<I", frame, 4)[0]
    start = 8 + size + -size % 8
    assert frame[8 + size : start] == bytes(-size % 8)


def test_the_body_is_a_view_and_no_copy() -> None:
    frame = bytearray(frames.encode(Step(0, 1), b"12345678"))
    _, body = frames.decode_request(frame)
    frame[-1:] = b"!"
    assert bytes(body) == b"1234567!"


@given(st.one_of(st.binary(max_size=60), corrupted(FRAMES)), st.sampled_from(DECODERS))
def test_any_bytes_are_a_message_or_refused(content: bytes, decode: Any) -> None:
    try:
        message, _ = decode(content)
    except (WireError, VersionMismatch):
        return
    repr(message)


@given(st.binary(max_size=60), st.sampled_from(DECODERS))
def test_any_header_is_a_message_or_refused(header: bytes, decode: Any) -> None:
    try:
        message, _ = decode(framed(header))
    except WireError:
        return
    repr(message)


encode = msgspec.msgpack.encode
LIES = {
    "nothing": b"",
    "a prefix too short": framed(b"")[:7],
    "no header": framed(b""),
    "a header beyond the end": framed(encode(["step", 0, 1]))[:-1],
    "a header of four gigabytes": struct.pack("<BBHI", 0x4D, PROTOCOL_VERSION, 0, 2**32 - 1),
    "another magic": framed(encode(["step", 0, 1]), magic=0x47),
    "a flag": framed(encode(["step", 0, 1]), flags=1),
    "an unknown message": framed(encode(["jump", 0, 1])),
    "a field too few": framed(encode(["step", 0])),
    "a field of another type": framed(encode(["step", 0, "1"])),
    "text that is not UTF-8": framed(b"\x93\xa5close\x00\xa1\xff"),
    "text that is not UTF-8 in a field": framed(encode(["call", 0, 1])[:-1] + b"\x01\xa1\xff\xa1a"),
    "a huge list": framed(b"\x99\xa4open\x01\xc0\x01\xa1a\xc0\xdd\xff\xff\xff\xff"),
    "two headers": framed(encode(["step", 0, 1]) * 2),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("decode", DECODERS)
def test_a_lie_is_refused_and_nothing_is_allocated_for_it(lie: str, decode: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(LIES[lie])
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()


def opened_with(space: bytes) -> bytes:
    """A frame of Opened whose observation space is these bytes."""
    env = {"env_id": "E", "observation_space": msgspec.Raw(space), "action_space": {}, "render_modes": []}
    return framed(encode(["opened", "s", "k", 1, [1], env, 1.0]))


@pytest.mark.parametrize(
    "space",
    [b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01", b"\x81\xa1a\x81\x80\x01", b"\x81\xa1a\xa1\xff"],
    ids=["nested too deep", "a key that no dict can have", "text that is not UTF-8"],
)
def test_a_lie_in_a_free_field_is_refused_too(space: bytes) -> None:
    assert isinstance(frames.decode_answer(opened_with(b"\x80"))[0], Opened)
    with pytest.raises(WireError):
        frames.decode_answer(opened_with(space))


def test_a_frame_of_another_version_is_refused_with_both_versions_named() -> None:
    with pytest.raises(VersionMismatch, match=rf"version 9, .*speaks {PROTOCOL_VERSION}"):
        frames.decode_request(framed(encode(["step", 0, 1]), version=9))


def test_a_request_is_no_answer_and_an_answer_no_request() -> None:
    with pytest.raises(WireError, match="no answer"):
        frames.decode_answer(frames.encode(Close(0, 1)))
    with pytest.raises(WireError, match="no request"):
        frames.decode_request(frames.encode(Refused(0, 1, "seq", "late")))


def test_a_text_that_is_not_unicode_is_refused_before_it_is_sent() -> None:
    with pytest.raises(SpaceError, match="Unicode"):
        frames.encode(Open(PROTOCOL_VERSION, "\ud800"))


def test_a_refusal_travels_whatever_the_environment_said() -> None:
    answer, _ = frames.decode_answer(frames.encode(Refused(0, 1, "env_fault", "no file \udcff", "line\ud800", True)))
    assert answer == Refused(0, 1, "env_fault", "no file ?", "line?", True)
