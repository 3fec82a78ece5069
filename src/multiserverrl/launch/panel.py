"""The live view of a run: a compact panel, drawn from a status alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from multiserverrl.launch.status import Status
from multiserverrl.train.beats import Doing

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["History", "panel_of", "sparkline", "with_interval"]

NARROW = 60  # columns; below, what can be left out is
WIDEST = 100
KEPT = 400  # points of a curve
_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
_AT = {
    Doing.NOTHING: "is away",
    Doing.OPENING_ENVS: "opens envs",
    Doing.WAITING_FOR_ACTIONS: "waits for actions",
    Doing.STEPPING: "steps envs",
    Doing.WAITING_FOR_LEARNER: "waits for the learner",
    Doing.LENDING_ENVS: "lends its envs",
    Doing.RESTING: "rests at a barrier",
    Doing.FINISHED: "has finished",
}


class History:
    """The curves so far. When there are too many points, neighbours are joined: a curve is always of the whole run."""

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.evaluations: list[float] = []
        self._version: int | None = None
        self._every, self._seen = 1, 0

    def add(self, status: Status) -> None:
        """Take in what is new."""
        if status.mean_return is not None and math.isfinite(status.mean_return):
            self._seen += 1
            if self._seen % self._every == 0:
                self.returns.append(status.mean_return)
            if len(self.returns) > KEPT:
                self.returns, self._every = self.returns[1::2], 2 * self._every
        if status.eval_mean is not None and status.eval_version != self._version:
            self._version = status.eval_version
            self.evaluations = [*self.evaluations, status.eval_mean][-KEPT:]


def sparkline(values: Sequence[float], width: int, goal: float | None = None, bars: str = _BARS) -> str:
    """At most `width` bars from the least value to the largest (or to the goal, where that is above)."""
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [round(index * len(values) / count) for index in range(count + 1)]
    means = [math.fsum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    least = min(means)
    span = max([*means, *([] if goal is None else [goal])]) - least
    return "".join(bars[min(int((mean - least) / span * len(bars)), len(bars) - 1) if span else 0] for mean in means)


def panel_of(status: Status, history: History, width: int, is_utf8: bool = True) -> RenderableType:
    """The panel for a terminal of `width` columns."""
    from rich.box import ASCII, ROUNDED
    from rich.panel import Panel
    from rich.table import Table

    width = min(width, WIDEST)
    grid = Table.grid(padding=(0, 1), expand=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _rows(status, history, width, is_utf8):
        grid.add_row(name, value)
    for warning in status.standing:
        since_s = status.monotonic_s - warning.since_s
        grid.add_row("[bold red]warning[/]", f"[red]{_plain(warning.text)}[/] (since {_span(since_s)})")
    title = f"training {_span(status.wall_s)}"
    border = "red" if status.standing else "blue"
    return Panel(
        grid, title=title, title_align="left", width=width, border_style=border, box=ROUNDED if is_utf8 else ASCII
    )


def _rows(status: Status, history: History, width: int, is_utf8: bool) -> Iterable[tuple[str, str]]:
    is_narrow = width < NARROW
    bars = _BARS if is_utf8 else _PLAIN_BARS
    curve = max(min(width - 40, 40), 8)
    goals = status.goals
    yield "env steps", f"{status.env_steps:,} ({status.env_steps_per_s:,.0f}/s), {status.episodes:,} episodes"
    yield "updates", f"{status.updates:,} ({status.updates_per_s:,.0f}/s), loss {status.loss:.4g}"
    if goals.replay_ratio is not None:
        yield "replay ratio", f"{status.replay_ratio:.3f} of {goals.replay_ratio:g} asked for"
    if goals.buffer_size:
        share = min(status.replay_size / goals.buffer_size, 1.0)
        yield "replay", f"{_bar(share, 10 if is_narrow else 20, is_utf8)} {share:.0%} of {goals.buffer_size:,}"
    if goals.has_epsilon:
        yield "ε" if is_utf8 else "epsilon", f"{status.epsilon:.3f}"
    if status.mean_return is not None:
        yield "return", f"{sparkline(history.returns, curve, bars=bars)} {status.mean_return:.1f}"
    goal = "" if goals.stop_at_return is None else f", goal {goals.stop_at_return:g}"
    if status.eval_mean is not None:
        line = sparkline(history.evaluations, curve, goals.stop_at_return, bars)
        yield "evaluation", f"{line} {with_interval(status, is_utf8)}{goal}"
    elif goal:
        yield "evaluation", f"none yet{goal}"
    if status.confirming:
        yield "confirming", f"{status.confirming} episodes more"
    behind = max(status.weights_version - status.acted_version, 0)
    yield "weights", f"{status.weights_version:,}, acting with {status.acted_version:,} ({behind:,} behind)"
    if status.batch_rows is not None:
        yield "inference", f"{status.batch_rows:.1f} observations a batch{_waits(status)}"
    for name, shares in status.shares.items():
        yield name, _explorer(shares, 1 if is_narrow else 3)
    if status.faults:
        yield "faults", f"[yellow]{status.faults:,}[/] env steps were not learned from"


def _waits(status: Status) -> str:
    if status.batch_wait_us is None or status.batch_wait_99_us is None:
        return ""
    half_ms, nearly_all_ms = status.batch_wait_us / 1e3, status.batch_wait_99_us / 1e3
    return f", half complete within {half_ms:.3g} ms, 99% within {nearly_all_ms:.3g} ms"


def _explorer(shares: Mapping[Doing, float], most: int) -> str:
    told = [f"{_AT.get(doing, doing.name.lower())} {share:.0%}" for doing, share in shares.items()]
    return ", ".join(told[:most])


def with_interval(status: Status, is_utf8: bool = True) -> str:
    """450.0 ± 12.3"""
    ci95 = status.eval_ci95
    if ci95 is None or not math.isfinite(ci95):
        return f"{status.eval_mean:.1f}"
    return f"{status.eval_mean:.1f} {'±' if is_utf8 else '+-'} {ci95:.1f}"


def _bar(share: float, width: int, is_utf8: bool) -> str:
    full, empty = ("█", "░") if is_utf8 else ("#", ".")
    return full * round(share * width) + empty * (width - round(share * width))


def _span(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 07 min"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _plain(text: str) -> str:
    """Text that rich takes as it stands."""
    from rich.markup import escape

    return escape(text)
