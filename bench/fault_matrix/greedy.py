"""Requests that want more than there is: heads, bodies, lengths, shapes and frames without measure, as bytes."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

import msgspec
import zstandard

from multiserverrl.client.transport import Address, Connection, ConnectionEnded
from multiserverrl.testing.conformance.raw import PING, RawSocket
from multiserverrl.wire import frames
from multiserverrl.wire.coding import HEADER
from multiserverrl.wire.messages import PROTOCOL_VERSION, Open, Reset, Step

MOST_BYTES = 1 << 20  # what the server is told to take in one message
_GET, _POST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
_FRAME = _POST + b"Content-Type: application/vnd.multiserverrl.frame\r\n"
_CONTINUATION = 0
_STEPS_BEFORE = 3

Refusal = Callable[[str], str]  # what the server at a URL said: a status, a close code, or an error's code


def _packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def _framed(header: bytes, says: int | None = None) -> bytes:
    """A frame of ours whose prefix says how long the header is."""
    return struct.pack("<BBHI", 0x4D, PROTOCOL_VERSION, 0, len(header) if says is None else says) + header


def http(parts: Iterable[bytes]) -> Refusal:
    """Send until the server has answered; the status of its answer."""

    def refusal(url: str) -> str:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port), 20) as connection:
            with contextlib.suppress(ConnectionError):
                for part in parts:
                    connection.sendall(part)
                    connection.settimeout(0.0)
                    with contextlib.suppress(BlockingIOError):
                        if connection.recv(1, socket.MSG_PEEK):
                            break
                    connection.settimeout(20)
            connection.settimeout(20)
            told = b""
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(1 << 16):
                    told += part
        return told.split(b" ")[1].decode() if told.startswith(b"HTTP/1.1 ") else "cut"

    return refusal


def _endless(part: bytes, first: bytes) -> Iterator[bytes]:
    yield first
    yield from itertools.repeat(part, (256 << 20) // len(part))


def frame_head(size: int, opcode: int = 2, *, is_last: bool = True) -> bytes:
    """The head of a masked WebSocket frame that says it has `size` bytes."""
    return struct.pack("!BBQ", opcode | 0x80 * is_last, 0xFF, size) + bytes(4)


def stream(sent: Callable[[], bytes], *, is_lent: bool) -> Refusal:
    """On a connection with a session, in the hands of its env worker or of the front; a close code, or a refusal's."""

    def refusal(url: str) -> str:
        raw = RawSocket(Address.parse(url), 20)
        try:
            raw.send(frames.encode(Open(PROTOCOL_VERSION, wait_s=20, owner="the-key-of-greed")))
            raw.receive()
            raw.send(frames.encode(Reset(0, 1)))
            raw.receive()
            for seq in range(2, 2 + _STEPS_BEFORE):
                raw.send(frames.encode(Step(0, seq), bytes(8)))
                raw.receive()
            if not is_lent:  # a repeat is the front's to answer; what comes right behind it, too
                repeat = RawSocket.framed(frames.encode(Step(0, 1 + _STEPS_BEFORE), bytes(8)))
                raw.send_bytes(repeat + sent())
                raw.receive()
            else:
                raw.send_bytes(sent())
            return str(frames.decode_answer(raw.receive())[0].code)
        except ConnectionEnded as ended:
            return str(ended.close_code)
        except ConnectionError:
            return "cut"
        finally:
            raw.cut()

    return refusal


def coded(frame: Callable[[], bytes]) -> Refusal:
    """On a connection that may compress."""

    def refusal(url: str) -> str:
        connection = Connection(Address.parse(url), 20, headers={HEADER: "zstd"})
        try:
            connection.set_timeout(20)
            connection.send(frame())
            return str(frames.decode_answer(connection.receive())[0].code)
        except ConnectionEnded as ended:
            return str(ended.close_code)
        finally:
            connection.drop()

    return refusal


def bomb(says: int) -> bytes:
    """A frame of a few KiB that expands to 64 MiB, and says how much it expands to."""
    content = bytearray(zstandard.ZstdCompressor(3).compress(bytes(64 << 20)))
    single_segment, field = content[4] >> 5 & 1, content[4] >> 6  # RFC 8878, 3.1.1.1
    at, size = 6 - single_segment, 1 << field
    if says >= 1 << 8 * size:  # a wider field
        content[4] |= 0xC0
        content[at : at + size] = bytes(8)
        size = 8
    content[at : at + size] = says.to_bytes(size, "little")
    return struct.pack("<BBHI", 0x4D, PROTOCOL_VERSION, 2, 0) + content


def _shape() -> bytes:
    array = _packed(["<f8", [1 << 40], bytes(8)])
    options = _packed({"a": msgspec.msgpack.Ext(1, array)})
    return RawSocket.framed(frames.encode(Reset(0, 2 + _STEPS_BEFORE, None, options)))


_STREAM: dict[str, tuple[Callable[[], bytes], str]] = {
    "a frame of 2^63 bytes": (lambda: frame_head((1 << 63) - 1), "1009"),
    "a frame one byte too long": (lambda: frame_head(MOST_BYTES + 1), "1009"),
    "parts without number": (
        lambda: frame_head(0, is_last=False) + frame_head(0, _CONTINUATION, is_last=False) * 5000, "1009",
    ),
    "parts too large together": (
        lambda: frame_head(MOST_BYTES, is_last=False) + bytes(MOST_BYTES) + frame_head(1, _CONTINUATION), "1009",
    ),
    "a ping in parts": (lambda: frame_head(0, PING, is_last=False), "1002"),
    "a ping of 64 KiB": (lambda: frame_head(1 << 16, PING), "1002"),
    "a header that says 4 GiB": (lambda: RawSocket.framed(_framed(b"", (1 << 32) - 1)), "4002"),
    "a list that says 2^31 items": (
        lambda: RawSocket.framed(_framed(b"\x94" + _packed("reset") + b"\0\1\xdd\x7f\xff\xff\xff")), "4002",
    ),
    "options of 2^40 numbers": (_shape, "wire"),
}  # fmt: skip


def attacks() -> dict[str, tuple[Refusal, str]]:
    """What is done, and what it must be refused with."""
    made: dict[str, tuple[Refusal, str]] = {
        "a head of 1 MiB": (http([_GET + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n"]), "431"),
        "a head without end": (http(_endless(b"a" * 4096, _GET + b"X: ")), "431"),
        "10,000 headers": (http([_GET + b"X: a\r\n" * 10_000 + b"\r\n"]), "431"),
        "trailers without end": (http(_endless(b"a" * 4096, _CHUNKED + b"2\r\n{}\r\n0\r\nT: ")), "431"),
        "1 TiB told": (http([_POST + b"Content-Length: 1099511627776\r\n\r\n"]), "413"),
        "2^70 bytes told": (http([_POST + b"Content-Length: 1180591620717411303424\r\n\r\n"]), "400"),
        "a body longer than told": (http([_GET + b"Content-Length: 2\r\n\r\n{}" + b"a" * (1 << 20)]), "200"),
        "a body shorter than told": (http([_POST + b"Content-Length: 1000000\r\n\r\n{}"]), "408"),
        "chunks without end": (http(_endless(b"1000\r\n" + b"a" * 4096 + b"\r\n", _CHUNKED)), "413"),
        "a chunk of 2^60 bytes": (http([_CHUNKED + b"1000000000000000\r\n{}"]), "408"),
        "100,000 requests in a row": (http([(_GET + b"\r\n") * 100_000]), "200"),
        "a frame that says 4 GiB": (
            http([_FRAME + b"Content-Length: 16\r\nConnection: close\r\n\r\n", _framed(bytes(8), (1 << 32) - 1)]),
            "400",
        ),
        "zstd that says 100 bytes": (coded(lambda: bomb(100)), "4002"),
        "zstd that says 64 MiB": (coded(lambda: bomb(64 << 20)), "1009"),
        "zstd that says 2^60 bytes": (coded(lambda: bomb(1 << 60)), "1009"),
    }  # fmt: skip
    for name, (sent, wanted) in _STREAM.items():
        made[name] = stream(sent, is_lent=False), wanted
        made[f"{name}, lent"] = stream(sent, is_lent=True), wanted
    return made
