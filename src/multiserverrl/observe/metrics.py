"""A run's numbers over time: one JSON object a line in metrics.jsonl, and rates made from running counters."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

__all__ = ["MetricsWriter", "Rates", "append_whole", "read_metrics"]


class MetricsWriter:
    """Appends to metrics.jsonl; a line is whole or absent, whoever is killed when and however full the disk is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def write(self, numbers: Mapping[str, Any]) -> None:
        """Append one line; numbers that JSON has no word for (NaN, infinities) become null.

        After an OSError nothing of it is there, and the next one may be tried.
        """
        finite = {name: _finite(value) for name, value in numbers.items()}
        line = json.dumps(finite, allow_nan=False).encode() + b"\n"
        if self._file is None:
            _end_last_line(self._path)
            self._file = self._path.open("ab", buffering=0)
        append_whole(self._file, line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Rates:
    """Turns counters that only grow into numbers per second over the time between two calls."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, float]] = {}  # name → (time, count)

    def per_s(self, name: str, count: float, now_s: float) -> float:
        """The rate since the last call with this name; 0.0 at the first, and where a process began anew lower."""
        before_s, before = self._before.get(name, (now_s, count))
        self._before[name] = (now_s, count)
        return max(count - before, 0.0) / (now_s - before_s) if now_s > before_s else 0.0


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics.jsonl; a last line that was cut off is left out."""
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]


def append_whole(file: BinaryIO, content: bytes) -> None:
    """Append to an unbuffered file; after an OSError nothing of it is there."""
    end = os.fstat(file.fileno()).st_size
    try:
        while content:
            content = content[file.write(content) :]
    except OSError:
        file.truncate(end)
        raise


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _end_last_line(path: Path) -> None:
    """Cut a half-written last line off, so that the next one stays readable."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
