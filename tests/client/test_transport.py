"""One WebSocket connection against servers that behave oddly."""

import base64
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from multiserverrl.client.api import describe
from multiserverrl.client.transport import Address, Connection, ConnectionEnded
from multiserverrl.errors import PeerError, ServerUnreachable, VersionMismatch, WireError

Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves one connection with a function of the test's own."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def start(behave: Callable[[socket.socket], None]) -> str:
        def run() -> None:
            connected, _ = listener.accept()
            with connected:
                behave(connected)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def shake_hands(connected: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connected.recv(4096)
    key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connected.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept + b"\r\n\r\n"
    )  # fmt: skip


def connection_to(serve: Serve, after: bytes) -> Connection:
    """A connection to a server that shakes hands, sends `after`, and waits for the end."""

    def behave(connected: socket.socket) -> None:
        shake_hands(connected)
        connected.sendall(after)
        while connected.recv(4096):
            pass

    connection = Connection(Address.parse(serve(behave)), 10)
    connection.set_timeout(10)
    return connection


def frame(opcode: int, payload: bytes, *, is_last: bool = True) -> bytes:
    head = bytes(((0x80 if is_last else 0) | opcode,))
    if len(payload) < 126:
        return head + bytes((len(payload),)) + payload
    return head + b"\x7e" + len(payload).to_bytes(2, "big") + payload


MESSAGES = {
    "one": (frame(2, b"hello"), [b"hello"]),
    "empty": (frame(2, b""), [b""]),
    "of 126 bytes": (frame(2, bytes(126)), [bytes(126)]),
    "two at once": (frame(2, b"a") + frame(2, b"b"), [b"a", b"b"]),
    "in parts": (frame(2, b"a", is_last=False) + frame(0, b"b", is_last=False) + frame(0, b"c"), [b"abc"]),
    "with a ping between its parts": (frame(2, b"a", is_last=False) + frame(9, b"?") + frame(0, b"b"), [b"ab"]),
    "behind a pong": (frame(10, b"") + frame(2, b"a"), [b"a"]),
}


@pytest.mark.parametrize(("sent", "wanted"), MESSAGES.values(), ids=MESSAGES)
def test_messages_are_received_as_they_were_sent(serve: Serve, sent: bytes, wanted: list[bytes]) -> None:
    connection = connection_to(serve, sent)
    assert [bytes(connection.receive()) for _ in wanted] == wanted
    connection.close()


def test_a_received_message_is_never_overwritten(serve: Serve) -> None:
    connection = connection_to(serve, frame(2, b"first") + frame(2, b"other") + frame(2, bytes(300)))
    first, other = connection.receive(), connection.receive()
    connection.receive()
    assert (bytes(first), bytes(other)) == (b"first", b"other")
    connection.close()


BROKEN = {
    "masked": b"\x82\x81abcdx",
    "with extension bits": b"\xc2\x00",
    "of an unknown kind": frame(5, b""),
    "too large to believe": b"\x82\x7f" + (1 << 62).to_bytes(8, "big"),
    "closed with a reason": frame(8, (4001).to_bytes(2, "big") + b"taken"),
    "closed without one": frame(8, b""),
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_a_broken_stream_ends_the_connection(serve: Serve, sent: bytes) -> None:
    connection = connection_to(serve, sent)
    with pytest.raises(ConnectionEnded) as ended:
        connection.receive()
    assert ended.value.close_code in (1005, 1006, 4001)
    connection.drop()


REFUSALS: dict[str, tuple[bytes, type[PeerError]]] = {
    "another server": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", WireError),
    "one that answers nonsense": (b"SSH-2.0-OpenSSH_9\r\n\r\n", WireError),
    "a wrong handshake": (b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: no\r\n\r\n", WireError),
    "an endless head": (b"x" * 70_000, WireError),
    "a refusal": (b'HTTP/1.1 503 Busy\r\nContent-Length: 35\r\n\r\n{"error":"full","message":"no room"}', PeerError),
}


@pytest.mark.parametrize(("answer", "error"), REFUSALS.values(), ids=REFUSALS)
def test_a_handshake_that_fails_says_why(serve: Serve, answer: bytes, error: type[PeerError]) -> None:
    def behave(connected: socket.socket) -> None:
        connected.recv(4096)
        connected.sendall(answer)
        while connected.recv(4096):
            pass

    with pytest.raises(error):
        Connection(Address.parse(serve(behave)), 10)


def test_a_server_says_what_it_serves(url: str) -> None:
    told = describe(url)
    assert "CartPole-v1" in told.env_ids and told.capacity == 20
    cartpole = next(env for env in told.envs if env.env_id == "CartPole-v1")
    assert (cartpole.reward_threshold, cartpole.max_episode_steps) == (475.0, 500)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"protocol": 99}', VersionMismatch),
        (b"[]", VersionMismatch),
        (b'{"protocol": 1}', WireError),
        (b"<html>", WireError),
    ],
)
def test_a_description_that_cannot_be_is_refused(serve: Serve, body: bytes, error: type[PeerError]) -> None:
    def behave(connected: socket.socket) -> None:
        connected.recv(4096)
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with pytest.raises(error):
        describe(serve(behave))


def test_a_server_that_hangs_up_is_unreachable(serve: Serve) -> None:
    with pytest.raises(ServerUnreachable):
        describe(serve(lambda connected: None))
