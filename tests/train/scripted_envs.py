"""A vector env that does what a test says: episodes of a fixed length, faults, and losses at chosen steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from multiserverrl.train.task import Task

TASK = Task(obs_shape=(3,), num_actions=4, action_start=1)


@dataclass
class Script:
    """What the envs of one group do; `events` and `actions` tell what was done to them."""

    name: str = "A"
    num_envs: int = 3
    length: int = 4
    faults: dict[int, list[int]] = field(default_factory=dict)  # step → rows that fail
    broken: dict[int, list[tuple[str, int, float]]] = field(
        default_factory=dict
    )  # step → "obs" or "reward", row, value
    losses: dict[int, Exception] = field(default_factory=dict)  # step → what step_wait raises, once
    failing_opens: list[Exception] = field(default_factory=list)  # what the next openings raise
    autoreset_mode: gymnasium.vector.AutoresetMode = gymnasium.vector.AutoresetMode.SAME_STEP
    omits_final_obs: bool = False
    steps: int = 0
    opened: int = 0
    closed: int = 0
    events: list[str] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)

    def open(self) -> ScriptedVectorEnv:
        if self.failing_opens:
            raise self.failing_opens.pop(0)
        self.opened += 1
        return ScriptedVectorEnv(self)


class ScriptedVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Row r observes (opening, episode, t) + r/10; reward r + 1; terminated at `length`, odd rows truncated."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.num_envs = script.num_envs
        self.metadata = {"autoreset_mode": script.autoreset_mode}
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
        self.single_action_space = gymnasium.spaces.Discrete(4, start=1)
        self._episode = np.zeros(self.num_envs)
        self._t = np.zeros(self.num_envs)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.script.seeds.append(seed)
        return self._obs(), {}

    def step_async(self, actions: np.ndarray) -> None:
        self.script.events.append(f"start {self.script.name}")
        self.script.actions.append(actions.copy())

    def step_wait(self) -> Any:
        script = self.script
        script.steps += 1
        script.events.append(f"wait {script.name}")
        if script.steps in script.losses:
            raise script.losses.pop(script.steps)
        before = self._obs()
        self._t += 1
        failed = np.isin(np.arange(self.num_envs), script.faults.get(script.steps, []))
        ended = (self._t == script.length) | failed
        odd = np.arange(self.num_envs) % 2 == 1
        terminated, truncated = ended & ~odd & ~failed, ended & (odd | failed)
        reward = np.where(failed, 0.0, np.arange(self.num_envs) + 1.0)
        infos: dict[str, Any] = {}
        if failed.any():
            infos["multiserverrl"] = {"fault": np.where(failed, "it broke", ""), "_fault": failed}
        if ended.any() and not script.omits_final_obs:
            final = np.where(failed[:, None], before, self._obs())
            infos["final_obs"] = np.array([*final, None], object)[:-1]
            infos["_final_obs"] = ended
        self._episode += ended
        self._t[ended] = 0
        obs = self._obs()
        for what, row, value in script.broken.get(script.steps, []):
            (obs[row] if what == "obs" else reward[row : row + 1])[...] = value
        return obs, reward, terminated, truncated, infos

    def step(self, actions: np.ndarray) -> Any:
        self.step_async(actions)
        return self.step_wait()

    def close_extras(self, **kwargs: Any) -> None:
        self.script.closed += 1

    def _obs(self) -> np.ndarray:
        rows = np.arange(self.num_envs) / 10
        return np.stack([np.full(self.num_envs, self.script.opened) + rows, self._episode + rows, self._t + rows], 1)
