"""An env server in a thread of the test's own process: any function that makes an env is served, no process starts.

The front and the env workers are the real ones, behind real sockets; only what runs a worker is a
thread. An env that ends its process ends the test's; one that never returns keeps its (daemon) thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from multiserverrl.errors import error_for
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.front import FrontConfig, Ready, serve_front
from multiserverrl.server.making import Source
from multiserverrl.server.run import listen
from multiserverrl.server.worker import answer_commands
from multiserverrl.server.workerhandle import StartWorker

__all__ = ["serving_from_thread"]

_JOIN_TIMEOUT_S = 30.0


@contextmanager
def serving_from_thread(make: Callable[..., Any], *, env_id: str = "Env", **settings: Any) -> Iterator[str]:
    """Serve the envs that `make` makes, for the length of a `with` block; gives the server's address.

        with serving_from_thread(lambda: MyEnv(size=3)) as url:
            env = VirtualEnv(url)

    `make` is called in another thread: with `render_mode` when a client asks for one, with the arguments that
    `allow_arg` lets clients set, and with `vector=True` for a native vector env of `num_envs` envs.
    `settings` are ServerConfig's; without them: 8 environments on 1 worker.
    """
    given = {"host": "127.0.0.1", "port": 0, "count": 8, "workers": 1, **settings, "env_ids": (env_id,)}
    config = ServerConfig(**given)
    server = _ServerThread(config, Source(config.wrappers, config.vector, config.env_arguments, make))
    try:
        yield server.url()
    finally:
        server.stop()


class _ServerThread:
    """The event loop of a front in a thread; whoever makes it must `stop` it."""

    def __init__(self, config: ServerConfig, source: Source) -> None:
        self._listener = listen(config)[0]
        self._told: queue.Queue[Ready | BaseException] = queue.Queue()
        self._stop: Callable[[], None] = lambda: None  # until it serves
        front = FrontConfig(config, None)
        self._thread = threading.Thread(target=self._run, args=(front, source), name="env server", daemon=True)
        self._thread.start()

    def url(self) -> str:
        """Its address, once it serves; the error of one that cannot."""
        told = self._told.get()
        if isinstance(told, BaseException):
            raise told
        if told.code:
            raise error_for(told.code, told.message)
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        """Drain, end, and give the port back."""
        self._stop()
        self._thread.join(_JOIN_TIMEOUT_S)
        self._listener.close()
        if self._thread.is_alive():
            raise TimeoutError(f"the env server's thread still runs after {_JOIN_TIMEOUT_S:.0f} s")

    def _run(self, front: FrontConfig, source: Source) -> None:
        try:
            asyncio.run(serve_front(front, self._listener, _worker_threads(source), self._told.put, self._keep))
        except BaseException as error:  # the test's thread waits to hear of it
            self._told.put(error)

    def _keep(self, stop: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._stop = lambda: _call_in(loop, stop)


def _call_in(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(stop)


class _WorkerThread:
    """What runs an env worker; a `server.workerhandle.WorkerHandle`."""

    def __init__(self, index: int, door: socket.socket, source: Source) -> None:
        self._door = door.dup()  # the pool closes its own
        self.stderr: IO[bytes] | None = None  # it prints where the test does
        self._thread = threading.Thread(target=self._run, args=(source,), name=f"env worker {index}", daemon=True)
        self._thread.start()

    def _run(self, source: Source) -> None:
        with contextlib.suppress(SystemExit):
            answer_commands(self._door, source)

    def exitcode(self) -> int | None:
        return None if self._thread.is_alive() else 0

    def wait(self, timeout_s: float) -> int | None:
        self._thread.join(timeout_s)
        return self.exitcode()

    def send_signal(self, number: int) -> None:
        """A thread gets none."""

    def memory_bytes(self) -> int | None:
        return None

    def kill(self, timeout_s: float | None = None) -> None:
        """Close its socket: a thread cannot be killed, it ends when its env returns."""
        with contextlib.suppress(OSError):  # it has ended
            self._door.shutdown(socket.SHUT_RDWR)


def _worker_threads(source: Source) -> StartWorker:
    return lambda index, door: _WorkerThread(index, door, source)
