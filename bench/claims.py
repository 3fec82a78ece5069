"""A row of `train.py`: what a seed gives, what is asked of all seeds, and how both are shown. Nothing is run here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Claim", "Numbers", "Row", "at_least", "at_most", "heading", "markdown", "seed_line", "seeds_of", "verdict"]

Numbers = dict[str, float]  # of one seed, by column; `solved` is 1.0 or 0.0
OF = {"median": statistics.median, "least": min, "most": max}


@dataclass(frozen=True)
class Claim:
    """What is asked of a column: its median over the seeds, or its least or most, is within a limit."""

    column: str
    limit: float
    is_at_most: bool
    of: str = "median"

    def values(self, runs: Sequence[Numbers]) -> list[float]:
        """One a seed; a seed without the column is as bad as can be."""
        missing = math.inf if self.is_at_most else -math.inf
        return [run.get(self.column, missing) for run in runs]

    def holds(self, runs: Sequence[Numbers]) -> bool:
        found: float = OF[self.of](self.values(runs))
        return found <= self.limit if self.is_at_most else found >= self.limit

    @property
    def asked(self) -> str:
        """As in "median <= 1.5"."""
        return f"{self.of} {'<=' if self.is_at_most else '>='} {self.limit:g}"


def at_most(column: str, limit: float, of: str = "median") -> Claim:
    return Claim(column, limit, True, of)


def at_least(column: str, limit: float, of: str = "median") -> Claim:
    return Claim(column, limit, False, of)


@dataclass(frozen=True)
class Row:
    """`measure` is called once a seed."""

    name: str
    what: str
    seeds: str
    columns: tuple[str, ...]
    claims: tuple[Claim, ...]
    measure: Callable[[int], Numbers]

    def holds(self, runs: Sequence[Numbers]) -> bool:
        """Whether these seeds are all that is asked."""
        return all(claim.holds(runs) for claim in self.claims)


def seeds_of(text: str) -> list[int]:
    """ "0-4" or "7"; ValueError where it is neither."""
    first, _, last = text.partition("-")
    last = last or first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError(f"{text!r} names no seeds: write first-last, as in 0-4")
    return list(range(int(first), int(last) + 1))


def heading(row: Row) -> str:
    return _line(row, "seed", row.columns)


def seed_line(row: Row, seed: int, run: Numbers) -> str:
    return _line(row, str(seed), [_number(run.get(column)) for column in row.columns])


def verdict(row: Row, runs: Sequence[Numbers]) -> str:
    """What was found of each claim beside what was asked."""
    found = [
        f"  {claim.column:>12} {_range(claim.values(runs)):<28} {claim.asked:<16} {_word(claim.holds(runs))}"
        for claim in row.claims
    ]
    return "\n".join([*found, f"{row.name}: {_word(row.holds(runs))}"])


def markdown(rows: Sequence[tuple[Row, Sequence[Numbers]]]) -> str:
    """A table of all claims."""
    lines = ["| row | seeds | figure | median (least–most) | asked | |", "|---|---|---|---|---|---|"]
    for row, runs in rows:
        for claim in row.claims:
            cells = row.name, str(len(runs)), claim.column, _range(claim.values(runs)), claim.asked
            lines.append(f"| {' | '.join(cells)} | {_word(claim.holds(runs))} |")
    return "\n".join(lines)


def _line(row: Row, seed: str, cells: Sequence[str]) -> str:
    return " ".join(
        [f"{seed:>6}", *(f"{cell:>{max(9, len(name))}}" for name, cell in zip(row.columns, cells, strict=True))]
    )


def _range(values: Sequence[float]) -> str:
    low, middle, high = (_number(of(values)) for of in (min, statistics.median, max))
    return f"{middle} ({low}–{high})"


def _number(value: float | None) -> str:
    """Three digits or more; what is not there is a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _word(holds: bool) -> str:
    return "holds" if holds else "SHORT"
