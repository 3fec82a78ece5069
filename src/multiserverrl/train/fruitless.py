"""When envs are given up: all that they are asked fails, and no step of the whole run is to be learned from."""

from __future__ import annotations

import time
from collections.abc import Callable

from multiserverrl.errors import EnvFault
from multiserverrl.train.channels import Counters

__all__ = ["Fruitless"]

LEAST_TRIES, LEAST_S = 20, 60.0  # both: a server that starts again takes few tries, envs that fail at once little time


class Fruitless:
    """What one group of envs was asked in vain, one after another: steps, and to be opened again."""

    def __init__(self, counters: Counters, clock: Callable[[], float] = time.monotonic) -> None:
        self._counters, self._clock = counters, clock
        self._env_steps, self._tries, self._since_s = -1.0, 0, 0.0

    def again(self, why: str) -> None:
        """Once more nothing came of it. EnvFault when that is so for too long; any explorer's step begins it anew."""
        env_steps, now_s = self._counters.get("env_steps"), self._clock()
        if env_steps != self._env_steps:
            self._env_steps, self._tries, self._since_s = env_steps, 0, now_s
        self._tries += 1
        if self._tries >= LEAST_TRIES and now_s - self._since_s >= LEAST_S:
            raise EnvFault(
                f"no env step could be learned from for {now_s - self._since_s:.0f} s: the envs failed {self._tries} "
                f"times in a row, the last time: {why}"
            )
