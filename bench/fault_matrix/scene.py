"""What rows of the fault matrix share: trajectories to compare bit for bit, and a count of what is left behind."""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium
import numpy as np


class Digest:
    """A hash over everything that a vector env answered; equal digests mean equal bits."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, *arrays: Any) -> None:
        """Add what `step` or `reset` gave."""
        for array in arrays:
            content = np.ascontiguousarray(array)
            self._hash.update(f"{content.dtype.str}{content.shape}".encode())
            self._hash.update(content.tobytes())

    def text(self) -> str:
        return self._hash.hexdigest()


def walk(
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    steps: int,
    *,
    seed: int = 0,
    before_step: Callable[[int], None] = lambda step: None,
) -> str:
    """Reset, take so many random steps, and digest all of them; `before_step(n)` may do a fault."""
    digest, choices = Digest(), np.random.default_rng(seed)
    digest.add(envs.reset(seed=seed)[0])
    number = int(envs.single_action_space.n)  # type: ignore[attr-defined]
    for step in range(steps):
        before_step(step)
        digest.add(*envs.step(choices.integers(0, number, envs.num_envs))[:4])
    return digest.text()


def local_walk(env_id: str, num_envs: int, steps: int, *, seed: int = 0) -> str:
    """The same walk over envs of this process: what every served one is compared with."""
    envs = gymnasium.make_vec(env_id, num_envs, vectorization_mode="sync")
    try:
        return walk(envs, steps, seed=seed)
    finally:
        envs.close()


class Leftovers(NamedTuple):
    """What a process and its descendants hold; compare one from before with one from after."""

    descriptors: int
    descendants: int
    blocks: int  # named shared-memory files

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.descendants} processes, {self.blocks} shared-memory files"

    def more_than(self, before: Leftovers) -> Leftovers:
        """What came on top."""
        return Leftovers(*(now - then for now, then in zip(self, before, strict=True)))

    def __bool__(self) -> bool:
        return any(count > 0 for count in self)


def leftovers() -> Leftovers:
    """What this process holds now."""
    return Leftovers(
        len(os.listdir("/proc/self/fd")), len(descendants_of(os.getpid())), len(os.listdir("/dev/shm"))
    )  # fmt: skip


def descendants_of(pid: int) -> list[int]:
    """All living processes below one, zombies left out."""
    parents: dict[int, int] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue  # it has ended since
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found, frontier = [], {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found


@contextmanager
def stderr_to(path: pathlib.Path) -> Iterator[None]:
    """What this process and its children log goes to a file meanwhile."""
    sys.stderr.flush()
    before = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables of this process and the children that it starts meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def command_of(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    try:
        return (pathlib.Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all are at most; nan without values."""
    return float(np.quantile(values, share)) if values else float("nan")
