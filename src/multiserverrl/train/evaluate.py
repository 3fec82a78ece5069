"""Greedy evaluation: how good a snapshot of the weights is, on envs that nothing learns from."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from multiserverrl.errors import CheckpointError, RunError
from multiserverrl.observe.log import log
from multiserverrl.train.acting import rehearse
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.beats import Doing, beat
from multiserverrl.train.channels import Control, Counters, Evaluation, EvaluationWriter, WeightsReader
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.opening import LOST, Stopped, close_quietly, fault_rows, open_envs, sleep_unless_stopping
from multiserverrl.train.policy import Policy, load_policy
from multiserverrl.train.saving import has_kept_policy
from multiserverrl.train.task import Task
from multiserverrl.train.weights import publication_of

__all__ = ["greedy_returns", "run_evaluator"]

Array = NDArray[Any]
VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]
POLL_S = 0.02
HEAD_START_S = 1.5  # what a task that is solved in 4 s needs
MOST_BROKEN = 10  # episodes, beyond as many as are to be played
_JUDGES, _CONFIRMS = (3,), (3, 1)  # which episodes: streams of random numbers


def greedy_returns(
    envs: VectorEnv,
    policy: Callable[[Any, Array], Array],
    episodes: int,
    seed: int | None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Array:
    """(episodes,) returns of `policy`, which maps (N, …) observations and (N,) whether an episode
    begins with them to actions; fewer when it is stopped.

    Each env plays a number of episodes that is fixed beforehand: taking the first that end would
    prefer short ones. An episode that the env itself breaks (a fault, rewards that are not finite) is
    played again; RunError when too many are. `envs` are in SAME_STEP autoreset.
    """
    N = envs.num_envs
    left = np.full(N, episodes // N) + (np.arange(N) < episodes % N)
    returns: list[float] = []
    running = np.zeros(N)
    broken = 0
    obs, _ = envs.reset(seed=seed)
    ended = np.ones(N, bool)
    while left.any() and not is_stopping():
        obs, reward, terminated, truncated, infos = envs.step(policy(obs, ended))
        running += reward
        ended = np.asarray(terminated, bool) | np.asarray(truncated, bool)
        if ended.any():
            failed = fault_rows(infos, N)
            failed |= ended & ~np.isfinite(running)
            counted = ended & (left > 0) & ~failed
            returns += running[counted].tolist()
            left -= counted
            running[ended] = 0.0
            broken += int(np.count_nonzero(failed & (left > 0)))
            if broken > MOST_BROKEN + episodes:
                raise RunError(
                    f"{broken} episodes were broken by their env (faults, or rewards that are not finite) while "
                    f"{episodes} were to be evaluated"
                )
    return np.array(returns)


def run_evaluator(
    config: TrainConfig,
    task: Task,
    make_envs: Callable[[], VectorEnv],
    weights: WeightsReader,
    evaluations: EvaluationWriter,
    counters: Counters,
    control: Control,
    *,
    policy_path: Path | None = None,
    borrows_envs: bool = False,
) -> None:
    """Evaluate the newest weights again and again until the run stops; after `stop_at_return` is reached (in
    `confirm_episodes` more where they are asked for), no more.

    All evaluations of a run begin with the same seed: each env's first episode begins in the same state every time, the
    later ones as far as its random numbers have not been used otherwise. Those that confirm begin with another.

    The best snapshot by its mean is at `policy_path`, of equally good ones the newest. The best of many evaluations is
    in part the luckiest, so its mean is above what it will reach (`eval` plays other episodes); one that passed is kept
    whatever was better before. One that passed is reported only once it is there: while the disk
    refuses it, newer ones are evaluated. With `borrows_envs` the explorer (`lends_envs`) gives its envs up for the
    time of an evaluation.
    """
    places = _Places(config, task, make_envs, counters, control, borrows_envs)
    best, version = _best_so_far(policy_path), 0
    try:
        if not borrows_envs:
            places.open()
        rehearse(algorithm_for(config, task), task, config.eval_episodes)
        control.ready()
        if not control.wait_until_started():
            return
        budget = _Budget(config.eval_share, time.monotonic())
        while True:
            barrier = _next_barrier(config, counters, control)
            beat(counters, Doing.WAITING_FOR_WEIGHTS)
            policy = _newer_policy(config, task, weights, version, control)
            version = policy.version
            with budget.spending():
                evaluation = _evaluation(policy, _returns(config, places, policy, counters))
            has_passed = _passes(config, evaluation.mean)
            is_best = evaluation.mean >= best or has_passed
            policy = dataclasses.replace(policy, mean=evaluation.mean)
            is_kept = not is_best or policy_path is None or has_kept_policy(policy_path, policy, counters)
            if is_kept:
                best = max(best, evaluation.mean)
            if is_kept or not has_passed:
                _report(evaluation, evaluations, counters)
            beat(counters, Doing.PAUSING)
            counters.set("barriers_evaluated", barrier)
            if config.deterministic and not has_passed:
                continue
            pause_s = math.inf if has_passed and is_kept else budget.pause_s(config.eval_every_s, time.monotonic())
            sleep_unless_stopping(pause_s, control)
    except Stopped:
        pass
    finally:
        places.close()


def _next_barrier(config: TrainConfig, counters: Counters, control: Control) -> int:
    """Wait for one whose weights are to be evaluated, where the run has any."""
    while config.deterministic and counters.get("barriers_passed") <= counters.get("barriers_evaluated"):
        sleep_unless_stopping(POLL_S / 10, control)
    return int(counters.get("barriers_passed"))


def _returns(config: TrainConfig, places: _Places, policy: Policy, counters: Counters) -> Array:
    """Of an evaluation; where it passed, those of the episodes that confirm it, alone: a lucky draw is none of them."""
    counters.set("confirming", 0)  # an evaluator before this one may have died of it
    returns = places.play(policy, config.eval_episodes, _JUDGES)
    if config.confirm_episodes and _passes(config, float(returns.mean())):
        counters.set("confirming", config.confirm_episodes)
        returns = places.play(policy, config.confirm_episodes, _CONFIRMS)
        counters.set("confirming", 0)
    return returns


def _passes(config: TrainConfig, mean: float) -> bool:
    return config.stop_at_return is not None and mean >= config.stop_at_return


def _report(evaluation: Evaluation, evaluations: EvaluationWriter, counters: Counters) -> None:
    evaluations.report(evaluation)
    counters.add("evaluations", 1)
    counters.set("evaluated_at_s", time.monotonic())


def _best_so_far(policy_path: Path | None) -> float:
    """The mean of the policy that an earlier part of the run has left."""
    if policy_path is None or not policy_path.exists():
        return -math.inf
    try:
        mean = load_policy(policy_path).mean
    except CheckpointError as error:  # the next one is written over it
        log("policy_passed_over", level=logging.WARNING, why=error)
        return -math.inf
    return -math.inf if mean is None else mean


class _Budget:
    """What evaluations may take of the time: a share of it, and at the start of a run a little more.

    So a task that is learned in seconds is evaluated as often as `--eval-every-s` says, and one whose envs are slow, or
    whose network is large, does not lose the machine to its evaluations.
    """

    def __init__(self, share: float, now_s: float) -> None:
        self._share, self._began_s, self._spent_s = share, now_s, 0.0

    @contextmanager
    def spending(self) -> Iterator[None]:
        """What is done inside is an evaluation."""
        began_s = time.monotonic()
        yield
        self._spent_s += time.monotonic() - began_s

    def pause_s(self, least_s: float, now_s: float) -> float:
        """How long until the next one may begin, at least `least_s`."""
        owed_s = (self._spent_s - HEAD_START_S) / self._share - (now_s - self._began_s)
        return max(least_s, owed_s)


class _Places:
    """The evaluator's envs: its own for the whole run, or the explorer's for the time of an evaluation."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        make_envs: Callable[[], VectorEnv],
        counters: Counters,
        control: Control,
        borrows_envs: bool,
    ) -> None:
        self._config, self._task, self._make_envs = config, task, make_envs
        self._counters, self._control, self._borrows = counters, control, borrows_envs
        self._envs: VectorEnv | None = None

    def open(self) -> None:
        beat(self._counters, Doing.OPENING_ENVS)
        seed, patience_s = self._seed(_JUDGES), self._config.reopen_s
        self._envs, _ = open_envs(self._make_envs, seed, self._task, patience_s, self._control)

    def play(self, policy: Policy, episodes: int, which: tuple[int, ...]) -> Array:
        """Returns of so many episodes; lost envs are opened again and the evaluation begins anew. Raises Stopped."""
        if self._borrows:
            self._borrow()
        while True:
            if self._envs is None:
                self.open()
            assert self._envs is not None
            try:
                returns = greedy_returns(self._envs, policy, episodes, self._seed(which), self._is_stopping)
            except LOST:
                self.close()
                continue
            if self._control.is_stopping():
                raise Stopped
            if self._borrows:
                self._give_back()
            return returns

    def close(self) -> None:
        close_quietly(self._envs)
        self._envs = None

    def _is_stopping(self) -> bool:
        """Asked at every step."""
        beat(self._counters, Doing.PLAYING)
        return self._control.is_stopping()

    def _borrow(self) -> None:
        beat(self._counters, Doing.WAITING_FOR_ENVS)
        self._counters.set("wants_envs", 1)
        while not self._counters.get("lent"):
            sleep_unless_stopping(POLL_S, self._control)

    def _give_back(self) -> None:
        beat(self._counters, Doing.PAUSING)
        self.close()
        self._counters.set("wants_envs", 0)
        while self._counters.get("lent"):
            sleep_unless_stopping(POLL_S, self._control)

    def _seed(self, which: tuple[int, ...]) -> int:
        """The same for every evaluation: they differ by their policies, and not by where their episodes begin."""
        return int(np.random.SeedSequence([self._config.seed, *which]).generate_state(1)[0])


def _newer_policy(config: TrainConfig, task: Task, weights: WeightsReader, version: int, control: Control) -> Policy:
    while weights.version() <= version or (snapshot := weights.read()) is None:
        sleep_unless_stopping(POLL_S, control)
    return Policy(config, task, *snapshot)


def _evaluation(policy: Policy, returns: Array) -> Evaluation:
    publication = publication_of(policy.weights)
    return Evaluation(
        version=policy.version,
        mean=float(returns.mean()),
        std=float(returns.std()),
        episodes=len(returns),
        returns=returns.tolist(),
        published_at_s=publication.at_s,
        env_steps=publication.env_steps,
        updates=publication.updates,
    )
