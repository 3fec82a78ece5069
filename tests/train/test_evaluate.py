from __future__ import annotations

import dataclasses
import errno
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from multiserverrl.errors import RunError, SessionLost
from multiserverrl.train import evaluate, opening, saving
from multiserverrl.train.channels import Evaluation
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.evaluate import greedy_returns, run_evaluator
from multiserverrl.train.policy import Policy, load_policy, save_policy
from multiserverrl.train.task import Task
from multiserverrl.train.weights import stamped
from tests.train.fakes import FakeCounters, FakeRun, FakeWeights, ListedEvaluations, fresh_weights, local_envs
from tests.train.scripted_envs import TASK, Script

CONFIG = TrainConfig(hidden="8", eval_episodes=6, eval_every_s=0.0)


class CoinLength(gymnasium.Env[Any, Any]):
    """Episodes of 1 or 19 steps with reward 1, as likely: their mean return is 10."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._left = 1 if self.np_random.random() < 0.5 else 19
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self._left -= 1
        return np.zeros(1, np.float32), 1.0, self._left == 0, False, {}


def some_weights(seed: int = 0, task: Task = TASK) -> dict[str, Any]:
    return stamped(fresh_weights(CONFIG, task, seed), 100 + seed, 10 + seed)


def test_short_episodes_are_not_preferred() -> None:
    envs = local_envs(CoinLength, 50)
    returns = np.concatenate(
        [greedy_returns(envs, lambda obs, begins: np.zeros(len(obs), np.int64), 100, seed) for seed in range(8)]
    )
    assert len(returns) == 800
    assert abs(returns.mean() - 10.0) < 1.3, "4 standard errors; taking the first 100 to end gives about 6"


@pytest.mark.parametrize(("num_envs", "episodes"), [(3, 7), (5, 2), (1, 4), (4, 4)])
def test_exactly_the_episodes_asked_for_are_played(num_envs: int, episodes: int) -> None:
    script = Script(num_envs=num_envs, length=4)
    returns = greedy_returns(script.open(), lambda obs, begins: np.ones(len(obs), np.int64), episodes, seed=0)
    played = [row for row in range(num_envs) for _ in range(episodes // num_envs + (row < episodes % num_envs))]
    assert sorted(returns.tolist()) == sorted(4.0 * (row + 1) for row in played)


def test_an_episode_that_the_env_breaks_is_played_again() -> None:
    script = Script(num_envs=2, length=4, faults={3: [0]})
    returns = greedy_returns(script.open(), lambda obs, begins: np.ones(len(obs), np.int64), 2, seed=0)
    assert sorted(returns.tolist()) == [4.0, 8.0]
    assert script.steps == 3 + 4


def test_an_env_that_breaks_every_episode_ends_the_evaluation() -> None:
    script = Script(num_envs=2, length=4, faults={step: [0] for step in range(1000)})
    with pytest.raises(RunError, match="broken by their env"):
        greedy_returns(script.open(), lambda obs, begins: np.ones(len(obs), np.int64), 2, seed=0)


def run_until(
    script: Script,
    weights: FakeWeights,
    reports: int,
    policy_path: Path | None = None,
    config: TrainConfig = CONFIG,
    counters: FakeCounters | None = None,
) -> tuple[list[Evaluation], FakeCounters]:
    run, counters = FakeRun(set()), counters or FakeCounters()

    class Evaluations(ListedEvaluations):
        def report(self, evaluation: Evaluation) -> None:
            super().report(evaluation)
            if len(self.reported) == reports:
                self.run.stop()
            else:
                weights.publish(some_weights(weights.version()), weights.version() + 1)

    evaluations = Evaluations(run)
    ends = counters.row("v"), run.control("v")
    run_evaluator(config, TASK, script.open, weights, evaluations, *ends, policy_path=policy_path)
    return evaluations.reported, counters


def published() -> FakeWeights:
    weights = FakeWeights()
    weights.publish(some_weights(0), 1)
    return weights


def test_each_new_version_is_evaluated_with_the_stamp_that_it_was_published_with() -> None:
    script = Script(num_envs=3)
    reported, counters = run_until(script, published(), reports=3)
    assert [evaluation.version for evaluation in reported] == [1, 2, 3]
    assert [evaluation.env_steps for evaluation in reported] == [100, 101, 102]
    assert [evaluation.updates for evaluation in reported] == [10, 11, 12]
    first = reported[0]
    assert sorted(first.returns) == [4.0, 4.0, 8.0, 8.0, 12.0, 12.0]
    assert (first.episodes, first.mean) == (6, 8.0)
    assert first.std == pytest.approx(np.std(first.returns))
    assert counters.get("evaluations") == 3
    assert (script.opened, script.closed) == (1, 1)
    assert len(set(script.seeds)) == 1, "all evaluations are of the same first states"


def test_lost_envs_are_opened_again_and_the_evaluation_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FIRST_WAIT_S", 0.0)
    script = Script(num_envs=3, losses={3: SessionLost("gone")})
    reported, _ = run_until(script, published(), reports=1)
    assert (script.opened, reported[0].episodes, reported[0].mean) == (2, 6, 8.0)


def test_the_best_policy_is_kept_and_an_earlier_better_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    run_until(Script(num_envs=3), published(), reports=2, policy_path=path)
    assert (load_policy(path).version, load_policy(path).mean) == (2, 8.0)
    save_policy(path, Policy(CONFIG, TASK, some_weights(), version=9, mean=8.5))
    run_until(Script(num_envs=3), published(), reports=2, policy_path=path)
    assert load_policy(path).version == 9


def test_weights_that_pass_are_kept_though_an_earlier_part_of_the_run_had_better_ones(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(path, Policy(CONFIG, TASK, some_weights(), version=9, mean=8.5))
    passing = dataclasses.replace(CONFIG, stop_at_return=8.0)
    run_until(Script(num_envs=3), published(), reports=1, policy_path=path, config=passing)
    assert (load_policy(path).version, load_policy(path).mean) == (1, 8.0)


def test_weights_that_pass_are_not_reported_before_the_disk_has_taken_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def often_full(path: Path, policy: Policy) -> None:
        tries.append(policy.version)
        weights.publish(some_weights(1), weights.version() + 1)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        assert counters.get("policy_errno") == errno.ENOSPC
        save_policy(path, policy)

    monkeypatch.setattr(saving, "save_policy", often_full)
    run, weights, counters, path = FakeRun(set()), published(), FakeCounters(), tmp_path / "policy.safetensors"
    evaluations = ListedEvaluations(run, stop_at=8.0)
    config, ends = dataclasses.replace(CONFIG, stop_at_return=8.0), (counters.row("v"), run.control("v"))
    run_evaluator(config, TASK, Script(num_envs=3).open, weights, evaluations, *ends, policy_path=path)
    assert [evaluation.version for evaluation in evaluations.reported] == tries[-1:] == [3]
    assert load_policy(path).version == 3
    assert counters.get("policy_errno") == 0


def test_a_broken_policy_of_an_earlier_part_is_named_and_written_over(tmp_path: Path, logged: list[str]) -> None:
    path = tmp_path / "policy.safetensors"
    path.write_bytes(b"torn")
    run_until(Script(num_envs=3), published(), reports=1, policy_path=path)
    assert load_policy(path).version == 1
    assert "policy_passed_over" in logged[0]
    assert str(path) in logged[0]


def test_after_the_weights_that_pass_no_others_are_evaluated() -> None:
    run, counters, weights, script = FakeRun(set()), FakeCounters(), published(), Script(num_envs=3)

    class Evaluations(ListedEvaluations):
        def report(self, evaluation: Evaluation) -> None:
            super().report(evaluation)
            weights.publish(some_weights(1), weights.version() + 1)

        def stop_soon(self) -> None:
            assert run.wait_until_stopped(0.2) is False
            run.stop()

    evaluations = Evaluations(run)
    watcher = threading.Thread(target=evaluations.stop_soon)
    watcher.start()
    config = dataclasses.replace(CONFIG, stop_at_return=8.0)
    run_evaluator(config, TASK, script.open, weights, evaluations, counters.row("v"), run.control("v"))
    watcher.join()
    assert [evaluation.version for evaluation in evaluations.reported] == [1]


@pytest.mark.parametrize(
    ("episodes", "mean"), [(0, 8.0), (4, 7.0), (3, 8.0)], ids=["none", "confirm it not", "confirm it"]
)
def test_an_evaluation_that_passed_is_judged_by_the_episodes_that_confirm_it(episodes: int, mean: float) -> None:
    run, counters, script = FakeRun(set()), FakeCounters(), Script(num_envs=3)
    evaluations = ListedEvaluations(run, stop_at=-np.inf)
    config = dataclasses.replace(CONFIG, stop_at_return=8.0, confirm_episodes=episodes)
    run_evaluator(config, TASK, script.open, published(), evaluations, counters.row("v"), run.control("v"))
    assert [(found.episodes, found.mean) for found in evaluations.reported] == [(episodes or 6, mean)]


def test_the_episodes_that_confirm_an_evaluation_are_others_than_it_passed_by() -> None:
    run, counters, script = FakeRun(set()), FakeCounters(), Script(num_envs=3)
    evaluations = ListedEvaluations(run, stop_at=-np.inf)
    config = dataclasses.replace(CONFIG, stop_at_return=8.0, confirm_episodes=6)
    run_evaluator(config, TASK, script.open, published(), evaluations, counters.row("v"), run.control("v"))
    opened, judged, confirmed = script.seeds
    assert opened == judged != confirmed


def test_while_an_evaluation_is_confirmed_it_is_told_by_how_many_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    script, counters, told = Script(num_envs=3), FakeCounters(), []
    played = evaluate.greedy_returns

    def heard(envs: Any, policy: Any, episodes: int, *others: Any) -> Any:
        told.append((episodes, counters.get("confirming")))
        return played(envs, policy, episodes, *others)

    monkeypatch.setattr(evaluate, "greedy_returns", heard)
    config = dataclasses.replace(CONFIG, stop_at_return=8.0, confirm_episodes=6)
    counters.row("v").set("confirming", 6)  # an evaluator before this one died of it
    run_until(script, published(), 1, config=config, counters=counters)
    assert told == [(CONFIG.eval_episodes, 0), (6, 6)]
    assert counters.get("confirming") == 0


def test_an_evaluation_that_failed_needs_no_confirmation() -> None:
    run, counters, script = FakeRun(set()), FakeCounters(), Script(num_envs=3)
    evaluations = ListedEvaluations(run, stop_at=-np.inf)
    config = dataclasses.replace(CONFIG, stop_at_return=8.5, confirm_episodes=4)
    run_evaluator(config, TASK, script.open, published(), evaluations, counters.row("v"), run.control("v"))
    assert [(found.episodes, found.mean) for found in evaluations.reported] == [(6, 8.0)]


def test_borrowed_envs_are_open_only_while_they_are_lent() -> None:
    run, counters, weights, script = FakeRun(set()), FakeCounters(), published(), Script(num_envs=1)
    explorer = counters.row("explorer")

    class Control:
        """The explorer's part is played here, between the evaluator's looks at the stop flag."""

        def is_stopping(self) -> bool:
            wants = counters.get("wants_envs")
            if not wants:
                assert script.opened == script.closed, "open, but not wanted any more"
            explorer.set("lent", wants)
            return run.is_stopped

        def ready(self) -> None: ...

        def wait_until_started(self) -> bool:
            return True

    evaluations = ListedEvaluations(run, stop_at=0.0)
    run_evaluator(CONFIG, TASK, script.open, weights, evaluations, counters.row("v"), Control(), borrows_envs=True)
    assert len(evaluations.reported) == 1
    assert (script.opened, script.closed) == (1, 1)
    assert counters.get("wants_envs") == 0


def test_an_episode_with_a_reward_that_is_not_finite_is_played_again() -> None:
    script = Script(num_envs=2, length=4, broken={3: [("reward", 0, np.nan)]})
    returns = greedy_returns(script.open(), lambda obs, begins: np.ones(len(obs), np.int64), 2, seed=0)
    assert sorted(returns.tolist()) == [4.0, 8.0]


@pytest.mark.parametrize(("took_s", "wanted_s"), [(0.1, 0.2), (1.4, 0.2), (2.0, 0.5), (13.0, 44.5)])
def test_evaluations_take_a_share_of_the_time_beyond_a_head_start(took_s: float, wanted_s: float) -> None:
    budget = evaluate._Budget(share=0.2, now_s=0.0)
    budget._spent_s = took_s
    assert budget.pause_s(0.2, now_s=took_s) == pytest.approx(wanted_s)
    assert budget.pause_s(0.2, now_s=1000.0) == 0.2, "time that passed without evaluations counts"


def test_an_evaluation_says_how_far_its_mean_is_to_be_believed() -> None:
    evaluation = Evaluation(1, 10.0, 2.0, 5, [], 0.0, 0, 0)
    assert evaluation.ci95 == pytest.approx(2.7764 * 2.0 / 2.0)
