"""What the launcher and the processes of a run tell each other: ready, go, stop, counters, evaluations.

Everything is a number in shared memory that one process alone writes, so a process that is killed
leaves nothing half-told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from multiserverrl.launch.bells import Bell, wait_for_any
from multiserverrl.train.channels import COUNTERS, Evaluation

__all__ = ["CounterTable", "EvaluationLog", "RunControl", "control_fields"]

Array = NDArray[Any]
_COLUMNS = {name: column for column, name in enumerate(COUNTERS)}
_EVALUATIONS = 64  # kept for the launcher, which looks at every ring of its bell
_LAST_WORDS_BYTES = 4096
_EVALUATION_NUMBERS = ("version", "mean", "std", "episodes", "published_at_s", "env_steps", "updates")


def control_fields(rows: int) -> dict[str, tuple[DTypeLike, tuple[int, ...]]]:
    """The arrays of this channel; every process of the run has a row of its own."""
    return {
        "stop": (np.int64, (1,)),
        "ready": (np.int64, (rows, 8)),  # a cache line each
        "last_words": (np.uint8, (rows, _LAST_WORDS_BYTES)),
        "counters": (np.float64, (rows, -(-len(COUNTERS) // 8) * 8)),
        "evaluations": (np.float64, (_EVALUATIONS, len(_EVALUATION_NUMBERS))),
        "reported": (np.int64, (1,)),
    }


class RunControl:
    """A process's end (`Control`), and with the same arrays the launcher's."""

    def __init__(self, views: Mapping[str, Array], row: int, launcher: Bell, gate: Bell, stop: Bell) -> None:
        self._stop_flag, self._ready, self._last_words = views["stop"], views["ready"], views["last_words"]
        self._row = row
        self._launcher, self._gate, self._stop = launcher, gate, stop

    def is_stopping(self) -> bool:
        """See `Control.is_stopping`."""
        return bool(self._stop_flag[0])

    def wait_until_started(self) -> bool:
        """See `Control.wait_until_started`; a launcher that dies takes its children with it."""
        wait_for_any([self._gate, self._stop], None)
        return not self.is_stopping()

    def ready(self) -> None:
        """See `Control.ready`."""
        self._ready[self._row, 0] = 1
        self._launcher.ring()

    def say_last_words(self, code: str, message: str) -> None:
        """Leave behind why this process fails: an error's code ("" for none of ours) and its message."""
        words = f"{code}\n{message}".encode()[:_LAST_WORDS_BYTES]
        self._last_words[self._row, : len(words)] = list(words)

    def last_words(self, row: int) -> tuple[str, str] | None:
        """The launcher's: code and message that a process left behind; None when it had no time for any."""
        text = self._last_words[row].tobytes().rstrip(b"\0").decode(errors="replace")
        code, separator, message = text.partition("\n")
        return (code, message) if separator else None

    def forget(self, row: int) -> None:
        """The launcher's: a process is born anew in this row; its counters go on."""
        self._ready[row, 0] = 0
        self._last_words[row] = 0

    def are_ready(self, rows: Sequence[int]) -> bool:
        """The launcher's: whether all these processes said so."""
        return bool(self._ready[list(rows), 0].all())

    def start(self) -> None:
        """The launcher's: open the gate, for good."""
        self._gate.ring()

    def stop(self) -> None:
        """The launcher's: end the run; every wait ends now."""
        self._stop_flag[0] = 1
        self._stop.ring()
        self._gate.ring()


class CounterTable:
    """One row for each process (`Counters`); a process that is started again goes on with its row."""

    def __init__(self, views: Mapping[str, Array], row: int) -> None:
        self._table = views["counters"]
        self._row: Array = self._table[row]

    def add(self, name: str, amount: float) -> None:
        """See `Counters.add`; KeyError for a name that COUNTERS does not have."""
        self._row[_COLUMNS[name]] += amount

    def set(self, name: str, value: float) -> None:
        """See `Counters.set`."""
        self._row[_COLUMNS[name]] = value

    def get(self, name: str) -> float:
        """See `Counters.get`."""
        return float(self._table[:, _COLUMNS[name]].sum())

    def at(self, row: int, name: str) -> float:
        """The launcher's: the number of one process."""
        return float(self._table[row, _COLUMNS[name]])

    def largest(self, name: str) -> float:
        """The largest over all processes."""
        return float(self._table[:, _COLUMNS[name]].max())

    def smallest(self, name: str) -> float | None:
        """The smallest over the processes that have set it; None when none has."""
        column = self._table[:, _COLUMNS[name]]
        found = column[column != 0.0]
        return float(found.min()) if len(found) else None


class EvaluationLog:
    """The evaluator's reports (`EvaluationWriter`) and, at the launcher, their reader."""

    def __init__(self, views: Mapping[str, Array], launcher: Bell) -> None:
        self._rows, self._reported = views["evaluations"], views["reported"]
        self._launcher = launcher
        self._read = int(self._reported[0])

    def report(self, evaluation: Evaluation) -> None:
        """See `EvaluationWriter.report`; the single returns stay behind."""
        reported = int(self._reported[0])
        self._rows[reported % _EVALUATIONS] = [getattr(evaluation, name) for name in _EVALUATION_NUMBERS]
        self._reported[0] = reported + 1
        self._launcher.ring()

    def unread(self) -> list[Evaluation]:
        """The launcher's: reports since the last call, oldest first."""
        reported = int(self._reported[0])
        first = max(self._read, reported - _EVALUATIONS)
        self._read = reported
        return [_evaluation(self._rows[number % _EVALUATIONS]) for number in range(first, reported)]


def _evaluation(row: Array) -> Evaluation:
    version, mean, std, episodes, published_at_s, env_steps, updates = row.tolist()
    return Evaluation(
        version=int(version),
        mean=mean,
        std=std,
        episodes=int(episodes),
        returns=[],
        published_at_s=published_at_s,
        env_steps=int(env_steps),
        updates=int(updates),
    )
