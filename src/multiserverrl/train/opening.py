"""Opening envs, and opening them again when they were lost: with back-off, a limit, and an ear for the stop."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from multiserverrl.errors import ConfigError, EnvFault, MultiServerRLError, ServerFull, ServerUnreachable, SessionLost
from multiserverrl.observe.log import log
from multiserverrl.train.channels import Control
from multiserverrl.train.task import Task

__all__ = [
    "LOST",
    "Stopped",
    "close_quietly",
    "fault_of",
    "fault_rows",
    "open_envs",
    "reset_envs",
    "sleep_unless_stopping",
    "true_next_obs",
]

Array = NDArray[Any]
VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]
LOST = (SessionLost, ServerUnreachable, ServerFull, EnvFault)  # what opening the envs again can mend
FIRST_WAIT_S, LONGEST_WAIT_S, TICK_S = 0.1, 2.0, 0.05
MOST_FAULTS = 8  # of envs that are reached, and fail when they are made or reset: time does not mend these


class Stopped(Exception):
    """The run is to end, said where a wait was cut short. Never leaves the room."""


def open_envs(
    make_envs: Callable[[], VectorEnv], seed: int, task: Task, patience_s: float, control: Control
) -> tuple[VectorEnv, Array]:
    """Envs and their first observations. A server that is gone is waited for, asked again with back-off and jitter.

    Raises the last error when `patience_s` are over, or envs fail again and again; Stopped when the run ends.
    """
    began_s, wait_s, faults, failures = time.monotonic(), FIRST_WAIT_S, 0, 0
    while True:
        envs = None
        try:
            envs = make_envs()
            _require_same_step(envs)
            obs = reset_envs(envs, seed, task)
        except LOST as error:
            close_quietly(envs)
            failures, faults = failures + 1, faults + isinstance(error, EnvFault)
            if faults == MOST_FAULTS or time.monotonic() - began_s >= patience_s:
                raise
            if failures == 1:
                log("envs_out_of_reach", level=logging.WARNING, why=str(error), patience_s=patience_s)
        else:
            if failures:
                log("envs_reached", level=logging.WARNING, after_s=time.monotonic() - began_s, tries=failures + 1)
            return envs, obs
        sleep_unless_stopping(wait_s * random.uniform(0.5, 1.0), control)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def sleep_unless_stopping(duration_s: float, control: Control) -> None:
    """Wait; raises Stopped as soon as the run stops."""
    until_s = time.monotonic() + duration_s
    while True:
        if control.is_stopping():
            raise Stopped
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(TICK_S, left_s))


def close_quietly(envs: VectorEnv | None) -> None:
    """Close envs whose server may be gone already."""
    if envs is not None:
        with contextlib.suppress(MultiServerRLError, OSError):
            envs.close()


def true_next_obs(obs: Array, infos: dict[str, Any], task: Task) -> Array:
    """The observations that the step led to: where an episode ended the final one, not the next episode's first."""
    is_final = infos.get("_final_obs")
    if is_final is None:
        return obs
    next_obs = obs.copy()
    for row in np.flatnonzero(is_final):
        next_obs[row] = task.packed_one(infos["final_obs"][row])
    return next_obs


def fault_rows(infos: dict[str, Any], num_envs: int) -> Array:
    """(N,) True where the env failed, and its step is not to be believed."""
    mask = infos.get("multiserverrl", {}).get("_fault")
    return np.zeros(num_envs, bool) if mask is None else np.asarray(mask, bool)


def fault_of(infos: dict[str, Any], row: int) -> str:
    """Why the env of this row failed, in one line."""
    told = np.asarray(infos["multiserverrl"].get("fault", ""), object)
    return str(told[row] if told.ndim else told).strip().partition("\n")[0]


def reset_envs(envs: VectorEnv, seed: int, task: Task) -> Array:
    """New episodes in all of them; their first observations."""
    obs, _ = envs.reset(seed=seed)
    return task.packed(obs)


def _require_same_step(envs: VectorEnv) -> None:
    mode = envs.metadata.get("autoreset_mode")
    if mode != gymnasium.vector.AutoresetMode.SAME_STEP:
        raise ConfigError(f"training needs envs with autoreset_mode SAME_STEP, these have {mode}")
