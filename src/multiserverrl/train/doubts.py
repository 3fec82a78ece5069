"""Which env steps are not to be believed: those that the env failed in, and those with numbers that are not finite.

They are counted and told, the first and then ever fewer of them: an env that fails at every step must not fill the log.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.observe.log import log
from multiserverrl.train.channels import Counters
from multiserverrl.train.finite import WHAT, broken_rows, env_number
from multiserverrl.train.fruitless import Fruitless
from multiserverrl.train.opening import fault_of, fault_rows

__all__ = ["Doubts"]

Array = NDArray[Any]


class Doubts:
    """Those of one group of envs."""

    def __init__(self, group: int, counters: Counters) -> None:
        self._group, self._counters = group, counters
        self._failed, self._broken = 0, 0
        self._next_told_failure, self._next_told_break = 1, 1
        self._fruitless = Fruitless(counters)

    def lost(self, error: Exception) -> None:
        """The envs were lost. EnvFault when they are again and again, and there is no step to be believed."""
        self._fruitless.again(str(error).strip().partition("\n")[0])

    def look(self, obs: Array, reward: Array, next_obs: Array, infos: dict[str, Any]) -> tuple[Array, Array]:
        """(N,) True where the step from `obs` to `next_obs` is to be believed, and True where its reward is no number.

        The rewards of the latter become 0, so that no sum over several steps is spoiled. EnvFault when all steps have
        been unbelievable for too long.
        """
        failed = fault_rows(infos, len(obs))
        if failed.any():
            self._tell_failure(infos, failed)
        seen = [rows for seen in (obs, next_obs) if (rows := broken_rows(seen)) is not None]
        unpaid = broken_rows(reward)
        no = np.zeros(len(obs), bool)
        if seen or unpaid is not None:
            unseen, unpaid = np.logical_or.reduce(seen) if seen else no, no if unpaid is None else unpaid
            broken = (unseen | unpaid) & ~failed
            if broken.any():
                self._tell_break(broken, unseen, unpaid, reward)
            failed = failed | broken
            reward[unpaid] = 0.0
        if failed.any():
            self._counters.add("faults", float(np.count_nonzero(failed)))
        if failed.all():
            self._fruitless.again(
                fault_of(infos, 0) if fault_rows(infos, len(obs))[0] else "numbers that are not finite"
            )
        return ~failed, no if unpaid is None else unpaid

    def _tell_failure(self, infos: dict[str, Any], failed: Array) -> None:
        self._failed += int(np.count_nonzero(failed))
        if self._failed >= self._next_told_failure:
            self._next_told_failure = 10 * self._failed
            why = fault_of(infos, int(np.flatnonzero(failed)[0]))
            log("env_failed", level=logging.WARNING, why=why, faults=self._failed)

    def _tell_break(self, broken: Array, unseen: Array, unpaid: Array, reward: Array) -> None:
        row, count = int(np.flatnonzero(broken)[0]), int(np.count_nonzero(broken))
        what = int(unseen[row]) + 2 * int(unpaid[row])
        self._counters.set("not_finite_env", env_number(self._group, row))
        self._counters.set("not_finite_what", what)
        self._counters.add("not_finite", count)
        self._broken += count
        if self._broken >= self._next_told_break:
            self._next_told_break = 10 * self._broken
            told = {"group": self._group, "env": row, "what": WHAT[what], "reward": float(reward[row])}
            log("env_not_finite", level=logging.WARNING, **told, steps=self._broken)
