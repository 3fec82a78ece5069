"""The explorer: steps its envs with the inference server's actions, and sends what came of it.

Its groups take turns: while one steps, the next waits for its actions. Nothing is learned here and
nothing is decided here; torch is never imported.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from multiserverrl.errors import RunError
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.barriers import Barriers
from multiserverrl.train.beats import Doing, beat
from multiserverrl.train.channels import ActionClient, Answer, Control, Counters, RawSteps, StepWriter
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.doubts import Doubts
from multiserverrl.train.opening import (
    LOST,
    Stopped,
    close_quietly,
    open_envs,
    reset_envs,
    sleep_unless_stopping,
    true_next_obs,
)
from multiserverrl.train.stacks import FrameStacks
from multiserverrl.train.task import Task

__all__ = ["ExplorerGroup", "run_explorer"]

Array = NDArray[Any]
VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]
WAIT_S = 0.1  # how long a stop may go unnoticed
RETURNS_WINDOW = 100


@dataclass(frozen=True)
class ExplorerGroup:
    """Envs that step together. `make_envs` opens them (again, after a loss): a VectorEnv in SAME_STEP autoreset."""

    number: int  # over all explorers
    make_envs: Callable[[], VectorEnv]
    actions: ActionClient
    played: Array | None = None  # (N,) episodes that each env has ended; where it is shared memory they outlive us


def run_explorer(
    config: TrainConfig,
    task: Task,
    groups: Sequence[ExplorerGroup],
    steps: StepWriter,
    counters: Counters,
    control: Control,
    *,
    lends_envs: bool = False,
) -> None:
    """Explore until the run stops or every env has used up its episodes.

    Give it two groups (or more): one steps while another waits for actions. With `lends_envs` it
    closes its envs while the evaluator needs their places (a run with no env to spare).
    """
    episodes = _Episodes(counters)
    lanes = [_Lane(config, task, group, steps, episodes, counters, control) for group in groups]
    lanes = [lane for lane in lanes if lane.has_episodes()]  # an explorer before us may have used them up
    try:
        if lends_envs:
            _wait_for_evaluator(counters, control)
        for lane in lanes:
            lane.open()
        control.ready()
        if not control.wait_until_started():
            return
        if counters.get("first_step_at_s") == 0:
            counters.set("first_step_at_s", time.monotonic())
        playing = [lane for lane in lanes if lane.has_episodes()]  # what was played before a resume is known now
        barriers = Barriers(config, counters, control) if config.deterministic else None
        if barriers is not None:
            barriers.wait_for_evaluation()
        for lane in lanes:
            lane.begin() if lane in playing else lane.close()
        _take_turns(playing, counters, control, lends_envs, barriers)
        if barriers is not None and barriers.has_gone_on():
            barriers.wait(deque())  # the last weights are evaluated, and kept
        beat(counters, Doing.FINISHED)
        counters.set("explorers_finished", 1)
    except Stopped:
        pass
    finally:
        for lane in lanes:
            lane.close()


def _take_turns(
    lanes: list[_Lane], counters: Counters, control: Control, lends_envs: bool, barriers: Barriers | None
) -> None:
    """One lane steps while the next gets its actions, until all have finished."""
    running = deque(lanes)
    while running:
        if control.is_stopping():
            raise Stopped
        if lends_envs and counters.get("wants_envs"):
            _lend(running, counters, control)
        if barriers is not None and barriers.is_due():
            barriers.wait(running)
            continue
        lane = running[0]
        if not lane.is_stepping:
            lane.start_step()
        running.rotate(-1)
        if running[0].is_stepping and not running[0].finish_step():
            running.popleft().close()


def _lend(lanes: deque[_Lane], counters: Counters, control: Control) -> None:
    """Close the envs, wait until the evaluator wants them no more, and open them again."""
    for lane in lanes:
        lane.pause()
    _wait_for_evaluator(counters, control)
    for lane in lanes:
        lane.open()
        lane.begin_episodes()


def _wait_for_evaluator(counters: Counters, control: Control) -> None:
    """Leave the envs' places to it for as long as it wants them; an explorer that died may have lent them."""
    try:
        while counters.get("wants_envs"):
            beat(counters, Doing.LENDING_ENVS)
            counters.set("lent", 1)
            sleep_unless_stopping(0.02, control)
    finally:
        counters.set("lent", 0)


class _Episodes:
    """Counts of the episodes that ended, and a window over the last of them."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._window: deque[float] = deque(maxlen=RETURNS_WINDOW)

    def ended(self, returns: list[float]) -> None:
        known = [one for one in returns if math.isfinite(one)]
        self._window.extend(known)
        self._counters.add("episodes", len(returns))
        self._counters.add("return_sum", sum(known))
        self._counters.set("recent_returns", len(self._window))
        self._counters.set("recent_return_sum", sum(self._window))


class _Lane:
    """One group: its envs, the observations they stand at, the actions they are stepping with."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        group: ExplorerGroup,
        steps: StepWriter,
        episodes: _Episodes,
        counters: Counters,
        control: Control,
    ) -> None:
        self._config, self._task, self._group = config, task, group
        self._steps, self._episodes, self._counters, self._control = steps, episodes, counters, control
        self._envs: VectorEnv | None = None
        self._obs, self._stacks = np.zeros(0), FrameStacks(task.frame_stack)
        self._answer = Answer(task.no_actions(0), 0)
        self._played = group.played  # (N,) episodes that each env has ended
        self._opened = self._opened_at = 0  # times; env steps of the whole run, the last time
        self._doubts = Doubts(group.number, counters)
        self._has_request = False
        self.number = group.number
        self.is_stepping = False

    def open(self) -> None:
        """Open the envs and reset them. Raises Stopped, or the error that kept them closed."""
        beat(self._counters, Doing.OPENING_ENVS)
        self._opened_at = int(self._counters.get("env_steps"))
        self._envs, self._obs = open_envs(
            self._group.make_envs,
            self._seed(self._opened),
            self._task,
            self._config.reopen_s,
            self._control,
        )
        self._opened += 1
        self._returns = np.zeros(self._envs.num_envs)
        if self._played is None:
            self._played = np.zeros(self._envs.num_envs, np.int64)

    def has_episodes(self) -> bool:
        """Whether any of the envs may play on."""
        limit = self._config.episodes
        return limit is None or self._played is None or bool((self._played < limit).any())

    def begin(self) -> None:
        """Begin once the gate is open: the first part of a run that is resumed has played what was reset before."""
        resumed = self._opened_at == 0 and self._counters.get("wall_before_s") and self._counters.get("env_steps")
        if resumed or self._config.deterministic:
            assert self._envs is not None
            try:
                self._obs = reset_envs(self._envs, self._seed(self._opened - 1), self._task)
            except LOST as error:
                self._reopen(error)
                return
        self.begin_episodes()

    def begin_episodes(self) -> None:
        """Tell the learner that whatever ran in this group is over, and ask for the first actions."""
        N = len(self._obs)
        nothing, no = np.zeros(N, np.float32), np.zeros(N, bool)
        fields = algorithm_for(self._config, self._task).extras_fields.items()
        extras = {name: np.zeros((N, *shape), dtype) for name, (dtype, shape) in fields}
        actions = self._task.no_actions(N)
        self._write(RawSteps(self._group.number, self._obs, actions, nothing, no, no, self._obs, no, 0, extras=extras))
        self._request(~no)

    def come_to_rest(self) -> bool:
        """Finish what is under way. False when all episodes are used up."""
        has_episodes = self.finish_step() if self.is_stepping else True
        if self._has_request:
            self._await_actions()
        self._returns[:] = 0.0
        return has_episodes

    def start_step(self) -> None:
        """Wait for actions and start the envs' step with them."""
        self._answer = self._await_actions()
        assert self._envs is not None
        try:
            if hasattr(self._envs, "step_async"):
                self._envs.step_async(self._task.env_actions(self._answer.actions))
            self.is_stepping = True
        except LOST as error:
            self._reopen(error)

    def finish_step(self) -> bool:
        """Wait for the step, send it, ask for the next actions. False when all episodes are used up."""
        assert self._envs is not None
        self.is_stepping = False
        beat(self._counters, Doing.STEPPING)
        try:
            if hasattr(self._envs, "step_wait"):
                obs, reward, terminated, truncated, infos = self._envs.step_wait()
            else:
                actions = self._task.env_actions(self._answer.actions)
                obs, reward, terminated, truncated, infos = self._envs.step(actions)
        except LOST as error:
            self._reopen(error)
            return True
        obs = self._task.packed(obs)
        steps = self._raw_steps(obs, reward, terminated, truncated, infos)
        self._obs = obs
        self._count(steps)
        has_episodes = self.has_episodes()
        if self._config.deterministic:  # the next actions are of weights that have learned from this step
            self._write(steps)
        if has_episodes:
            # Before writing: it is worked on while we copy. The store's windows begin anew after invalid steps, too.
            self._request(steps.terminated | steps.truncated | ~steps.valid)
        if not self._config.deterministic:
            self._write(steps)
        return has_episodes

    def pause(self) -> None:
        """Close the envs in the middle of their episodes."""
        if self._has_request:
            self._await_actions()
        self.close()

    def close(self) -> None:
        """Close the envs, whatever they are doing."""
        close_quietly(self._envs)
        self._envs = None
        self.is_stepping = False

    def _raw_steps(
        self, obs: Array, reward: Array, terminated: Array, truncated: Array, infos: dict[str, Any]
    ) -> RawSteps:
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        next_obs = true_next_obs(obs, infos, self._task)
        reward = np.array(reward, np.float32)
        valid, unpaid = self._doubts.look(self._obs, reward, next_obs, infos)
        self._returns[unpaid] = np.nan  # of their whole episodes
        whole = (terminated | truncated) & valid
        if whole.any() and (whole & ~np.asarray(infos.get("_final_obs", False))).any():
            raise RunError("an episode ended without its final observation: its last step cannot be learned from")
        assert self._played is not None
        if self._config.episodes is not None:
            valid &= self._played < self._config.episodes  # it steps on only because others of its group do
        return RawSteps(
            self._group.number,
            self._obs,
            self._answer.actions,
            reward,
            terminated,
            truncated,
            next_obs,
            valid,
            self._answer.weights_version,
            extras=self._answer.extras,
        )

    def _count(self, steps: RawSteps) -> None:
        self._counters.add("env_steps", float(np.count_nonzero(steps.valid)))
        self._returns += steps.reward
        ended = steps.terminated | steps.truncated
        if not ended.any():
            return
        whole = ended & steps.valid
        if whole.any():
            self._episodes.ended(self._returns[whole].tolist())
        assert self._played is not None
        self._played += whole
        self._returns[ended] = 0.0

    def _seed(self, opened: int) -> int:
        """Named by the run's seed, the group, how often it was opened before, and the env steps so far."""
        if self._config.deterministic:
            opened = int(self._counters.get("barriers"))
        entropy = [self._config.seed, 2, self._group.number, opened, int(self._counters.get("env_steps"))]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _reopen(self, error: Exception) -> None:
        if self._config.deterministic:
            raise RunError("envs were lost: a deterministic run can go on as it would have from its last barrier alone")
        self._doubts.lost(error)
        self._counters.add("reopened", 1)
        self.close()
        self.open()
        self.begin_episodes()

    def _request(self, begins: Array) -> None:
        self._group.actions.request(self._stacks.pushed(self._obs, begins), begins)
        self._has_request = True

    def _await_actions(self) -> Answer:
        beat(self._counters, Doing.WAITING_FOR_ACTIONS)
        while (answer := self._group.actions.actions(WAIT_S)) is None:
            if self._control.is_stopping():
                raise Stopped
        self._has_request = False
        return answer

    def _write(self, steps: RawSteps) -> None:
        beat(self._counters, Doing.WAITING_FOR_LEARNER)
        while not self._steps.write(steps, WAIT_S):
            if self._control.is_stopping():
                raise Stopped
        while self._config.deterministic and not self._steps.settled(steps.group, WAIT_S):
            if self._control.is_stopping():
                raise Stopped
