"""Random bytes at a live server: it serves on, and the session that they came to is as it was."""

from __future__ import annotations

import contextlib
import random
import socket
from urllib.parse import urlsplit

import pytest

from fuzz_targets import TARGETS
from multiserverrl.client.transport import Address
from multiserverrl.testing.conformance.raw import RawSocket
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Reset, Step, Stepped
from tests.server.conftest import ENVS
from tests.server.support import RawSession, request

NUM_CONNECTIONS = 60
SEEDS = TARGETS["requests"].seeds


def damaged(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        changed[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
    return bytes(changed)


@pytest.mark.parametrize("what", ["messages", "frames of WebSockets", "bytes instead of a handshake"])
def test_a_server_serves_on_whatever_comes(url: str, what: str) -> None:
    rng = random.Random(7)
    live = RawSession(url, f"{ENVS}:Scripted", 2)
    live.ask(Reset(0, 1, [1, 2]))
    for _ in range(NUM_CONNECTIONS):
        if what == "bytes instead of a handshake":
            parts = urlsplit(url)
            with socket.create_connection((parts.hostname, parts.port), 10) as connected:
                head = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
                connected.sendall(damaged(rng, head) + rng.randbytes(40))
            continue
        thrown = RawSocket(Address.parse(url), 10)
        with contextlib.suppress(OSError):  # it may have been closed meanwhile
            for content in rng.choices(SEEDS, k=4):
                if what == "messages":
                    thrown.send(damaged(rng, content))
                else:
                    thrown.send_bytes(damaged(rng, thrown.framed(content)))
        thrown.cut(rng.choice(("fin", "rst")))
    stepped, _ = live.ask(Step(0, 2), bytes(16))
    assert isinstance(stepped, Stepped)
    assert request(url, "GET", "/health").json["status"] == "ok"
    live.connection.close()


def test_a_session_is_as_it_was_after_messages_that_are_none(url: str) -> None:
    rng, seq = random.Random(3), 1
    session = RawSession(url, f"{ENVS}:Scripted", 2)
    session.ask(Reset(0, 1, [1, 2]))
    for _ in range(20):
        with contextlib.suppress(OSError, ValueError):
            session.connection.send(damaged(rng, frames.encode(Step(0, seq + 1), rng.randbytes(16))))
            session.connection.receive()
        session.connection.drop()
        session = session.resumed()
        answer, _ = session.ask(Step(0, 1 << 40))  # what it says of the seq that it expects
        seq = int(answer.message.partition("the last was ")[2].partition(",")[0])
    answer, _ = session.ask(Step(0, seq + 1), bytes(16))
    assert isinstance(answer, Stepped)
    session.connection.close()
