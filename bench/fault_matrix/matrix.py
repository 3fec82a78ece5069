"""What a row of the fault matrix is, and how it is shown. A module that has rows keeps them in a list `ROWS`.

    ROWS = [FaultRow("7", "env worker stopped", "the step deadline, then a fault; never a hang", stop_workers)]

`stop_workers(effort)` does the fault to real processes, as often as the effort says, takes everything down again,
and returns what it has `Seen`. It raises `Unavailable` where it cannot be done on this machine. A wrong answer
is no exception: it makes `holds` False, and `what` says how many there were. `holds` is about behaviour alone, on a
machine however slow: times, rates and sizes that are promised are its `figures`, which only a quiet machine can keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Unavailable(Exception):
    """The fault cannot be done here; the text says why."""


class Effort(NamedTuple):
    """How much of a row is done: `quick` takes some seconds, the whole is what docs/reliability.md has.

    Figures are judged where the machine is known to do nothing else.
    """

    is_whole: bool
    seed: int = 0
    judges_figures: bool = False

    def times(self, quick: int, whole: int) -> int:
        """One of the two."""
        return whole if self.is_whole else quick


class Figure(NamedTuple):
    """A time, a rate or a size, with what is promised of it; made by `at_most` and `at_least`."""

    name: str
    value: float
    limit: float
    unit: str
    is_least: bool

    @property
    def is_short(self) -> bool:
        """Whether it is worse than promised; nan is."""
        return not (self.value >= self.limit if self.is_least else self.value <= self.limit)

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} of {self.limit:g} {self.unit}"


def at_most(limit: float, unit: str, name: str, value: float) -> Figure:
    """A figure of which little is good."""
    return Figure(name, value, limit, unit, is_least=False)


def at_least(limit: float, unit: str, name: str, value: float) -> Figure:
    """A figure of which much is good."""
    return Figure(name, value, limit, unit, is_least=True)


class Seen(NamedTuple):
    """What happened: how often the fault was done ("100 kills"), what was seen, and whether the promise held."""

    done: str
    what: str
    holds: bool
    figures: tuple[Figure, ...] = ()


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
    judges_figures: bool = False

    @property
    def short(self) -> list[Figure]:
        """The figures that are worse than promised."""
        return [figure for figure in self.seen.figures if figure.is_short] if self.seen else []

    @property
    def verdict(self) -> str:
        """left out, BROKEN, holds, or where a figure is short that was not to be judged: holds, slow."""
        if self.seen is None:
            return "left out"
        if not self.seen.holds or (self.judges_figures and self.short):
            return "BROKEN"
        return "holds, slow" if self.short else "holds"


def outcome_of(row: FaultRow, effort: Effort) -> Outcome:
    """Run one row. An exception that it did not expect is a broken promise, too."""
    began = time.monotonic()
    try:
        seen, why = row.run(effort), ""
    except Unavailable as error:
        seen, why = None, str(error)
    except Exception as error:
        seen, why = Seen("stopped", f"{type(error).__name__}: {error}", False), ""
    return Outcome(row, seen, why, time.monotonic() - began, effort.judges_figures)


def as_text(outcome: Outcome) -> str:
    """Some lines for a terminal."""
    row, seen = outcome.row, outcome.seen
    lines = [
        f"{row.name:4} {outcome.verdict:11} {row.fault}",
        f"       promised: {row.promise}",
        f"       seen:     {seen.what}" if seen else f"       left out: {outcome.why}",
        f"       slow:     {_shown(outcome.short)}" if outcome.short else "",
        f"       done:     {seen.done} in {outcome.took_s:.0f} s" if seen else "",
    ]
    return "\n".join(line for line in lines if line)


def as_markdown(outcome: Outcome) -> str:
    """One line of the table in docs/reliability.md."""
    row, seen = outcome.row, outcome.seen
    done, what = (seen.done, seen.what) if seen else ("–", f"left out: {outcome.why}")
    verdict = ": ".join(filter(None, [outcome.verdict, _shown(outcome.short)]))
    return f"| {row.name} | {row.fault} | {done} | {row.promise} | {what} | {verdict} |"


def as_summary(outcomes: list[Outcome]) -> str:
    """The last lines of all: how many rows there were, and each that does anything but hold, the broken ones last."""
    verdicts = ("holds", "left out", "holds, slow", "BROKEN")
    by_verdict = {verdict: [one for one in outcomes if one.verdict == verdict] for verdict in verdicts}
    counts = "; ".join(f"{len(alike)} {verdict}" for verdict, alike in by_verdict.items() if alike)
    told = [_as_line(one) for verdict in verdicts[1:] for one in by_verdict[verdict]]
    return "\n".join([f"{len(outcomes)} rows: {counts}", *told])


def _as_line(outcome: Outcome) -> str:
    """One line that says what is the matter with a row."""
    why = outcome.why or _shown(outcome.short)
    if outcome.seen and not outcome.seen.holds:
        why = "; ".join(filter(None, [outcome.seen.what, why]))
    return f"{outcome.verdict} {outcome.row.name}: {outcome.row.fault}: {why}"


def _shown(figures: list[Figure]) -> str:
    return ", ".join(map(str, figures))
