"""A relay that makes a link slow: every chunk of bytes is passed on a fixed time after it came, in order.

`python slow_link.py PORT DELAY_S` passes connections on to a local port, from a port that it prints. A chunk costs it
some 20 µs, so it adds no queue of its own at the few thousand small messages a second that it is meant for.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections import deque


class Direction:
    """What one end says to the other, on its way."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.on_its_way: deque[tuple[float, bytes]] = deque()  # (when it is due, what; nothing: the end)

    def take(self, due: float) -> bool:
        """Take in what is there; False when there will be no more."""
        try:
            content = self.source.recv(1 << 16)
        except OSError:
            content = b""
        self.on_its_way.append((due, content))
        return bool(content)

    def deliver(self, now: float) -> None:
        """Pass on what is due."""
        while self.on_its_way and self.on_its_way[0][0] <= now:
            content = self.on_its_way.popleft()[1]
            with contextlib.suppress(OSError):  # the other end has gone
                if content:
                    self.sink.sendall(content)
                else:
                    self.sink.shutdown(socket.SHUT_WR)


def pass_on(listener: socket.socket, port: int, delay_s: float) -> None:
    """Relay for ever, every connection to the local `port`."""
    reading: dict[socket.socket, Direction] = {}
    directions: list[Direction] = []
    while True:
        dues = [direction.on_its_way[0][0] for direction in directions if direction.on_its_way]
        wait_s = max(0.0, min(dues) - time.monotonic()) if dues else None
        ready, _, _ = select.select([listener, *reading], [], [], wait_s)  # epoll would wait in whole milliseconds
        now = time.monotonic()
        for source in ready:
            if source is listener:
                for direction in _connected(listener.accept()[0], port):
                    directions.append(direction)
                    reading[direction.source] = direction
            elif not reading[source].take(now + delay_s):
                del reading[source]
        for direction in directions:
            direction.deliver(now)
        directions = [one for one in directions if one.on_its_way or one.source in reading]


def _connected(client: socket.socket, port: int) -> list[Direction]:
    server = socket.create_connection(("127.0.0.1", port))
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return [Direction(client, server), Direction(server, client)]


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)
    pass_on(listener, int(sys.argv[1]), float(sys.argv[2]))


if __name__ == "__main__":
    main()
