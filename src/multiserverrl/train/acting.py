"""Acting with the newest weights: what the inference server does, and an explorer that holds a copy of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.protocol import Acted, Algorithm, Explore
from multiserverrl.train.channels import ActionRequest, Answer, Control, Counters, WeightsReader
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.histograms import Histogram
from multiserverrl.train.opening import sleep_unless_stopping
from multiserverrl.train.task import Task

__all__ = ["Actor", "OwnActions", "epsilon_ladder", "exploration_rng", "rehearse"]

Array = NDArray[Any]
POLL_S = 0.005  # for the first weights


class Actor:
    """Holds the newest snapshot, the exploration's random numbers, and the histogram of its batches.

    `num_envs` is that of each group, by its number: an env's share of exploration follows from its place among all.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        num_envs: dict[int, int],
        weights: WeightsReader,
        counters: Counters,
        control: Control,
    ) -> None:
        self._config, self._weights, self._counters, self._control = config, weights, counters, control
        self._algorithm = algorithm_for(config, task)
        self._snapshot: tuple[Any, int] | None = None  # weights as the algorithm has prepared them, their version
        self._rng: np.random.Generator | None = None  # a resumed run's env steps are known when the first request comes
        self._ladder = epsilon_ladder(config, num_envs) if config.exploration == "per-env" else None
        self._batch_rows = Histogram("batch_rows_to_", counters)
        rehearse(self._algorithm, task, sum(num_envs.values()))

    def answers(self, requests: list[ActionRequest]) -> list[Answer]:
        """One answer a request, all from one batch. Raises Stopped where it waits for weights and the run ends."""
        env_steps = int(self._counters.get("env_steps"))
        explore = self._exploration(requests, env_steps)
        self._counters.set("epsilon", float(np.mean(explore)))
        prepared, version = self._snapshot = self._newest()
        obs = _joined([request.obs for request in requests])
        rng = self._rng_of(requests, env_steps)
        acted = self._algorithm.act(prepared, obs, _extras(self._algorithm, requests), explore, rng)
        self._counters.add("batches", 1)
        self._counters.add("batch_rows", len(obs))
        self._batch_rows.add(len(obs))
        self._counters.set("acted_version", version)
        return _split(requests, acted, version)

    def _exploration(self, requests: list[ActionRequest], env_steps: int) -> Explore:
        if self._ladder is None:
            return self._algorithm.exploration(env_steps)
        return _joined([self._ladder[request.group] for request in requests])

    def _rng_of(self, requests: list[ActionRequest], env_steps: int) -> np.random.Generator:
        if self._config.deterministic:  # whatever was asked before
            return exploration_rng(self._config.seed, env_steps, 1 + requests[0].group)
        self._rng = self._rng or exploration_rng(self._config.seed, env_steps, 1 + requests[0].group)
        return self._rng

    def _newest(self) -> tuple[Any, int]:
        """Waits for the first, where the learner is away."""
        held = self._snapshot
        if held is not None and held[1] == self._weights.version():
            return held
        while (newest := self._weights.read()) is None:
            sleep_unless_stopping(POLL_S, self._control)
        return self._algorithm.prepare(newest[0]), newest[1]


class OwnActions:
    """An explorer's line to its own copy of the weights (`ActionClient`); all of its groups share one actor."""

    def __init__(self, actor: Actor, group: int) -> None:
        self._actor, self._group = actor, group
        self._request: ActionRequest | None = None
        self._extras: dict[str, Array] = {}

    def request(self, obs: Array, begins: Array) -> None:
        """See `ActionClient.request`."""
        self._request = ActionRequest(self._group, obs, begins, self._extras)

    def actions(self, timeout_s: float) -> Answer | None:
        """See `ActionClient.actions`."""
        assert self._request is not None, "no request is open"
        request, self._request = self._request, None
        (answer,) = self._actor.answers([request])
        self._extras = answer.extras
        return answer


def rehearse(algorithm: Algorithm, task: Task, num_envs: int) -> None:
    """Act once on zeros: no env is to wait while torch is imported and a device made ready, where they are needed."""
    weights = {name: np.zeros(shape, dtype) for name, (dtype, shape) in algorithm.weights_fields.items()}
    extras = {name: np.zeros((num_envs, *shape), dtype) for name, (dtype, shape) in algorithm.extras_fields.items()}
    obs = np.zeros((num_envs, *task.obs_shape), task.obs_dtype)
    with np.errstate(all="ignore"):  # zeros are no weights that an algorithm would ever make
        algorithm.act(algorithm.prepare(weights), obs, extras, 0.0, np.random.default_rng(0))


def exploration_rng(seed: int, env_steps: int, stream: int = 0) -> np.random.Generator:
    """Random numbers that are named by the seed and the env steps at which they begin: no state to be saved."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, env_steps, stream]))


def epsilon_ladder(config: TrainConfig, num_envs: dict[int, int]) -> dict[int, Array]:
    """(N,) epsilon of each group's envs: env i of all n explores with ε**(1 + α·i/(n-1)).

    Horgan et al., "Distributed Prioritized Experience Replay" (ICLR 2018), section 4.1: ε = 0.4, α = 7.
    """
    n = sum(num_envs.values())
    exponents = 1.0 + config.epsilon_spread * np.arange(n) / max(n - 1, 1)
    ladder = config.epsilon_base**exponents
    first = np.cumsum([0, *num_envs.values()])
    return {group: ladder[first[at] : first[at + 1]] for at, group in enumerate(num_envs)}


def _extras(algorithm: Algorithm, requests: list[ActionRequest]) -> dict[str, Array]:
    """Of these envs' last steps, zeros where an episode begins, and where there was no step yet."""
    begins, found = _joined([request.begins for request in requests]), {}
    for name, (dtype, shape) in algorithm.extras_fields.items():
        parts = [request.extras.get(name, np.zeros((len(request.begins), *shape), dtype)) for request in requests]
        found[name] = _joined(parts).copy()
        found[name][begins] = 0
    return found


def _split(requests: list[ActionRequest], acted: Acted, version: int) -> list[Answer]:
    actions, extras = acted
    answers, first = [], 0
    for request in requests:
        rows = slice(first, first + len(request.obs))
        answers.append(Answer(actions[rows], version, {name: array[rows] for name, array in extras.items()}))
        first += len(request.obs)
    return answers


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
