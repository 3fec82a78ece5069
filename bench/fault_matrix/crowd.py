"""Many clients at once, in a process of their own that other processes' steps are measured beside.

    python crowd.py KIND URL COUNT [--gives-way]

Says "ready" when all are connected, waits for a line where something is to happen then, prints what became of them
as JSON, and ends. One that gives way is the least urgent process of its core: the others are what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np

from multiserverrl import VirtualEnv
from multiserverrl.client.transport import Address, Connection
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Open, Reset, Step

_FROM_ONE_ADDRESS = 3000  # connections
_DRIP_S = 0.25
_GIVE_UP_S = 240.0
_HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "
_BODY = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"


def _connected(url: str, count: int) -> Iterator[socket.socket]:
    """Connections from several addresses of the loopback net, as a server counts them by address."""
    place = urlsplit(url)
    for number in range(count):
        source = f"127.0.0.{2 + number // _FROM_ONE_ADDRESS}"
        yield socket.create_connection((place.hostname, place.port), 30, source_address=(source, 0))


def _until_cut(connections: list[socket.socket], *, drips: bool) -> dict[str, float]:
    """How many the server has ended, and when the first and the last; each may send a byte now and then."""
    selector, began, ends = selectors.DefaultSelector(), time.monotonic(), list[float]()
    for connection in connections:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
    while selector.get_map() and time.monotonic() - began < _GIVE_UP_S:
        for key, _ in selector.select(_DRIP_S):
            ended = key.fileobj
            assert isinstance(ended, socket.socket)
            with contextlib.suppress(BlockingIOError):
                if not _more(ended):
                    ends.append(time.monotonic() - began)
                    selector.unregister(ended)
                    ended.close()
        if drips:
            for key in list(selector.get_map().values()):
                with contextlib.suppress(OSError):
                    os.write(key.fd, b"a")
    return {"cut": len(ends), "first_s": min(ends, default=0.0), "last_s": max(ends, default=0.0)}


def _more(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionError:
        return b""


def silent(url: str, count: int) -> dict[str, float]:
    """Connections that never say a word."""
    connections = list(_connected(url, count))
    _say("ready")
    return _until_cut(connections, drips=False)


def drip(url: str, count: int) -> dict[str, float]:
    """Heads and bodies that come a byte at a time."""
    connections = list(_connected(url, count))
    for number, connection in enumerate(connections):
        connection.sendall(_BODY if number % 2 else _HEAD)
    _say("ready")
    return _until_cut(connections, drips=True)


def sessions(url: str, count: int) -> dict[str, float]:
    """Sessions that have taken a step, and do nothing then until they are told to end."""
    held = []
    for _ in range(count):
        connection = Connection(Address.parse(url), 30)
        connection.set_timeout(30)
        for message, body in ((Open(PROTOCOL_VERSION), b""), (Reset(0, 1), b""), (Step(0, 2), bytes(8))):
            connection.send(frames.encode(message, body))
            frames.decode_answer(connection.receive())
        held.append(connection)
    _say("ready")
    sys.stdin.readline()
    for connection in held:
        connection.drop()
    return {"held": len(held)}


def reconnect(url: str, count: int) -> dict[str, object]:
    """Virtual envs, a thread each, whose connections are all cut at once; seconds to each one's next step."""
    threading.stack_size(1 << 18)
    envs = [VirtualEnv(url, timeout_s=60) for _ in range(count)]
    for env in envs:
        env.reset(seed=0)
    go, back_s = threading.Event(), list[float]()

    def step(env: VirtualEnv) -> None:
        go.wait()
        env.step(np.int64(0))
        back_s.append(time.monotonic() - cut_at)

    threads = [threading.Thread(target=step, args=(env,)) for env in envs]
    for thread in threads:
        thread.start()
    _say("ready")
    sys.stdin.readline()
    cut_at = time.monotonic()
    _cut_all(urlsplit(url).port or 0)
    go.set()
    for thread in threads:
        thread.join()
    told = json.dumps({"back_s": back_s})
    _say(told)
    sys.stdin.readline()
    for env in envs:
        env.close()
    return {}


def _cut_all(port: int) -> None:
    """Shut every connection of this process to a port down, as a network does that fails."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as connection:
            if connection.getpeername()[1] == port:
                connection.shutdown(socket.SHUT_RDWR)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if (
        "--gives-way" in sys.argv[4:]
    ):  # as if on machines of their own, as far as that goes; never to be had on a busy one
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    kinds = {"silent": silent, "drip": drip, "sessions": sessions, "reconnect": reconnect}
    _say(json.dumps(kinds[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
