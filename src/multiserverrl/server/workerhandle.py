"""What runs an env worker, a process as a rule, and how it is started."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import IO, Protocol

import msgspec

from multiserverrl.errors import PeerError
from multiserverrl.processes import PIPE, start_child
from multiserverrl.server.commands import WorkerConfig

__all__ = ["StartWorker", "WorkerDied", "WorkerHandle", "worker_processes"]


class WorkerDied(PeerError):
    """The env worker ended, or was killed past its deadline, before it answered; `output`: what it printed last."""

    code = "worker_died"

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class WorkerHandle(Protocol):
    """What runs an env worker; a `processes.Child` is one."""

    stderr: IO[bytes] | None  # what it prints; None where nobody can tell

    def exitcode(self) -> int | None:
        """None while it runs."""

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, or None when it still runs after `timeout_s`."""

    def kill(self, timeout_s: float | None = None) -> None:
        """End it, and what it started, at once; wait so long for its end."""

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""

    def memory_bytes(self) -> int | None:
        """What it holds for itself alone; None where nobody can tell."""


StartWorker = Callable[[int, socket.socket], WorkerHandle]


def worker_processes(worker_config: WorkerConfig | None = None) -> StartWorker:
    """A function that starts the env worker of an index, as a process that answers at the other end of a socket."""
    config = msgspec.msgpack.encode(worker_config or WorkerConfig())

    def start(index: int, door: socket.socket) -> WorkerHandle:
        return start_child(
            "multiserverrl.server.worker:run_worker", config,
            name=f"env worker {index}", fds=[door.fileno()], stderr=PIPE,
        )  # fmt: skip

    return start
