"""Files that cannot be written now: said once when it begins, once when it is over, on the screen and in the log."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from multiserverrl.observe.log import log

__all__ = ["Outages"]


class Outages:
    """What is out, by name; `say` shows a line on the screen."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since_s: dict[str, float] = {}

    def tell(self, name: str, number: int) -> None:
        """`number` is the errno that keeps it from being written, 0 when the last write went well."""
        self.tell_why(name, os.strerror(number) if number else "")

    def tell_why(self, name: str, why: str) -> None:
        """`why` it cannot be written, in words; empty when the last write went well."""
        if why and name not in self._since_s:
            self._since_s[name] = time.monotonic()
            log("not_written", level=logging.WARNING, what=name, why=why)
            self._say(f"{name} cannot be written: {why}; training goes on, and tries again")
        elif not why and name in self._since_s:
            out_s = time.monotonic() - self._since_s.pop(name)
            log("written_again", level=logging.WARNING, what=name, after_s=out_s)
            self._say(f"{name} can be written again, after {out_s:.0f} s")
