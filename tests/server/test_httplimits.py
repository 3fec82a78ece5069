"""What a client may send to the HTTP side, and how long it may take: raw bytes to a real server."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving, worker_pids
from tests.server.support import HttpSession, request

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    limits: dict[str, Any] = {"max_head_bytes": 2048, "max_headers": 20, "max_message_bytes": 1 << 16}
    times: dict[str, Any] = {"handshake_s": 0.4, "body_s": 0.4, "keep_alive_s": 0.4}
    with serving("CartPole-v1", count=4, workers=1, **limits, **times) as running:
        yield running


@pytest.fixture(scope="module")
def url(server: RunningServer) -> str:
    return server.url


class Told(NamedTuple):
    status: int
    error: str
    message: str
    after_s: float


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), 20) as made:
        yield made


def heard(connection: socket.socket) -> bytes:
    """All until the server ends the connection."""
    content = b""
    try:
        while part := connection.recv(1 << 16):
            content += part
    except ConnectionResetError:
        pass
    return content


def refused(url: str, sent: bytes) -> Told:
    with connected(url) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        content = heard(connection)
        after_s = time.monotonic() - began
    head, _, body = content.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    told = json.loads(body)
    return Told(int(head.split()[1]), told["error"], told["message"], after_s)


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"X: " + b"a" * 3000 + b"\r\n\r\n",
        HEAD + b"X: " + b"a" * (1 << 20),
        HEAD + b"a" * 3000,
        b"GET /" + b"a" * 3000,
        b"GET /?" + b"a" * 2040 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"".join([HEAD, *[b"X%d: %s\r\n" % (n, b"a" * 200) for n in range(12)], b"\r\n"]),
    ],
    ids=["a header", "a header without end", "a name without end", "a path without end", "a query", "a few headers"],
)
def test_a_head_beyond_the_limit_is_refused_at_once(url: str, sent: bytes) -> None:
    told = refused(url, sent)
    assert (told.status, told.error) == (431, "head_too_large") and "--max-head-bytes" in told.message
    assert request(url, "GET", "/health").status == 200


def test_too_many_headers_are_refused(url: str) -> None:
    told = refused(url, b"".join([HEAD, *[b"X%d: a\r\n" % n for n in range(30)], b"\r\n"]))
    assert (told.status, told.error) == (431, "head_too_large") and "--max-headers" in told.message


def test_trailers_are_headers_too(url: str) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    told = refused(url, chunked + b"".join(b"T%d: a\r\n" % n for n in range(30)))
    assert told.status == 431
    assert refused(url, chunked + b"T: " + b"a" * 100_000).status == 431


def test_a_body_is_refused_by_its_length_before_it_comes(url: str) -> None:
    told = refused(url, POST + b"Content-Length: 65537\r\n\r\n")
    assert (told.status, told.error) == (413, "too_large") and "--max-message-bytes" in told.message


def test_a_chunked_body_without_end_is_refused_when_it_is_too_large(url: str) -> None:
    chunks = b"4000\r\n" + b"a" * 0x4000 + b"\r\n"
    told = refused(url, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 5)
    assert (told.status, told.error) == (413, "too_large")
    unread = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 5  # no route reads it
    with connected(url) as connection:
        connection.sendall(unread)
        assert heard(connection).startswith(b"HTTP/1.1 ")  # and it ends


@pytest.mark.parametrize(
    ("sent", "flag"),
    [
        (b"", "--handshake-s"),
        (b"G", "--handshake-s"),
        (HEAD, "--handshake-s"),
        (b"\r\n", "--handshake-s"),
        (POST + b"Upgrade: websocket\r\n", "--handshake-s"),
        (POST + b"Content-Length: 5\r\n\r\n{", "--body-s"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}", "--body-s"),
    ],
)
def test_what_does_not_come_in_time_is_refused(url: str, sent: bytes, flag: str) -> None:
    told = refused(url, sent)
    assert (told.status, told.error) == (408, "too_slow") and flag in told.message
    assert told.after_s > 0.3


@pytest.mark.parametrize("sent", [HEAD + b"X: ", POST + b"Content-Length: 50000\r\n\r\n"], ids=["head", "body"])
def test_a_byte_now_and_then_gives_no_more_time(url: str, sent: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(sent)
        connection.settimeout(0.05)
        content, began = b"", time.monotonic()
        while not content and time.monotonic() - began < 20:
            try:
                content = connection.recv(4096)
            except TimeoutError:
                connection.sendall(b"a")
        assert content.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("more", [b"", b"\r\n", b"GET"])
def test_a_connection_that_idles_between_two_requests_is_closed(url: str, more: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        connection.sendall(more)
        heard(connection)
        assert time.monotonic() - began > 0.3


def test_requests_in_a_row_are_answered_in_their_order_and_too_many_end_the_connection(url: str) -> None:
    two = HEAD + b"\r\n" + HEAD.replace(b"/health", b"/v1/envs") + b"Connection: close\r\n\r\n"
    with connected(url) as connection:
        connection.sendall(two)
        content = heard(connection)
        assert content.count(b"HTTP/1.1 200 ") == 2 and content.index(b"workers_up") < content.index(b"capacity")
    with connected(url) as connection:
        connection.sendall((HEAD + b"\r\n") * 1000)
        assert heard(connection).count(b"HTTP/1.1 ") < 20


def test_what_is_no_http_is_refused_as_json(url: str) -> None:
    for sent in (b"\x16\x03\x01\x02\x00", b"HELO there\r\n\r\n", b"GET / HTTP/9\r\n\r\n", HEAD + b"a b: c\r\n\r\n"):
        told = refused(url, sent)
        assert (told.status, told.error) == (400, "wire")


def test_a_request_before_one_that_is_refused_is_answered(url: str) -> None:
    body_is_longer = HEAD + b"Content-Length: 2\r\n\r\n{}garbage garbage\r\n\r\n"
    with connected(url) as connection:
        connection.sendall(body_is_longer)
        assert heard(connection).count(b"HTTP/1.1 200 ") == 1


def test_a_server_that_is_full_says_at_once_when_to_try_again(url: str) -> None:
    sessions = [HttpSession(url, env_id="CartPole-v1") for _ in range(4)]
    began = time.monotonic()
    for _ in range(50):
        full = request(url, "POST", "/v1/sessions", {"env_id": "CartPole-v1"})
        assert (full.status, full.json["error"]) == (503, "full")
        assert 1 <= int(full.headers["retry-after"]) <= 60
    assert time.monotonic() - began < 30
    for session in sessions:
        session.close()


def test_health_is_answered_while_every_env_worker_is_stopped(server: RunningServer) -> None:
    session = HttpSession(server.url, env_id="CartPole-v1")
    session.ask("reset")
    pids = worker_pids(server)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with connected(server.url) as stepping:
            body = b'{"seq": 2, "action": 0}'
            head = f"POST {session.path}/step HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            secret = "".join(
                f"{name}: {value}\r\n" for name, value in {**session.secret, "Connection": "close"}.items()
            )
            stepping.sendall(f"{head}{secret}\r\n".encode() + body)
            for _ in range(20):
                began = time.monotonic()
                assert request(server.url, "GET", "/health").json["workers"] == 1
                assert time.monotonic() - began < 10
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert b'"seq":2' in heard(stepping)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    session.close()
