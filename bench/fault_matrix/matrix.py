"""What a row of the fault matrix is, and how it is shown. A module that has rows keeps them in a list `ROWS`.

    ROWS = [FaultRow("7", "env worker stopped", "the step deadline, then a fault; never a hang", stop_workers)]

`stop_workers(effort)` does the fault to real processes, as often as the effort says, takes everything down again,
and returns what it `Seen`. It raises `Unavailable` where it cannot be done on this machine. A wrong answer
is no exception: it makes `holds` False, and `what` says how many there were.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Unavailable(Exception):
    """The fault cannot be done here; the text says why."""


class Effort(NamedTuple):
    """How much of a row is done: `quick` takes 20 s at most, the whole is what docs/reliability.md has."""

    is_whole: bool
    seed: int = 0

    def times(self, quick: int, whole: int) -> int:
        """One of the two."""
        return whole if self.is_whole else quick


class Seen(NamedTuple):
    """What happened: how often the fault was done ("100 kills"), what was seen, and whether the promise held."""

    done: str
    what: str
    holds: bool


@dataclass(frozen=True)
class FaultRow:
    """One line of the matrix."""

    name: str
    fault: str
    promise: str
    run: Callable[[Effort], Seen]
    needs_root: bool = False


class Outcome(NamedTuple):
    """A row that was run; `seen` is None where it could not be done, `why` says why."""

    row: FaultRow
    seen: Seen | None
    why: str
    took_s: float

    @property
    def verdict(self) -> str:
        """holds, BROKEN, or left out."""
        if self.seen is None:
            return "left out"
        return "holds" if self.seen.holds else "BROKEN"


def outcome_of(row: FaultRow, effort: Effort) -> Outcome:
    """Run one row. An exception that it did not expect is a broken promise, too."""
    began = time.monotonic()
    try:
        seen, why = row.run(effort), ""
    except Unavailable as error:
        seen, why = None, str(error)
    except Exception as error:
        seen, why = Seen("stopped", f"{type(error).__name__}: {error}", False), ""
    return Outcome(row, seen, why, time.monotonic() - began)


def as_text(outcome: Outcome) -> str:
    """Four lines for a terminal."""
    row, seen = outcome.row, outcome.seen
    lines = [
        f"{row.name:4} {outcome.verdict:8} {row.fault}",
        f"       promised: {row.promise}",
        f"       seen:     {seen.what}" if seen else f"       left out: {outcome.why}",
        f"       done:     {seen.done} in {outcome.took_s:.0f} s" if seen else "",
    ]
    return "\n".join(line for line in lines if line)


def as_markdown(outcome: Outcome) -> str:
    """One line of the table in docs/reliability.md."""
    row, seen = outcome.row, outcome.seen
    done, what = (seen.done, seen.what) if seen else ("–", f"left out: {outcome.why}")
    return f"| {row.name} | {row.fault} | {done} | {row.promise} | {what} | {outcome.verdict} |"
