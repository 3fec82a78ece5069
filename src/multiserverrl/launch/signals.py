"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from multiserverrl.launch.bells import Bell

__all__ = ["Interrupts", "interrupts"]


class Interrupts:
    """`signum` is the signal that came, or None. Until `watch` and from the second on it raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._bell: Bell | None = None

    def watch(self, bell: Bell | None) -> None:
        """From now on the first signal rings this bell; None: it raises, as before."""
        self._bell = bell

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        is_first, self.signum = self.signum is None, self.signum or signum
        if self._bell is None or not is_first:
            raise KeyboardInterrupt
        self._bell.ring()


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
