"""More connections and sessions than a server takes, in all and from one address."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from multiserverrl import VirtualEnv
from multiserverrl.errors import ServerUnreachable
from multiserverrl.testing.serving import serving
from tests.server.support import HttpSession, request
from tests.server.test_httplimits import HEAD, heard


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(
        "CartPole-v1", count=8, workers=1, max_connections=6, max_connections_per_client=4, max_sessions=3,
        max_sessions_per_client=2,
    ) as running:  # fmt: skip
        yield running.url


def connect(url: str, source: str = "127.0.0.1") -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), 20, source_address=(source, 0))


def connect_and_stay(stack: ExitStack, url: str, source: str) -> None:
    """A connection that the server has taken."""
    connection = stack.enter_context(connect(url, source))
    connection.sendall(HEAD + b"\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def refusal(url: str, source: str) -> tuple[int, str, str]:
    with connect(url, source) as connection:
        began = time.monotonic()
        head, _, body = heard(connection).partition(b"\r\n\r\n")
        assert b"retry-after: " in head and b"connection: close" in head
        assert time.monotonic() - began < 8
    told = json.loads(body)
    return int(head.split()[1]), told["error"], told["message"]


def test_a_connection_too_many_is_refused_unasked_and_one_that_ends_makes_room(url: str) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            connect_and_stay(stack, url, "127.0.0.2")
        status, error, message = refusal(url, "127.0.0.2")
        assert (status, error) == (503, "unreachable") and "--max-connections-per-client" in message
        for _ in range(2):
            connect_and_stay(stack, url, "127.0.0.3")
        status, error, message = refusal(url, "127.0.0.3")
        assert (status, error) == (503, "unreachable") and message.endswith("--max-connections)")
        with pytest.raises(ServerUnreachable, match="6 connections at once"):
            VirtualEnv(url)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # the server hears of the ends after we do
        try:
            VirtualEnv(url).close()
            break
        except ServerUnreachable:
            continue
    else:
        pytest.fail("no connection was given back")


def test_a_stream_gives_its_connection_back_as_any_other_does(url: str) -> None:
    for _ in range(12):
        env = VirtualEnv(url, timeout_s=20)
        env.reset()
        env.close()


def test_a_session_too_many_is_refused_and_one_that_ends_makes_room(url: str) -> None:
    opening = {"env_id": "CartPole-v1"}
    sessions = [HttpSession(url, **opening) for _ in range(2)]
    full = request(url, "POST", "/v1/sessions", opening)
    assert (full.status, full.json["error"]) == (503, "full")
    assert "2 sessions at once from one address" in full.json["message"]
    assert "--max-sessions-per-client" in full.json["message"]
    sessions[0].close()
    sessions.append(HttpSession(url, **opening))
    for session in sessions[1:]:
        session.close()


def test_who_is_ready_to_wait_gets_the_place_of_a_session_that_ends(url: str) -> None:
    first, second = HttpSession(url, env_id="CartPole-v1"), HttpSession(url, env_id="CartPole-v1")
    body = b'{"env_id": "CartPole-v1", "wait_s": 20}'
    with connect(url) as waiting:
        head = f"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += "Connection: close\r\n\r\n"
        waiting.sendall(head.encode() + body)
        assert request(url, "POST", "/v1/sessions", {"env_id": "CartPole-v1"}).status == 503
        first.close()
        content = heard(waiting)
        assert content.startswith(b"HTTP/1.1 201 ")
    told = json.loads(content.partition(b"\r\n\r\n")[2])
    request(url, "DELETE", f"/v1/sessions/{told['session']}", None, {"Session-Secret": told["secret"]})
    second.close()
