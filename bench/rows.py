"""What a row of the table is, and how it is shown. A module that has rows keeps them in a list `ROWS`.

    ROWS = [Row("W1", "one CartPole env, split", "raw TCP", 0.65, measure_one_start)]

`measure_one_start(settings)` brings all servers up, measures, takes them down, and returns a `Start`;
it is called once for every start. It raises `Unavailable` where the row cannot be measured on this machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Unavailable(Exception):
    """The row cannot be measured here; the text says why."""


class Settings(NamedTuple):
    """What every row is told."""

    seconds: float  # how long each side is measured in a start, all turns together
    client_core: int
    other_core: int

    def server_core(self, where: str) -> int:
        """The core of a server that is placed "same" (as the client) or "split"; Unavailable without a second core."""
        if where == "same":
            return self.client_core
        if self.other_core == self.client_core:
            raise Unavailable("it needs two cores")
        return self.other_core


class Part(NamedTuple):
    """Both sides' rates and their ratio, or what stands for them."""

    reference: float
    ours: float
    figure: float


def ratio(reference: float, ours: float) -> Part:
    """The usual figure."""
    return Part(reference, ours, ours / reference)


@dataclass(frozen=True)
class Start:
    """What one start of the servers gave; `curve` has further lines to show below the row, by their names."""

    whole: Part
    curve: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the table. `scale` and `unit`: how the reference and our own value are shown."""

    name: str
    what: str
    against: str
    wanted: float | None  # None: for comparison
    measure: Callable[[Settings], Start]
    unit: str = "k steps/s"
    scale: float = 1e3
    is_at_most: bool = False
    digits: int = 3

    def verdict(self, figure: float) -> str:
        """ok, or short."""
        if self.wanted is None:
            return "-"
        return "ok" if (figure <= self.wanted if self.is_at_most else figure >= self.wanted) else "short"


_WIDTHS = (5, 42, 26, 18, 18, 22, 7, 6, 6)


def heading() -> str:
    """The table's first line."""
    return _line("row", "what", "against", "reference", "ours", "median (range)", "wanted", "others", "")


def shown(row: Row, starts: Sequence[Start], strangers: float = 0.0) -> str:
    """The row's line, and one for each point of its curve; `strangers`: what else the machine did meanwhile."""
    middle = statistics.median(start.whole.figure for start in starts)
    wanted = "" if row.wanted is None else f"{'<=' if row.is_at_most else '>='} {row.wanted:g}"
    ends = wanted, f"{strangers:.0%}", row.verdict(middle)
    lines = [_line(row.name, row.what, row.against, *_cells(row, [start.whole for start in starts]), *ends)]
    for name in starts[0].curve:
        cells = _cells(row, [start.curve[name] for start in starts])
        lines += [_line("", f"  {name}", "", *cells)]
    return "\n".join(lines)


def left_out(row: Row, why: str) -> str:
    """The line of a row that could not be measured."""
    return _line(row.name, row.what, row.against, f"left out: {why}")


def _cells(row: Row, parts: Sequence[Part]) -> tuple[str, str, str]:
    references, ours, figures = zip(*parts, strict=True)
    reference = _middle(references, row) if any(references) else "-"
    return reference, _middle(ours, row), _range(figures, row.digits)


def _middle(values: Sequence[float], row: Row) -> str:
    return f"{statistics.median(values) / row.scale:.4g} {row.unit}"


def _range(values: Sequence[float], digits: int) -> str:
    low, middle, high = (f"{of(values):.{digits}f}" for of in (min, statistics.median, max))
    return f"{middle} ({low}–{high})"


def _line(*cells: str) -> str:
    return " ".join(f"{cell:{width}}" for cell, width in zip(cells, _WIDTHS, strict=False)).rstrip()
