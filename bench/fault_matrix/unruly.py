"""What the rows about env workers share: a server of unruly envs, and faults judged as a client sees them."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving, worker_pids

__all__ = ["UNRULY", "Seat", "Told", "health_of", "quiet_serving", "seated", "told_of"]

UNRULY = "multiserverrl.testing.unruly:Unruly"


class Told(NamedTuple):
    """A fault as an answer told of it."""

    is_truncated: bool
    cause: str
    last_words: str


def told_of(answer: Any, row: int = 0) -> Told:
    """What an answer says of a fault of this row; empty where it says of none."""
    told = answer[4].get("multiserverrl", {})
    found = [str(told[name][row]) if name in told and told[f"_{name}"][row] else "" for name in ("fault", "traceback")]
    return Told(bool(answer[3][row]), *found)


class Seat:
    """A session of one env, on an env worker that it has to itself as far as single envs go."""

    def __init__(self, server: RunningServer, *, is_lent: bool, env_id: str = UNRULY, **settings: Any) -> None:
        settings = {"on_fault": "truncate", **settings}
        # messages with checksums are the front's to answer
        self.envs = VirtualVectorEnv(server.url, env_id, 1, checksum=not is_lent, **settings)

    def arm(self, how: str, *, at: int = 3, **options: Any) -> None:
        """An episode that goes wrong in step number `at`; taken up to the step before."""
        self.envs.reset(seed=1, options={"how": how, "at": at, "length": 1 << 30, **options})
        for _ in range(at - 1):
            self.step()

    def step(self) -> Any:
        return self.envs.step(np.zeros(1, np.int64))


@contextmanager
def seated(server: RunningServer, **settings: Any) -> Iterator[Seat]:
    """A seat for a `with` block."""
    seat = Seat(server, **settings)
    try:
        yield seat
    finally:
        seat.envs.close()


@contextmanager
def quiet_serving(*env_ids: str, **settings: Any) -> Iterator[tuple[RunningServer, Callable[[], int]]]:
    """A server of two env workers, and a function that gives the process id of the one that is struck, the first.

    The other one never dies. What workers print is left out: it would hide the matrix.
    """
    with contextlib.ExitStack() as stack:
        with _silence():
            server = stack.enter_context(serving(*(env_ids or (UNRULY,)), **settings))
        spared = max(worker_pids(server))
        yield server, lambda: next((pid for pid in worker_pids(server) if pid != spared), 0)


def health_of(server: RunningServer) -> Any:
    """What the server says of itself."""
    with urllib.request.urlopen(f"{server.url}/health", timeout=20) as answer:
        return json.load(answer)


@contextmanager
def _silence() -> Iterator[None]:
    """Processes that are started in the block have no stderr that anybody sees."""
    shown = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
