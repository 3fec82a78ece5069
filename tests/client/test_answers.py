"""A server that means no good: whatever it sends, a client raises our errors, in bounded time and memory."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from multiserverrl.client.answers import Strays, check_opened, check_resumed
from multiserverrl.client.api import describe
from multiserverrl.client.coding import Wanted
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.link import Link
from multiserverrl.client.transport import Address, Connection, ConnectionEnded
from multiserverrl.errors import MultiServerRLError, PeerError, ServerUnreachable, WireError
from multiserverrl.wire import frames
from multiserverrl.wire.messages import (
    PROTOCOL_VERSION,
    Called,
    Closed,
    EnvInfo,
    Finals,
    Open,
    Opened,
    Rendered,
    Resumed,
    Stepped,
)
from multiserverrl.wire.trees import pack_tree
from multiserverrl.wire.websocket import BINARY, PING, frame_head
from scripted_server import ScriptedAddress
from tests.client.test_transport import Serve, serve, shake_hands

__all__ = ["serve"]  # the fixture

SPACE = {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}
TEXT = {"type": "Text", "min_length": 0, "max_length": 9, "charset": "abc"}


def opened(lanes: list[int], observations: Any = SPACE, time_to_live_s: float = 1.0) -> Opened:
    return Opened("id", "secret", 1, lanes, EnvInfo("Env", observations, SPACE, []), time_to_live_s)


def sent(*messages: bytes) -> bytes:
    return b"".join(frame_head(BINARY, len(one)) + one for one in messages)


def answers(*messages: Any) -> bytes:
    return sent(*(frames.encode(one) for one in messages))


REQUEST = Open(PROTOCOL_VERSION, "Env", 3, lanes=[1, 2])


@pytest.mark.parametrize(
    "answer", [opened([]), opened([3]), opened([2, 1]), opened([1, 2], time_to_live_s=float("nan")), opened([1, 2, 1])]
)
def test_a_session_that_was_not_asked_for_is_refused(answer: Opened) -> None:
    check_opened(opened([1, 2]), REQUEST)
    with pytest.raises(WireError):
        check_opened(answer, REQUEST)
    with pytest.raises(WireError):
        Link(ScriptedAddress.of(answers(answer)), REQUEST, timeout_s=1.0, wanted=Wanted(False))


def test_a_session_resumed_with_other_lanes_is_refused() -> None:
    check_resumed(Resumed(1, [3, 4]), 2)
    with pytest.raises(WireError, match="1 lanes of 2"):
        check_resumed(Resumed(1, [3]), 2)


def test_answers_that_nobody_waits_for_are_dropped_but_not_for_ever() -> None:
    strays = Strays()
    for seq in range(10):  # each request begins anew
        for _ in range(4096):
            strays.drop(seq, [seq + 1])
    with pytest.raises(WireError, match="again and again"):
        strays.drop(9, [10])
    flood = answers(opened([1, 2]), *[Closed(0, 77)] * 5000)
    link = Link(ScriptedAddress.of(flood), REQUEST, timeout_s=1.0, wanted=Wanted(False))
    link.send(0, lambda seq: Open(PROTOCOL_VERSION))
    with pytest.raises(WireError, match="again and again"):
        link.receive(0)
    link.leave()


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], VirtualEnv]:
    """A virtual env of a server that says all of this, and is gone then."""

    def play(script: bytes, **options: Any) -> VirtualEnv:
        monkeypatch.setattr(Address, "parse", lambda *_: ScriptedAddress.of(script))
        return VirtualEnv("scripted", "Env", timeout_s=1.0, compression=False, **options)

    return play


Playing = Callable[..., VirtualEnv]
BODY = bytes(8) + bytes(8) + bytes(8)
STRANGE = {
    "an info that is a number": frames.encode(Stepped(0, 1, [pack_tree({0: 3})]), BODY),
    "an info of another env": frames.encode(Stepped(0, 1, [pack_tree({7: {}})]), BODY),
    "infos in a list": frames.encode(Stepped(0, 1, [pack_tree([{}])]), BODY),
    "infos under a text": frames.encode(Stepped(0, 1, [pack_tree({"0": {}})]), BODY),
    "a body too short": frames.encode(Stepped(0, 1), BODY[:-1]),
    "too many final observations": frames.encode(Stepped(0, 1, finals=[Finals([0, 0], bytes(16))]), BODY),
    "a final observation of another size": frames.encode(Stepped(0, 1, finals=[Finals([], b"x")]), BODY),
    "no tree": frames.encode(Stepped(0, 1, [b"\xc1"]), BODY),
    "what answers another request": frames.encode(Called(0, 1, [pack_tree({0: 1})])),
    "another lane": frames.encode(Stepped(3, 1), BODY),
    "a block that nobody showed": frames.encode(Stepped(0, 1, block_body=1), BODY),
    "no frame": b"XXXXXXXXXX",
}


@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_answer_is_a_wire_error(playing: Playing, strange: str) -> None:
    env = playing(answers(opened([1])) + sent(STRANGE[strange]))
    with pytest.raises(WireError):
        env.reset()
    env.close()


def test_observations_of_envs_that_say_nothing_are_a_wire_error(playing: Playing) -> None:
    env = playing(answers(opened([1], TEXT)) + sent(frames.encode(Stepped(0, 1), bytes(16))))
    with pytest.raises(WireError, match="values of 0 envs, not of 1"):
        env.reset()
    env.close()


def test_a_frame_that_is_missing_is_a_wire_error(playing: Playing) -> None:
    step = frames.encode(Stepped(0, 1), bytes(24))
    env = playing(answers(opened([1])) + sent(step) + answers(Rendered(0, 2, [])), render_mode="ansi")
    env.reset()
    with pytest.raises(WireError, match="values of 0 envs"):
        env.render()
    env.close()


def test_no_room_is_made_for_a_length_that_is_only_announced() -> None:
    announced = frame_head(BINARY, 1 << 30) + bytes(100)
    connection = Connection(ScriptedAddress.of(announced), 1.0)
    tracemalloc.start()
    try:
        with pytest.raises(ConnectionEnded, match="cut"):
            connection.receive()
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_a_large_message_is_taken_whole_in_room_that_grows_with_it() -> None:
    content = bytes(range(256)) * (3 << 17)
    connection = Connection(ScriptedAddress.of(frame_head(BINARY, len(content)) + content), 1.0)
    assert connection.receive() == content


ENDLESS = {
    "parts of nothing": b"\x02\x00" + b"\x00\x00" * 5000,
    "pings": (frame_head(PING, 0)) * 5000,
    "parts that are too much together": b"\x02\x01a" + b"\x00\x7f" + (1 << 30).to_bytes(8, "big"),
}


@pytest.mark.parametrize("script", ENDLESS.values(), ids=ENDLESS)
def test_a_message_without_an_end_is_not_waited_for(script: bytes) -> None:
    with pytest.raises(ConnectionEnded, match=r"not (waited for|believed)"):
        Connection(ScriptedAddress.of(script), 1.0).receive()


def dripping(head: bytes) -> Callable[[socket.socket], None]:
    """Sends a byte of this every now and then, for as long as anybody listens."""

    def behave(connected: socket.socket) -> None:
        gone = threading.Event()
        for byte in head + b"x" * 5000:
            try:
                connected.sendall(bytes((byte,)))
            except OSError:
                return
            gone.wait(0.02)

    return behave


TIMEOUT_S = 0.3
HUNG: dict[str, Callable[[str], Any]] = {
    "describe": lambda url: describe(url, timeout_s=TIMEOUT_S),
    "handshake": lambda url: Connection(Address.parse(url), TIMEOUT_S),
}


@pytest.mark.parametrize("what", HUNG)
@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{", b"HTTP/1.1 100 Continue\r\n\r\n" * 99]
)
def test_an_answer_that_comes_in_drips_is_not_waited_for_longer_than_one_that_does_not(
    serve: Serve, what: str, head: bytes
) -> None:
    began = time.monotonic()
    with pytest.raises((PeerError, TimeoutError)):
        HUNG[what](serve(dripping(head)))
    assert time.monotonic() - began < 20 * TIMEOUT_S


def test_neither_is_a_message_that_does(serve: Serve) -> None:
    def behave(connected: socket.socket) -> None:
        shake_hands(connected)
        dripping(frame_head(BINARY, 6000))(connected)

    connection = Connection(Address.parse(serve(behave)), TIMEOUT_S)
    connection.set_timeout(TIMEOUT_S)
    with pytest.raises(TimeoutError, match="too slowly"):
        connection.receive()
    connection.drop()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"protocol": 1, "envs": 7}',
        b"\xff",
        b"1" * 5000,
        b'{"protocol": [[[]]]}',
        b" " * ((1 << 24) + 9),
    ],
    ids=range(6),
)
@pytest.mark.parametrize("status", ["200 OK", "500 No", "99999999999999999999999999 Yes"])
def test_a_description_that_is_none_is_one_of_our_errors(serve: Serve, body: bytes, status: str) -> None:
    def behave(connected: socket.socket) -> None:
        connected.recv(4096)
        with contextlib.suppress(OSError):
            connected.sendall(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode() + body)

    with pytest.raises(MultiServerRLError):
        describe(serve(behave), timeout_s=5.0)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 403 No\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
        b"HTTP/1.1 " + b"4" * 5000 + b" No\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 403 No\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000,
    ],
    ids=range(3),
)
def test_a_refusal_of_nonsense_is_one_of_our_errors(head: bytes) -> None:
    with pytest.raises(MultiServerRLError):
        Connection(ScriptedAddress.of(head, handshake=False), 1.0)


def test_who_hangs_up_in_a_description_is_unreachable(serve: Serve) -> None:
    with pytest.raises(ServerUnreachable):
        describe(serve(lambda connected: connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")))
