import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiserverrl.wire.websocket import BINARY, PING, TEXT, frame_head, next_message, unmask, unmasked

KEYS = st.binary(min_size=4, max_size=4)
SIZES = st.sampled_from([0, 1, 3, 125, 126, 127, 65535, 65536, 70001])


def masked(payload: bytes, key: bytes, opcode: int = BINARY) -> bytes:
    """A client's frame: the head of an unmasked one, with the mask bit set and the key behind it."""
    head = bytearray(frame_head(opcode, len(payload)))
    head[1] |= 0x80
    return bytes(head) + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


@given(key=KEYS, size=SIZES, behind=st.binary(max_size=9))
def test_a_whole_message_is_taken_and_no_more_than_it(key: bytes, size: int, behind: bytes) -> None:
    payload = bytes(index * 7 % 251 for index in range(size))
    frame = masked(payload, key)
    assert next_message(frame + behind) == (payload, len(frame))


@given(key=KEYS, payload=st.binary(max_size=300))
def test_of_the_beginning_of_a_message_is_said_how_much_it_will_be(key: bytes, payload: bytes) -> None:
    frame = masked(payload, key)
    for size in range(1, len(frame)):
        message, end = next_message(frame[:size])
        assert message is None and end in (1, len(frame))


@pytest.mark.parametrize(
    "frame",
    [
        masked(b"text", b"1234", TEXT),
        masked(b"ping", b"1234", PING),
        frame_head(BINARY, 3) + b"abc",  # not masked
        bytes((0x02, 0x83)) + b"1234abc",  # not the last part
        bytes((0xC2, 0x83)) + b"1234abc",  # an extension's bit
    ],
)
def test_anything_else_is_left_to_whoever_knows_more(frame: bytes) -> None:
    assert next_message(frame) == (None, 0)


@given(key=KEYS, payload=st.binary(max_size=100))
def test_masking_twice_gives_the_payload(key: bytes, payload: bytes) -> None:
    assert unmasked(key, unmasked(key, payload)) == payload


def test_a_head_is_as_short_as_its_size_allows() -> None:
    assert frame_head(BINARY, 125) == bytes((0x82, 125))
    assert frame_head(BINARY, 126) == struct.pack("!BBH", 0x82, 126, 126)
    assert frame_head(BINARY, 1 << 16) == struct.pack("!BBQ", 0x82, 127, 1 << 16)


@pytest.mark.parametrize("size", [0, 1, 7, 1 << 18, 2 * (1 << 18) + 5])
def test_a_payload_is_unmasked_in_place_to_the_same(size: int) -> None:
    payload = bytes(index * 7 % 251 for index in range(size))
    content = bytearray(unmasked(b"1234", payload))
    unmask(b"1234", memoryview(content))
    assert content == payload
