"""Door-bells: how a process that waits for shared memory to change is woken. Nobody spins.

A bell is a pipe whose ends every process of the run inherits. Ringing writes a byte; the one
process that waits drains it and looks again. The launcher's signals (gate, stop) are pipes that
nobody drains: once rung, they wake everyone who waits, now and later.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

__all__ = ["Bell", "Waiter", "new_bell", "wait_for_any"]

Found = TypeVar("Found")


class Bell(msgspec.Struct, frozen=True):
    """Plain data: two descriptors, with the same numbers in every process of the run."""

    read_fd: int
    write_fd: int

    def ring(self) -> None:
        """Wake the one who waits, or let it not sleep at all. Never blocks."""
        with contextlib.suppress(BlockingIOError):  # full: it rings already
            os.write(self.write_fd, b"\0")

    def is_rung(self) -> bool:
        """Whether it was rung and nobody drained it."""
        return bool(wait_for_any([self], 0.0))

    def drain(self) -> None:
        """Forget all rings so far: what they told of is visible by now."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.read_fd, 65536)

    def close(self) -> None:
        """Close both ends in this process."""
        os.close(self.read_fd)
        os.close(self.write_fd)


def new_bell() -> Bell:
    """A bell that children inherit when both descriptors are passed to them."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    return Bell(read_fd, write_fd)


def wait_for_any(bells: list[Bell], timeout_s: float | None) -> list[Bell]:
    """The bells that ring, as soon as one does; none after `timeout_s` (None: no limit)."""
    poll = select.poll()
    for bell in bells:
        poll.register(bell.read_fd, select.POLLIN)
    rung = {fd for fd, _ in poll.poll(None if timeout_s is None else max(timeout_s, 0.0) * 1e3)}
    return [bell for bell in bells if bell.read_fd in rung]


class Waiter:
    """One process's wait at one bell; the run's stop ends every wait at once."""

    def __init__(self, bell: Bell, stop: Bell) -> None:
        self._bell = bell
        self._stop_fd = stop.read_fd
        self._poll = select.poll()
        self._poll.register(bell.read_fd, select.POLLIN)
        self._poll.register(stop.read_fd, select.POLLIN)

    def until(self, look: Callable[[], Found | None], timeout_s: float) -> Found | None:
        """What `look` finds, looking again at each ring; None after `timeout_s` or when the run stops."""
        found = look()
        if found is not None or timeout_s <= 0.0:
            return found
        deadline_s = time.monotonic() + timeout_s
        while (remaining_s := deadline_s - time.monotonic()) > 0.0:
            rung = [fd for fd, _ in self._poll.poll(remaining_s * 1e3)]
            if self._bell.read_fd in rung:
                self._bell.drain()
            found = look()
            if found is not None or self._stop_fd in rung:
                return found
        return None
