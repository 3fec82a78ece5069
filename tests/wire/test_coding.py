"""Compressed frames, and frames with checksums: what arrives is what was sent, or it is refused."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from multiserverrl.errors import VersionMismatch, WireError
from multiserverrl.wire import frames
from multiserverrl.wire.coding import CLOSED_DAMAGED, LEAST_BYTES, Codec, Coding, CodingError
from multiserverrl.wire.messages import Rendered, Step, Stepped
from tests.wire.strategies import ANSWERS, REQUESTS, corrupted

MAX_BYTES = 1 << 20
PLAIN, ZSTD, CRC32, BOTH = Coding(), Coding(compression=True), Coding(checksum=True), Coding(True, True)
CODINGS = [PLAIN, ZSTD, CRC32, BOTH]
NOISE = np.random.default_rng(1).bytes(4 * LEAST_BYTES)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=9), st.integers(100, 900)),
    st.integers(0, len(NOISE)).map(lambda size: NOISE[:size]),
)
FRAMES = st.builds(frames.encode, st.one_of(REQUESTS, ANSWERS), BODIES)
IMAGE = frames.encode(Stepped(0, 2), bytes(28_000))


def codec(coding: Coding) -> Codec:
    return Codec(coding, MAX_BYTES)


def with_crc(frame: bytes) -> bytes:
    return frame + zlib.crc32(frame).to_bytes(4, "little")


def compressed_frame(content: bytes, flags: int = 2) -> bytes:
    return b"M\x01" + flags.to_bytes(2, "little") + bytes(4) + content


@pytest.mark.parametrize("coding", CODINGS, ids=str)
@given(st.lists(FRAMES, min_size=1, max_size=4))
def test_what_arrives_is_what_was_sent(coding: Coding, sent: list[bytes]) -> None:
    here, there = codec(coding), codec(coding)
    assert [bytes(there.decode(here.encode(frame))) for frame in sent] == sent


@pytest.mark.parametrize("coding", CODINGS, ids=str)
@given(st.one_of(st.binary(max_size=60), corrupted(FRAMES), FRAMES.map(with_crc)))
def test_any_bytes_are_a_frame_or_refused(coding: Coding, content: bytes) -> None:
    try:
        frames.decode_request(codec(coding).decode(content))
    except (WireError, VersionMismatch):
        return


@given(corrupted(st.builds(lambda frame: codec(ZSTD).encode(frame), FRAMES)))
def test_any_compressed_bytes_are_a_frame_or_refused(content: bytes) -> None:
    try:
        frames.decode_answer(codec(ZSTD).decode(content))
    except (WireError, VersionMismatch):
        return


@pytest.mark.parametrize(
    ("frame", "coding"),
    [
        (frames.encode(Step(0, 7), np.int64(1).tobytes()), CRC32),
        (frames.encode(Stepped(0, 7, [b"\x80"]), bytes(range(40))), CRC32),
        (frames.encode(Stepped(0, 7), bytes(2000)), BOTH),
    ],
    ids=["a step", "its answer", "a compressed answer"],
)
def test_every_single_flipped_bit_is_seen(frame: bytes, coding: Coding) -> None:
    sent = codec(coding).encode(frame)
    assert len(sent) < 200
    for bit in range(8 * len(sent)):
        damaged = bytearray(sent)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodingError) as refused:
            codec(coding).decode(damaged)
        assert refused.value.close_code == CLOSED_DAMAGED


@pytest.mark.parametrize("size", range(len(with_crc(bytes(8)))))
def test_a_frame_cut_short_is_damaged(size: int) -> None:
    with pytest.raises(CodingError) as refused:
        codec(CRC32).decode(codec(CRC32).encode(IMAGE)[:size])
    assert refused.value.close_code == CLOSED_DAMAGED


@pytest.mark.parametrize("sender", [ZSTD, CRC32, BOTH], ids=str)
@pytest.mark.parametrize("receiver", CODINGS, ids=str)
def test_a_flag_that_was_not_agreed_on_is_refused(sender: Coding, receiver: Coding) -> None:
    sent = codec(sender).encode(IMAGE)
    if sender.checksum == receiver.checksum and sender.compression <= receiver.compression:
        assert bytes(codec(receiver).decode(sent)) == IMAGE
    else:
        with pytest.raises(CodingError):
            codec(receiver).decode(sent)
        with pytest.raises(WireError, match="not agreed on"):
            frames.decode_answer(sent)


def test_a_frame_without_the_checksum_that_was_agreed_on_is_refused() -> None:
    for frame in (IMAGE, with_crc(IMAGE)):
        with pytest.raises(CodingError) as refused:
            codec(CRC32).decode(frame)
        assert refused.value.close_code == CLOSED_DAMAGED


@pytest.mark.parametrize("flags", [4, 0x8000, 0xFFFC])
def test_an_unknown_flag_is_refused_whatever_was_agreed_on(flags: int) -> None:
    with pytest.raises(CodingError, match="agreed on"):
        codec(BOTH).decode(with_crc(compressed_frame(b"", flags | 1)))


BOMB = zstandard.ZstdCompressor(1).compress(bytes(64 * MAX_BYTES))
UNSAID = zstandard.ZstdCompressor(1, write_content_size=False).compress(bytes(3000))
GOOD = zstandard.ZstdCompressor(1).compress(bytes(3000))
LYING = BOMB[:6] + (3000).to_bytes(4, "little") + BOMB[10:]
BAD = {
    "a bomb": (BOMB, 1009, "at most"),
    "a bomb that says it is small": (LYING, 4002, "not compressed as it says"),
    "a size that is not said": (UNSAID, 4002, "says how large"),
    "nothing": (b"", 4002, "not compressed"),
    "bytes of another kind": (bytes(100), 4002, "not compressed"),
    "a frame cut short": (GOOD[:-1], 4002, "not compressed"),
    "something behind it": (GOOD + b"\0", 4002, "not compressed"),
    "two of them": (GOOD + GOOD, 4002, "not compressed"),
    "a frame to be skipped": (b"\x50\x2a\x4d\x18\x04\0\0\0abcd", 4002, "not compressed"),
}


@pytest.mark.parametrize(("content", "close_code", "told"), BAD.values(), ids=BAD)
def test_what_does_not_decompress_to_a_message_is_refused_and_nothing_is_allocated(
    content: bytes, close_code: int, told: str
) -> None:
    assert zstandard.frame_content_size(LYING) == 3000
    receiver = codec(ZSTD)
    tracemalloc.start()
    try:
        with pytest.raises(CodingError, match=told) as refused:
            receiver.decode(compressed_frame(content))
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()
    assert refused.value.close_code == close_code


def test_the_largest_message_is_the_same_compressed_or_not() -> None:
    largest = bytes(MAX_BYTES - 8)
    squeezed = zstandard.ZstdCompressor(1).compress
    assert len(codec(ZSTD).decode(compressed_frame(squeezed(largest)))) == MAX_BYTES
    with pytest.raises(CodingError) as refused:
        codec(ZSTD).decode(compressed_frame(squeezed(largest + b"\0")))
    assert refused.value.close_code == 1009


def test_header_and_body_shrink_from_a_kibibyte_on() -> None:
    assert len(codec(ZSTD).encode(IMAGE)) < len(IMAGE) / 100
    rendered = frames.encode(Rendered(0, 3, [bytes(100_000)]))
    assert len(codec(ZSTD).encode(rendered)) < len(rendered) / 100
    short = frames.encode(Step(0, 1), bytes(LEAST_BYTES - 24 - 8))
    assert len(short) < LEAST_BYTES
    assert codec(ZSTD).encode(short) is short


def test_what_does_not_shrink_is_sent_as_it_is_and_seldom_tried() -> None:
    noise, sender = frames.encode(Stepped(0, 2), NOISE), codec(ZSTD)
    assert [sender.encode(noise) is noise for _ in range(500)] == [True] * 500
    as_they_are = [sender.encode(IMAGE) is IMAGE for _ in range(100)]
    assert as_they_are == sorted(as_they_are, reverse=True), "from the next try on, every frame is compressed again"
    assert 0 < sum(as_they_are) <= 64


def test_a_decoded_body_can_be_written_to_and_is_aligned() -> None:
    for coding in (ZSTD, CRC32, BOTH):
        _, body = frames.decode_answer(codec(coding).decode(codec(coding).encode(IMAGE)))
        array = np.frombuffer(body, np.float64)
        array[0] = 1.0
        assert array.flags.aligned and array.sum() == 1.0


@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_a_coding_is_read_as_it_is_written(coding: Coding) -> None:
    assert Coding.parse(str(coding)) == coding
    assert Coding.parse(f" br,{str(coding).upper()} ,gzip;q=1") == coding


def test_only_what_both_sides_want_is_agreed_on() -> None:
    agreed: list[tuple[Any, Any]] = [
        (BOTH & ZSTD, ZSTD),
        (CRC32 & ZSTD, PLAIN),
        (BOTH & BOTH, BOTH),
        (PLAIN & BOTH, PLAIN),
    ]
    assert [one for one, _ in agreed] == [other for _, other in agreed]
    assert [bool(coding) for coding in CODINGS] == [False, True, True, True]
