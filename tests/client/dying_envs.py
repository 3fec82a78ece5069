"""Served by tests that put this folder on the path of the env workers."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from multiserverrl.server.shard import Shard
from multiserverrl.testing.envs import Scripted


class DiesBehind(Scripted):
    """In step `options["behind"]` its worker dies when the answer is sent, before the observations are written."""

    def step(self, action: np.int64) -> Any:
        told = super().step(action)
        if self.steps == self.options.get("behind"):
            Shard.catch_up = lambda shard: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        return told
