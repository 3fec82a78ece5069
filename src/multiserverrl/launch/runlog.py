"""A run's numbers on their way to metrics.jsonl, evaluations.jsonl and the loggers: by which names, and how often told.

What one of them cannot take is lost there alone; that is said once when it begins and once when it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from multiserverrl.launch.outages import Outages
from multiserverrl.launch.status import Status
from multiserverrl.observe.loggers import MetricsLogger
from multiserverrl.observe.metrics import MetricsWriter
from multiserverrl.observe.rundir import RunDir
from multiserverrl.train.channels import Evaluation

__all__ = ["RunLog"]

# not among the train/ tags: the axes, and what has eval/ tags of its own
_APART = ("unix_s", "env_steps", "eval_mean", "eval_ci95", "eval_version")


class RunLog:
    """Open from the run's begin to its end; whoever makes it calls `close`."""

    def __init__(self, run_dir: RunDir, loggers: Sequence[MetricsLogger], say: Callable[[str], None]) -> None:
        self._metrics, self._evaluations = MetricsWriter(run_dir.metrics), MetricsWriter(run_dir.evaluations)
        self._loggers = loggers
        self._outages = Outages(say)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Tell the loggers the run's settings."""
        for logger in self._loggers:
            self._try(logger.name, partial(logger.begin, settings))

    def status(self, status: Status) -> None:
        """One line in metrics.jsonl, and its numbers as train/… for the loggers."""
        numbers = status.numbers()
        self._try("metrics.jsonl", partial(self._metrics.write, numbers))
        tags = {
            f"train/{name}": value
            for name, value in numbers.items()
            if name not in _APART and isinstance(value, int | float)
        }
        self._log(tags, status.env_steps)

    def evaluation(self, evaluation: Evaluation, wall_s: float) -> None:
        """One line in evaluations.jsonl, and its numbers as eval/…; `wall_s` is when its weights were published."""
        numbers = {
            "version": evaluation.version,
            "mean": evaluation.mean,
            "ci95": evaluation.ci95,
            "std": evaluation.std,
            "episodes": evaluation.episodes,
            "wall_s": round(wall_s, 4),
            "updates": evaluation.updates,
        }
        line = {"unix_s": round(time.time(), 3), "env_steps": evaluation.env_steps, **numbers}
        self._try("evaluations.jsonl", partial(self._evaluations.write, line))
        self._log({f"eval/{name}": value for name, value in numbers.items()}, evaluation.env_steps)

    def close(self) -> None:
        """Nothing more comes; a logger that sends what it has over a network is waited for, within bounds."""
        self._metrics.close()
        self._evaluations.close()
        for logger in self._loggers:
            if why := _failure(logger.close):
                self._outages.tell_why(logger.name, why)

    def _log(self, numbers: Mapping[str, float], env_steps: int) -> None:
        for logger in self._loggers:
            self._try(logger.name, partial(logger.write, numbers, env_steps))

    def _try(self, name: str, write: Callable[[], None]) -> None:
        self._outages.tell_why(name, _failure(write))


def _failure(write: Callable[[], None]) -> str:
    """Why it could not be done; empty when it was."""
    try:
        write()
    except OSError as error:
        return error.strerror or str(error)
    return ""
