"""A real env server for a test: own processes, a free loopback port, always stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multiserverrl.server.config import ServerConfig
from multiserverrl.server.run import RunningServer, start_server

__all__ = ["children_of", "serving", "worker_pids"]


@contextmanager
def serving(*env_ids: str, **settings: Any) -> Iterator[RunningServer]:
    """Serve `env_ids` for the length of a `with` block; `settings` are ServerConfig's. Call it from the main thread.

        with serving("CartPole-v1", count=8) as server:
            env = VirtualEnv(server.url)

    Without settings: 127.0.0.1, a free port, 8 environments on 2 env workers.
    """
    server = start_server(
        ServerConfig(**{"host": "127.0.0.1", "port": 0, "count": 8, "workers": 2, **settings, "env_ids": env_ids})
    )
    try:
        yield server
    finally:
        server.stop()


def children_of(pid: int) -> list[int]:
    """The process ids of a process's children, oldest first (Linux)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return sorted(found)


def worker_pids(server: RunningServer) -> list[int]:
    """The env workers of all fronts of a server."""
    return [child for front in server.pids() for child in children_of(front) if os.path.exists(f"/proc/{child}")]
