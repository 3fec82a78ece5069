"""Histograms in the counters: one number a bucket, each twice as wide as the one before. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from multiserverrl.train.channels import BATCH_ROWS_TO, WAIT_US_TO, Counters

__all__ = ["Histogram", "quantile"]

_LIMITS = {"batch_rows_to_": BATCH_ROWS_TO, "batch_wait_us_to_": WAIT_US_TO}


class Histogram:
    """One process's counts; `name` is what its counters begin with."""

    def __init__(self, name: str, counters: Counters) -> None:
        self._limits, self._counters = _LIMITS[name], counters
        self._names = [f"{name}{limit}" for limit in self._limits]

    def add(self, value: float) -> None:
        """Count a value in the first bucket that it fits in; one beyond all in the last."""
        at = min(bisect_left(self._limits, value), len(self._limits) - 1)
        self._counters.add(self._names[at], 1)

    @staticmethod
    def read(name: str, count_of: Callable[[str], float]) -> dict[str, int]:
        """{limit of a bucket: count}, of those that hold any; for whoever reads the counters of all processes."""
        counts = {str(limit): int(count_of(f"{name}{limit}")) for limit in _LIMITS[name]}
        return {limit: count for limit, count in counts.items() if count}

    @staticmethod
    def names(name: str) -> list[str]:
        """Its counters, the smallest bucket first."""
        return [f"{name}{limit}" for limit in _LIMITS[name]]


def quantile(limits: Sequence[float], counts: Iterable[float], share: float) -> float | None:
    """The upper limit of the bucket that holds this share of all; None when there are none."""
    counts = list(counts)
    total, seen = sum(counts), 0.0
    for limit, count in zip(limits, counts, strict=True):
        seen += count
        if total and seen >= share * total:
            return limit
    return None
