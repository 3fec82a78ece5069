"""What a client may do to a stream: raw WebSocket frames to a real server, read by the front or by an env worker."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving, worker_pids
from multiserverrl.wire import frames
from multiserverrl.wire.coding import HEADER, Codec, Coding
from multiserverrl.wire.messages import PROTOCOL_VERSION, Close, Closed, Open, Refused, Reset, Resume, Step
from multiserverrl.wire.websocket import BINARY, CLOSE, CONTINUATION, PING, TEXT

MOST_BYTES = 1 << 20
SIZE = 100_000  # of an observation


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    settings: dict[str, Any] = {"env_arguments": {"size": SIZE}, "handshake_s": 0.5, "max_message_bytes": MOST_BYTES}
    with serving("tests.server.wide_env:Wide", count=4, workers=1, **settings) as running:
        yield running


class RawStream:
    """A WebSocket whose client does what it likes; the mask is zero, so payloads travel as they are."""

    def __init__(self, url: str, coding: str = "") -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), 20)
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        if coding:
            key += f"{HEADER}: {coding}\r\n"
        head = "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.socket.sendall(f"{head}{key}\r\n".encode())
        self._waiting = b""
        while b"\r\n\r\n" not in self._waiting:
            self._read()
        told, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
        assert b" 101 " in told

    def _read(self) -> None:
        part = self.socket.recv(1 << 20)
        if not part:
            raise ConnectionError("cut")
        self._waiting += part

    def _take(self, size: int) -> bytes:
        parts, here = [self._waiting], len(self._waiting)
        while here < size:
            parts.append(self.socket.recv(1 << 20))
            assert parts[-1], "the connection was cut"
            here += len(parts[-1])
        joined = b"".join(parts)
        self._waiting = joined[size:]
        return joined[:size]

    def frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame."""
        first, second = self._take(2)
        size = second
        if second == 126:
            size = struct.unpack("!H", self._take(2))[0]
        elif second == 127:
            size = struct.unpack("!Q", self._take(8))[0]
        return first & 0x0F, self._take(size)

    def ask(self, message: Any, body: bytes = b"") -> Any:
        self.socket.sendall(raw_frame(frames.encode(message, body)))
        return frames.decode_answer(self.frame()[1])[0]

    def close_code(self) -> int:
        """What the server says when it ends the connection, after whatever else it says."""
        while True:
            opcode, payload = self.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    def __enter__(self) -> RawStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def raw_frame(payload: bytes, opcode: int = BINARY, *, is_final: bool = True, size: int | None = None) -> bytes:
    """A masked frame that says it has `size` bytes."""
    told = len(payload) if size is None else size
    return struct.pack("!BBQ", opcode | 0x80 * is_final, 0xFF, told) + bytes(4) + payload


def opened(url: str, *, is_lent: bool = True, owner: str = "the-key-of-the-first") -> RawStream:
    """A session that has taken some steps, the only one of its owner; its connection is its env worker's, or not."""
    stream = RawStream(url)
    told = stream.ask(Open(PROTOCOL_VERSION, owner=owner, wait_s=20))
    if isinstance(told, Refused):
        stream.socket.close()
        pytest.fail(told.message)
    stream.ask(Reset(0, 1))
    for seq in range(2, 5):
        stream.ask(Step(0, seq), bytes(8))
    if not is_lent:
        stream.ask(Step(0, 4), bytes(8))  # a repeat is the front's to answer
    return stream


def send_until_full(stream: RawStream, content: bytes) -> None:
    """The same again and again, until the server has taken nothing for a while."""
    stream.socket.settimeout(0.5)
    try:
        for _ in range(1000):
            stream.socket.sendall(content)
        pytest.fail("the server takes in all that it is sent")
    except TimeoutError:
        stream.socket.settimeout(20)


def memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


VIOLATIONS = {
    "a length of all memory there is": (raw_frame(b"", size=(1 << 63) - 1), 1009),
    "a length just beyond the limit": (raw_frame(b"", size=MOST_BYTES + 1), 1009),
    "parts that are too much together": (
        raw_frame(bytes(MOST_BYTES), is_final=False) + raw_frame(b"", CONTINUATION, size=1),
        1009,
    ),
    "parts without number": (
        raw_frame(b"", is_final=False) + raw_frame(b"", CONTINUATION, is_final=False) * 5000,
        1009,
    ),
    "a ping in parts": (raw_frame(b"", PING, is_final=False), 1002),
    "a ping that is too large": (raw_frame(bytes(126), PING), 1002),
    "a close that is too large": (raw_frame(bytes(2000), CLOSE), 1002),
    "a continuation of nothing": (raw_frame(b"a", CONTINUATION), 1002),
    "an unknown kind": (raw_frame(b"a", 0xB), 1002),
    "no mask": (b"\x82\x05aaaaa", 1002),
    "extension bits": (b"\xc2\x81\0\0\0\0a", 1002),
    "text": (raw_frame(b"{}", TEXT), 1003),
}


@pytest.mark.parametrize(("sent", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_frames_beyond_the_protocol_end_the_connection(server: RunningServer, sent: bytes, code: int) -> None:
    with opened(server.url) as stream:
        stream.socket.sendall(sent)
        assert stream.close_code() == code


@pytest.mark.parametrize("sent", [b"", raw_frame(b"", size=1000), raw_frame(b"a", PING)], ids=["-", "part", "ping"])
def test_a_stream_that_never_asks_for_a_session_is_closed(server: RunningServer, sent: bytes) -> None:
    with RawStream(server.url) as stream:
        began = time.monotonic()
        stream.socket.sendall(sent)
        assert stream.close_code() == 4004
        assert time.monotonic() - began > 0.4


def test_a_stream_that_was_refused_has_as_long_again_and_one_with_a_session_as_long_as_it_likes(
    server: RunningServer,
) -> None:
    with opened(server.url) as session, RawStream(server.url) as stream:
        refused = stream.ask(Resume(PROTOCOL_VERSION, "nothere", "secret", 1))
        assert refused.code == "session_lost"
        assert stream.close_code() == 4004
        assert session.ask(Step(0, 5), bytes(8)).seq == 5  # it was silent as long


@pytest.mark.parametrize("is_lent", [True, False], ids=["lent", "front"])
def test_a_stream_whose_session_was_closed_is_not_kept(server: RunningServer, is_lent: bool) -> None:
    with opened(server.url, is_lent=is_lent) as stream:
        began = time.monotonic()
        assert isinstance(stream.ask(Close(0, 5)), Closed)
        assert isinstance(stream.ask(Close(0, 5)), Closed)  # there is time for a repeat
        assert stream.close_code() == 4004
        assert time.monotonic() - began > 0.4


@pytest.mark.parametrize("coding", ["zstd", "crc32"])
def test_a_stream_with_coded_frames_whose_session_was_closed_is_not_kept(server: RunningServer, coding: str) -> None:
    codec = Codec(Coding.parse(coding), MOST_BYTES)
    with RawStream(server.url, coding) as stream:
        for message in (Open(PROTOCOL_VERSION, owner="the-key-of-the-first", wait_s=20), Close(0, 1)):
            stream.socket.sendall(raw_frame(codec.encode(frames.encode(message))))
            told = frames.decode_answer(bytes(codec.decode(stream.frame()[1])))[0]
        assert isinstance(told, Closed)
        assert stream.close_code() == 4004


def test_a_message_before_there_is_a_session_may_not_be_as_large(server: RunningServer) -> None:
    with serving("CartPole-v1", count=1, workers=1) as other, RawStream(other.url) as stream:
        stream.socket.sendall(raw_frame(b"", size=(1 << 20) + 1))
        assert stream.close_code() == 1009


@pytest.mark.parametrize("is_lent", [True, False], ids=["env worker", "front"])
def test_a_client_that_asks_and_does_not_read_fills_its_own_memory(server: RunningServer, is_lent: bool) -> None:
    """3,000 requests whose answers have 800 kB."""
    with opened(server.url, is_lent=is_lent) as stream, opened(server.url, owner="the-key-of-another") as other:
        pids = [*server.pids(), *worker_pids(server)]
        before = [memory_kb(pid) for pid in pids]
        if is_lent:
            requests = [raw_frame(frames.encode(Step(0, seq), bytes(8))) for seq in range(5, 3005)]
        else:
            requests = [raw_frame(frames.encode(Step(0, 4), bytes(8)))] * 3000
        send_until_full(stream, b"".join(requests))
        for seq in range(5, 30):
            assert other.ask(Step(0, seq), bytes(8)).seq == seq
        grown = [memory_kb(pid) - kb for pid, kb in zip(pids, before, strict=True)]
        assert max(grown) < 12_000
        seqs = [frames.decode_answer(stream.frame()[1])[0].seq for _ in range(20)]
        assert seqs == (list(range(5, 25)) if is_lent else [4] * 20)


def test_pings_are_answered_no_faster_than_the_client_reads(server: RunningServer) -> None:
    with opened(server.url) as stream:
        before = memory_kb(server.pids()[0])
        pings = raw_frame(bytes(125), PING) * 1000
        send_until_full(stream, pings)
        assert memory_kb(server.pids()[0]) - before < 8_000
        assert [stream.frame()[0] for _ in range(100)] == [0xA] * 100
