"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from multiserverrl.launch.bells import Bell

__all__ = ["Interrupts", "interrupts"]


SAME_S = 0.5  # one Ctrl-C may come twice: from the terminal, and passed on by a program between (make, timeout)


class Interrupts:
    """`signum` is the signal that came, or None. Until `watch` and from the second on it raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._came_at_s = 0.0
        self._bell: Bell | None = None

    def watch(self, bell: Bell | None) -> None:
        """From now on the first signal rings this bell; None: it raises, as before."""
        self._bell = bell

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self.signum is None:
            self.signum, self._came_at_s = signum, now_s
            if self._bell is not None:
                self._bell.ring()
                return
        elif now_s - self._came_at_s < SAME_S:
            return
        raise KeyboardInterrupt


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Catch both signals inside the block, in the main thread."""
    found = Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, found._on_signal) for number in numbers}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
