from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from multiserverrl.train.acting import exploration_rng
from multiserverrl.train.channels import ActionRequest, Answer
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.inference import run_inference
from multiserverrl.train.task import Task
from tests.train.fakes import FakeCounters, FakeRun, FakeWeights, fresh_weights, plain_values

TASK = Task(obs_shape=(2,), num_actions=3)
CONFIG = TrainConfig(hidden="8", epsilon_start=0.0, epsilon_end=0.0, inference_deadline_s=30.0)


Arrivals = list[list[ActionRequest]]


class ScriptedServer:
    """Gives out arrivals one list at a time, then stops the run; keeps the answers."""

    def __init__(
        self, run: FakeRun, arrivals: list[list[ActionRequest]], then: Callable[[], None] | None = None
    ) -> None:
        self._run, self._arrivals, self._then = run, arrivals, then
        self.answers: list[tuple[int, np.ndarray, int]] = []
        self.waits: list[float] = []

    def requests(self, timeout_s: float) -> list[ActionRequest]:
        self.waits.append(timeout_s)
        if self._arrivals:
            return self._arrivals.pop(0)
        self._run.stop()
        return []

    def answer(self, group: int, answer: Answer) -> None:
        self.answers.append((group, answer.actions.copy(), answer.weights_version))
        if self._then is not None:
            self._then()


def request(group: int, size: int, seed: int = 0) -> ActionRequest:
    obs = np.random.default_rng([seed, group]).normal(size=(size, 2)).astype(np.float32)
    return ActionRequest(group, obs, np.zeros(size, bool))


def weights_of(seed: int) -> dict[str, Any]:
    return fresh_weights(CONFIG, TASK, seed)


def served(
    arrivals: Arrivals,
    *,
    num_envs: int,
    config: TrainConfig = CONFIG,
    weights: FakeWeights | None = None,
    env_steps: int = 0,
) -> tuple[ScriptedServer, FakeCounters]:
    run, counters = FakeRun(set()), FakeCounters()
    counters.row("explorer").set("env_steps", env_steps)
    server = ScriptedServer(run, arrivals)
    if weights is None:
        weights = FakeWeights()
        weights.publish(weights_of(0), 1)
    groups = {0: num_envs - num_envs // 2, **({1: num_envs // 2} if num_envs > 1 else {})}
    run_inference(config, TASK, groups, server, weights, counters.row("i"), run.control("i"))
    return server, counters


def test_epsilon_is_told_with_the_first_actions_and_alone_decides_from_the_first_step_on() -> None:
    config = TrainConfig(hidden="8", epsilon_start=0.8, epsilon_end=0.0, epsilon_steps=100, warmup_steps=100)
    _, counters = served([[request(0, 2)]], num_envs=2, config=config, env_steps=50)
    assert counters.get("epsilon") == 0.4
    assert served([], num_envs=2, config=config, env_steps=50)[1].get("epsilon") == 0.0, "a resume may make it other"


def test_random_numbers_are_named_by_the_env_steps_of_the_first_request_which_a_resume_has_made_known() -> None:
    def actions(steps_when_asked: int) -> list[int]:
        run, counters, weights = FakeRun(set()), FakeCounters(), FakeWeights()
        weights.publish(weights_of(0), 1)

        class Server(ScriptedServer):
            def requests(self, timeout_s: float) -> list[ActionRequest]:
                counters.row("explorer").set("env_steps", steps_when_asked)
                return super().requests(timeout_s)

        server = Server(run, [[request(0, 50)]])
        config = replace(CONFIG, epsilon_start=1.0, epsilon_end=1.0)
        run_inference(config, TASK, {0: 50}, server, weights, counters.row("i"), run.control("i"))
        return list(server.answers[0][1].tolist())

    assert actions(0) == actions(0) != actions(64)


def test_each_group_gets_the_actions_of_its_own_observations() -> None:
    asked = [request(4, 3), request(2, 5), request(7, 1)]
    server, counters = served([asked], num_envs=18)
    assert [group for group, _, _ in server.answers] == [4, 2, 7]
    for (_, actions, version), one in zip(server.answers, asked, strict=True):
        np.testing.assert_array_equal(actions, plain_values(weights_of(0), one.obs).argmax(axis=1))
        assert version == 1
    assert (counters.get("batches"), counters.get("batch_rows")) == (1, 9)


def test_a_batch_is_complete_by_size() -> None:
    _, counters = served([[request(0, 2)], [request(1, 2)], [request(2, 2)], [request(3, 2)]], num_envs=8)
    assert (counters.get("batches"), counters.get("batch_rows")) == (2, 8)


@pytest.mark.parametrize(
    ("sizes", "explorers", "complete"),
    [((4, 3), 1, 3), ((8, 8, 8, 8), 1, 8), ((4, 4, 3, 3), 2, 6), ((5, 2), 2, 7)],
    ids=["unequal", "four groups", "two explorers", "a group each"],
)
def test_a_batch_waits_for_no_more_than_one_group_of_each_explorer(
    sizes: tuple[int, ...], explorers: int, complete: int
) -> None:
    """An explorer asks for one group and waits for the answer before it asks for the next; more would never come."""
    counters, weights = FakeCounters(), FakeWeights()
    weights.publish(weights_of(0), 1)
    run = FakeRun(set())
    server = ScriptedServer(run, [[request(0, 1)] for _ in range(2 * complete)])
    config = replace(CONFIG, explorers=explorers)
    run_inference(config, TASK, dict(enumerate(sizes)), server, weights, counters.row("i"), run.control("i"))
    assert (counters.get("batches"), counters.get("batch_rows")) == (2, 2 * complete)


def test_a_batch_never_waits_for_more_than_half_of_the_envs() -> None:
    server, counters = served([[request(0, 1)], [request(0, 1, seed=1)]], num_envs=1)
    assert counters.get("batches") == 2
    assert set(server.waits) == {0.1}, "a lone env never waits for others"


def test_an_incomplete_batch_is_answered_at_its_deadline() -> None:
    config = TrainConfig(hidden="8", inference_deadline_s=0.0)
    _, counters = served([[request(0, 2)], [request(1, 2)]], num_envs=100, config=config)
    assert (counters.get("batches"), counters.get("batch_rows")) == (2, 4)


def test_a_stop_is_not_waited_for_until_the_deadline() -> None:
    server, _ = served([[request(0, 2)]], num_envs=100)
    assert len(server.waits) == 2, "it asked again and again, after the stop had ended the wait"


def test_the_newest_weights_act() -> None:
    run, counters, weights = FakeRun(set()), FakeCounters(), FakeWeights()
    weights.publish(weights_of(0), 1)
    arrivals = [[request(0, 40)], [request(0, 40, seed=1)]]
    obs = [one[0].obs for one in arrivals]
    server = ScriptedServer(run, arrivals, then=lambda: weights.publish(weights_of(5), weights.version() + 1))
    run_inference(CONFIG, TASK, {0: 1}, server, weights, counters.row("i"), run.control("i"))
    assert [version for _, _, version in server.answers] == [1, 2]
    for (_, actions, _), seen, seed in zip(server.answers, obs, (0, 5), strict=True):
        np.testing.assert_array_equal(actions, plain_values(weights_of(seed), seen).argmax(axis=1))


def test_epsilon_follows_the_env_steps_of_the_whole_run() -> None:
    config = TrainConfig(hidden="8", epsilon_start=1.0, epsilon_end=0.0, epsilon_steps=1000)
    asked = request(0, 2000)
    best = plain_values(weights_of(0), asked.obs).argmax(axis=1)
    for env_steps, epsilon in ((0, 1.0), (500, 0.5), (1000, 0.0)):
        server, counters = served([[asked]], num_envs=1, config=config, env_steps=env_steps)
        assert counters.get("epsilon") == epsilon
        assert np.mean(server.answers[0][1] != best) == pytest.approx(epsilon * 2 / 3, abs=0.04)


def test_the_first_actions_wait_for_weights_however_long_the_warm_up() -> None:
    weights = FakeWeights()
    threading.Timer(0.05, weights.publish, (weights_of(0), 3)).start()
    config = TrainConfig(hidden="8", warmup_steps=100)
    server, _ = served([[request(0, 50)]], num_envs=1, config=config, weights=weights, env_steps=99)
    assert [version for _, _, version in server.answers] == [3]


def test_exploration_is_named_by_seed_and_env_steps() -> None:
    draws = [exploration_rng(seed, steps).random(8).tolist() for seed, steps in ((0, 0), (0, 0), (0, 64), (1, 0))]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]
