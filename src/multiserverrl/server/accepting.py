"""Takes connections from the listening socket, one a turn of the loop, and no more than the limits allow.

An event loop accepts as many at once as lie in the backlog, thousands in a flood, and the live sessions wait meanwhile.
One connection too many is told so, in plain HTTP, before anything is done for it; one for TLS is just closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import deque
from collections.abc import Callable

from multiserverrl.errors import ServerUnreachable
from multiserverrl.observe.log import log
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.httplimits import refusal_bytes
from multiserverrl.server.limits import Pace, Places

__all__ = ["Accepting", "room_for_connections"]

_BURST, _A_SECOND = 2, 250.0  # connections that are taken at once, and then each second; each costs a live step 0.7 ms
_PAUSE_S = 0.2  # when the system has no descriptor left
_LINGER_S, _MOST_LINGERING = 0.5, 256  # for the client to read its refusal
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LOG_EVERY_S = 5.0

Leave = Callable[[], None]


class Accepting:
    """One listening socket; has what uvicorn asks of a server of asyncio's."""

    def __init__(
        self,
        listener: socket.socket,
        limits: ServerConfig,
        make_protocol: Callable[[Leave], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._listener, self._limits, self._make_protocol, self._tls = listener, limits, make_protocol, tls
        self._loop = asyncio.get_running_loop()
        self._places = Places("connections", room_for_connections(limits), limits.max_connections_per_client)
        self._tasks: set[asyncio.Task[None]] = set()
        self._turned_away: deque[socket.socket] = deque()
        self._num_refused, self._logged_at = 0, -_LOG_EVERY_S
        listener.setblocking(False)
        self._running = self._loop.create_task(self._run())

    def close(self) -> None:
        """Take no more."""
        self._running.cancel()
        for task in self._tasks:
            task.cancel()
        while self._turned_away:
            self._turned_away.popleft().close()

    async def wait_closed(self) -> None:
        """Until what `close` has ended is over."""
        await asyncio.gather(self._running, *self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        pace = Pace(_BURST, _A_SECOND, self._loop.time())
        while True:
            try:
                connected, address = await self._loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in _SHORT:
                    log("cannot_accept", error=error.strerror, connections=self._places.num_taken)
                    await asyncio.sleep(_PAUSE_S)
            else:
                self._admit(connected, str(address[0]))
            await asyncio.sleep(pace.pause_s(self._loop.time()))  # the others' turn, at least

    def _admit(self, connected: socket.socket, client: str) -> None:
        if refusal := self._places.refusal(client):
            self._turn_away(connected, client, refusal)
            return
        self._places.take(client)
        task = self._loop.create_task(self._connect(connected, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connected: socket.socket, client: str) -> None:
        is_in = True

        def leave() -> None:
            nonlocal is_in
            if is_in:
                is_in = False
                self._places.give_back(client)

        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make_protocol(leave),
                connected,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else self._limits.handshake_s,
            )
        except OSError:  # no TLS, or too late: the client's matter
            leave()
            connected.close()
        except BaseException:
            leave()
            connected.close()
            raise

    def _turn_away(self, connected: socket.socket, client: str, refusal: str) -> None:
        self._num_refused += 1
        if self._loop.time() - self._logged_at > _LOG_EVERY_S:
            self._logged_at = self._loop.time()
            log("connections_refused", refused=self._num_refused, client=client, reason=refusal)
        if self._tls is not None:
            connected.close()
            return
        with contextlib.suppress(OSError):
            connected.send(refusal_bytes(ServerUnreachable(refusal)))
            connected.shutdown(socket.SHUT_WR)
        self._turned_away.append(connected)
        if len(self._turned_away) > _MOST_LINGERING:
            self._turned_away.popleft().close()
        else:
            self._loop.call_later(_LINGER_S, self._drop_oldest)

    def _drop_oldest(self) -> None:
        if self._turned_away:
            self._turned_away.popleft().close()


def room_for_connections(config: ServerConfig) -> int:
    """--max-connections, or as many as this process may have descriptors for, once it has asked for more."""
    try:
        import resource
    except ImportError:  # Windows
        return config.max_connections
    own = 64 + 4 * config.num_workers + 2 * config.count + _MOST_LINGERING  # workers' sockets, lanes' blocks
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = own + config.max_connections
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            log("few_descriptors", limit=soft, wanted=wanted, connections=max(soft - own, soft // 2))
            return max(soft - own, soft // 2)
    return config.max_connections
