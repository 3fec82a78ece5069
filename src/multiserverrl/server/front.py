"""The front: the process that speaks HTTP and WebSocket, keeps the sessions, and owns the env workers.

It runs no env code. SIGTERM drains it, see `draining`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import uvicorn

from multiserverrl.errors import MultiServerRLError
from multiserverrl.observe.log import log, log_to_stderr
from multiserverrl.server.accepting import Accepting
from multiserverrl.server.app import make_app
from multiserverrl.server.auth import SECURITY_HEADERS, Door
from multiserverrl.server.commands import WorkerConfig
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.draining import Drain
from multiserverrl.server.httplimits import LimitedHttp
from multiserverrl.server.pool import WorkerPool
from multiserverrl.server.sessions import Sessions
from multiserverrl.server.websocket import StreamProtocol
from multiserverrl.server.workerhandle import StartWorker, worker_processes

__all__ = ["FrontConfig", "Ready", "run_front", "serve_front"]

_TICK_S = 0.2
_LOOKS = 10  # at each connection, within --silence-s


class FrontConfig(msgspec.Struct):
    """What the parent gives a front."""

    server: ServerConfig
    token: str | None


class Ready(msgspec.Struct):
    """What a front tells its parent once: it is ready (code ""), or why it cannot be."""

    code: str = ""
    message: str = ""


def run_front(config: bytes, fds: list[int]) -> None:
    """Serve on the listening socket `fds[0]`; say once on the pipe `fds[1]` that it is ready, or why not."""
    log_to_stderr()
    front = msgspec.msgpack.decode(config, type=FrontConfig)  # JSON has no infinities, a wrapper's argument may
    listener = socket.socket(fileno=fds[0])
    if sys.platform != "win32":
        with contextlib.suppress(ImportError):
            import uvloop

            uvloop.install()
    told = front.server
    gc.freeze()  # what is imported stays: looking through it took 20 ms in a flood of connections
    start = worker_processes(WorkerConfig(told.wrappers, told.vector, told.awake_us, told.env_arguments))
    asyncio.run(serve_front(front, listener, start, lambda ready: _tell(fds[1], ready), _call_on_signal))


async def serve_front(
    front: FrontConfig,
    listener: socket.socket,
    start_worker: StartWorker,
    tell: Callable[[Ready], None],
    on_stop: Callable[[Callable[[], None]], None],
) -> None:
    """Serve on the listening socket until told to stop, with env workers as `start_worker` starts them.

    `tell` is called once: ready, or why not. `on_stop` is given the function that stops the server when it
    is called in this event loop: after the steps in flight; called again: at once.
    """
    config = front.server
    pool = WorkerPool(
        config.num_workers,
        start_deadline_s=config.start_deadline_s,
        max_mb=config.max_worker_mb,
        start=start_worker,
    )
    sessions = Sessions(config, pool)
    ticking = asyncio.create_task(_tick(sessions, pool))  # first of all: an env may hang when it is made
    try:
        try:
            await pool.start()
            await pool.check_bare_size()
            await sessions.learn_envs()
            pool.check_size()
        except MultiServerRLError as error:
            tell(Ready(error.code, error.headline))
            return
        server = _Server(_uvicorn_config(front, sessions), config)
        on_stop(Drain(server, sessions, config.drain_s).stop)
        tell(Ready())
        looking = asyncio.create_task(_cut_silent(server, config.silence_s))
        await server.serve(sockets=[listener])
        looking.cancel()
    finally:
        ticking.cancel()
        await pool.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (ours stand in `_call_on_signal`), and with our limits."""

    def __init__(self, config: uvicorn.Config, limits: ServerConfig) -> None:
        super().__init__(config)
        self._limits = limits

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])  # the sockets are ours to accept from
        servers: list[Any] = [
            Accepting(listener, self._limits, self._make_protocol, self.config.ssl) for listener in sockets or []
        ]
        self.servers = servers

    def _make_protocol(self, leave: Callable[[], None]) -> LimitedHttp:
        return LimitedHttp(
            self._limits, leave, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _uvicorn_config(front: FrontConfig, sessions: Sessions) -> uvicorn.Config:
    app: Any = make_app(sessions, Door(front.server, front.token))
    return uvicorn.Config(
        app,
        ws=StreamProtocol,
        ws_max_size=front.server.max_message_bytes,
        ws_ping_interval=None,  # a client may pause for as long as it likes; TCP keepalive finds dead peers
        ws_per_message_deflate=False,
        lifespan="off",
        headers=SECURITY_HEADERS,
        ssl_certfile=front.server.certfile,
        ssl_keyfile=front.server.keyfile,
        log_config=None,
        log_level="error",  # a bad request is no news
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=front.server.keep_alive_s,  # type: ignore[arg-type]  # seconds, as call_later takes them
        timeout_graceful_shutdown=1,
    )


def _tell(status: int, ready: Ready) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone: so are we, soon
        os.write(status, msgspec.json.encode(ready) + b"\n")
    os.close(status)


async def _tick(sessions: Sessions, pool: WorkerPool) -> None:
    """Deadlines and expiries, a few times a second."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_TICK_S)
        try:  # nothing here may wait, or end it: deadlines are kept by this loop alone
            pool.look_after(loop.time())
            sessions.expire()
        except Exception as error:
            log("tick_failed", error=repr(error))


async def _cut_silent(server: uvicorn.Server, silence_s: float) -> None:
    """Cut connections whose client's machine is gone with something on its way to it; TCP keepalive finds the rest.

    Not by TCP_USER_TIMEOUT, which would also end those of clients that do not read, but are there.
    """
    while True:
        await asyncio.sleep(silence_s / _LOOKS)
        for connection in list(server.server_state.connections):
            if isinstance(connection, StreamProtocol) and connection.is_silent(silence_s):
                log("connection_silent", silence_s=silence_s)
                connection.cut()


def _call_on_signal(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
