from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from multiserverrl.errors import ConfigError, EnvFault, RunError, ServerUnreachable, SessionLost
from multiserverrl.train import fruitless, opening
from multiserverrl.train.beats import Doing
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.explorer import ExplorerGroup, run_explorer
from multiserverrl.train.finite import WHAT, env_number
from multiserverrl.train.learner import Training
from multiserverrl.train.task import task_of
from tests.train.fakes import (
    FakeControl,
    FakeCounterRow,
    FakeCounters,
    FakeRun,
    FakeWeights,
    ListedSteps,
    ScriptedActions,
    local_envs,
    store_arrays,
)
from tests.train.scripted_envs import TASK, Script
from tests.train.stores.scenes import Declared, all_items, store_on


@pytest.fixture(autouse=True)
def no_waiting_between_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FIRST_WAIT_S", 0.0)


def constant(action: int) -> ScriptedActions:
    return ScriptedActions(lambda obs: np.full(len(obs), action))


class Explored:
    """One explorer run on scripted groups, for so many writes."""

    def __init__(
        self, scripts: list[Script], writes: int, config: TrainConfig | None = None, *, lends: bool = False
    ) -> None:
        self.run, self.counters = FakeRun(set()), FakeCounters()
        steps = ListedSteps(self.run, writes)
        groups = [ExplorerGroup(number, script.open, constant(2)) for number, script in enumerate(scripts)]
        run_explorer(
            config or TrainConfig(),
            TASK,
            groups,
            steps,
            self.counters.row("e"),
            self.run.control("e"),
            lends_envs=lends,
        )
        self.written = steps.written
        self.steps = [raw for raw in steps.written if raw.valid.any()]


def test_each_step_bears_where_it_began_and_where_it_led() -> None:
    explored = Explored([Script(num_envs=2, length=3)], writes=8)
    assert [raw.obs[0, 2] for raw in explored.steps] == [0, 1, 2, 0, 1, 2, 0]
    assert [raw.next_obs[0, 2] for raw in explored.steps] == [1, 2, 3, 1, 2, 3, 1]
    assert [raw.obs[0, 1] for raw in explored.steps] == [raw.next_obs[0, 1] for raw in explored.steps]
    assert [raw.terminated.tolist() for raw in explored.steps[:3]] == [[False, False]] * 2 + [[True, False]]
    assert [raw.truncated.tolist() for raw in explored.steps[:3]] == [[False, False]] * 2 + [[False, True]]
    assert {raw.weights_version for raw in explored.steps} == {1}


def test_the_envs_get_their_own_numbers_and_the_learner_those_from_zero() -> None:
    script = Script()
    explored = Explored([script], writes=4)
    assert all((actions == 2 + TASK.action_start).all() for actions in script.actions)
    assert all((raw.action == 2).all() for raw in explored.steps)


def test_while_one_group_steps_the_other_gets_its_actions() -> None:
    events: list[str] = []
    Explored([Script("A", events=events), Script("B", events=events)], writes=12)
    assert events[:6] == ["start A", "start B", "wait A", "start A", "wait B", "start B"]
    stepping: set[str] = set()
    for event in events:
        kind, name = event.split()
        if kind == "wait":
            assert stepping == {"A", "B"}, "a group stepped alone"
        stepping ^= {name}


def test_episodes_and_returns_are_counted_when_they_end() -> None:
    explored = Explored([Script(num_envs=2, length=3)], writes=1 + 7)
    counters = explored.counters
    assert counters.get("env_steps") == 14
    assert counters.get("episodes") == 4
    assert counters.get("return_sum") == 2 * (3 + 6)
    assert counters.get("recent_returns") == 4
    assert counters.get("recent_return_sum") == 2 * (3 + 6)
    assert counters.get("first_step_at_s") > 0


def test_an_explorer_ends_when_every_env_has_used_up_its_episodes() -> None:
    scripts = [Script("A", num_envs=2, length=3), Script("B", num_envs=1, length=5)]
    explored = Explored(scripts, writes=10_000, config=TrainConfig(episodes=2))
    assert not explored.run.is_stopped
    assert explored.counters.get("explorers_finished") == 1
    assert explored.counters.get("episodes") == 2 * 3
    assert explored.counters.get("env_steps") == 2 * (2 * 3 + 5)
    assert [script.closed for script in scripts] == [1, 1]


def test_an_env_that_has_used_up_its_episodes_steps_on_unsent() -> None:
    script = Script(num_envs=2, length=4, faults={2: [0]})  # row 0 plays its one episode after the fault
    explored = Explored([script], writes=10_000, config=TrainConfig(episodes=1))
    assert explored.counters.get("episodes") == 2
    sent = np.array([raw.valid for raw in explored.written])
    assert sent.tolist() == [
        [False] * 2,
        [True] * 2,
        [False, True],
        [True] * 2,
        [True] * 2,
        [True, False],
        [True, False],
    ]


def test_the_cause_of_a_fault_is_told_and_not_at_every_step(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "multiserverrl")
    Explored([Script(num_envs=3, length=4, faults={number: [1] for number in range(2, 15)})], writes=14)
    assert caplog.messages == ['env_failed why="it broke" faults=1', 'env_failed why="it broke" faults=10']


def test_a_failed_env_is_not_learned_from_and_is_counted() -> None:
    explored = Explored([Script(num_envs=3, length=4, faults={2: [1], 3: [1, 2]})], writes=5)
    valid = [raw.valid.tolist() for raw in explored.written[1:]]
    assert valid == [[True, True, True], [True, False, True], [True, False, False], [True, True, True]]
    assert explored.counters.get("faults") == 3
    assert explored.counters.get("env_steps") == 9
    assert explored.counters.get("return_sum") == 4 * 1, "only row 0 has finished an episode"


def test_lost_envs_are_opened_again_and_their_windows_broken() -> None:
    script = Script(losses={3: SessionLost("gone")}, failing_opens=[])
    explored = Explored([script], writes=8)
    assert (script.opened, script.closed) == (2, 2)
    assert explored.counters.get("reopened") == 1
    valid = [bool(raw.valid.any()) for raw in explored.written]
    assert valid == [False, True, True, False, True, True, True, True]
    assert [raw.obs[0, 0] for raw in explored.steps] == [1, 1, 2, 2, 2, 2]
    assert script.seeds[0] != script.seeds[1]


def test_a_group_that_is_lost_does_not_disturb_the_other() -> None:
    scripts = [Script("A", losses={2: ServerUnreachable("nobody there")}), Script("B")]
    explored = Explored(scripts, writes=20)
    assert [script.opened for script in scripts] == [2, 1]
    others = [raw.obs[0, 2] for raw in explored.steps if raw.group == 1]
    assert others == [t % 4 for t in range(len(others))]


def test_envs_that_stay_lost_for_too_long_end_the_explorer_with_their_error() -> None:
    script = Script(failing_opens=[ServerUnreachable("nobody there")] * 3)
    with pytest.raises(ServerUnreachable, match="nobody there"):
        Explored([script], writes=5, config=TrainConfig(reopen_s=1e-9))
    assert len(script.failing_opens) == 2


def test_envs_that_come_back_in_time_are_used() -> None:
    script = Script(failing_opens=[ServerUnreachable("nobody there")] * 2)
    assert Explored([script], writes=5).counters.get("env_steps") == 12


def test_envs_that_fail_whenever_they_are_made_are_not_tried_for_long() -> None:
    script = Script(failing_opens=[EnvFault("it broke")] * 90)
    with pytest.raises(EnvFault, match="it broke"):
        Explored([script], writes=5)
    assert len(script.failing_opens) == 90 - opening.MOST_FAULTS


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (Script(faults={number: [0, 1, 2] for number in range(1, 99)}), "it broke"),
        (Script(losses={number: EnvFault("it fell") for number in range(1, 99)}), "it fell"),
        (
            Script(broken={number: [("reward", row, np.nan) for row in range(3)] for number in range(1, 99)}),
            "not finite",
        ),
    ],
    ids=["faults", "losses", "numbers"],
)
def test_envs_that_fail_at_whatever_they_are_asked_end_the_explorer(
    script: Script, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fruitless, "LEAST_S", 0.0)
    with pytest.raises(
        EnvFault, match=f"no env step could be learned from .* 20 times in a row, the last time: .*{why}"
    ):
        Explored([script], writes=100)
    assert script.steps == fruitless.LEAST_TRIES


def test_a_group_in_which_one_env_works_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fruitless, "LEAST_S", 0.0)
    script = Script(faults={number: [0, 2] for number in range(1, 99)})
    assert Explored([script], writes=60).counters.get("env_steps") >= 58


def test_envs_in_another_autoreset_mode_are_refused() -> None:
    with pytest.raises(ConfigError, match="SAME_STEP"):
        Explored([Script(autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP)], writes=5)


def test_an_episode_without_its_final_observation_is_an_error() -> None:
    with pytest.raises(RunError, match="final observation"):
        Explored([Script(omits_final_obs=True)], writes=100)


def test_nothing_is_stepped_before_the_gate_opens() -> None:
    run, counters, script = FakeRun({"learner"}), FakeCounters(), Script()
    threading.Timer(0.02, run.stop).start()
    group = ExplorerGroup(0, script.open, constant(0))
    run_explorer(TrainConfig(), TASK, [group], ListedSteps(), counters.row("e"), run.control("e"))
    assert (script.opened, script.closed, script.steps) == (1, 1, 0)
    assert counters.get("first_step_at_s") == 0


def test_a_stop_ends_an_explorer_whose_learner_takes_nothing() -> None:
    class FullSteps(ListedSteps):
        def write(self, steps: Any, timeout_s: float) -> bool:
            run.stop()
            return False

    run, script = FakeRun(set()), Script()
    group = ExplorerGroup(0, script.open, constant(0))
    run_explorer(TrainConfig(), TASK, [group], FullSteps(), FakeCounters().row("e"), run.control("e"))
    assert script.closed == 1


def test_the_terminal_step_of_every_episode_reaches_the_replay_buffer(tmp_path: Path) -> None:
    def cartpole() -> gymnasium.Env[Any, Any]:
        return gymnasium.make("CartPole-v1")

    run, counters = FakeRun(set()), FakeCounters()
    steps = ListedSteps(run, 300)
    config = TrainConfig(hidden="8")
    with gymnasium.make("CartPole-v1") as env:
        task = task_of(env.observation_space, env.action_space)
    rng = np.random.default_rng(0)
    actions = [ScriptedActions(lambda obs: rng.integers(0, 2, len(obs))) for _ in range(2)]
    groups = [ExplorerGroup(number, lambda: local_envs(cartpole, 4), client) for number, client in enumerate(actions)]
    run_explorer(config, task, groups, steps, counters.row("e"), run.control("e"))

    training = Training(config, task, store_arrays(config, task), FakeWeights(), counters.row("l"))
    for raw in steps.written:
        training.take(raw)
    stored = {name: array[: len(training.store.replay)] for name, array in training.store.replay.arrays.items()}
    terminal = stored["discount"] == 0
    endings = np.unique(stored["next_obs"][terminal], axis=0)
    assert counters.get("episodes") > 50
    assert len(endings) == counters.get("episodes")
    has_fallen = (np.abs(endings[:, 0]) > 2.4) | (np.abs(endings[:, 2]) > 12 * np.pi / 180)
    assert has_fallen.all(), "the final observation is the fallen pole's, not the next episode's first"
    one_step = terminal & (stored["reward"] == np.float32(config.reward_scale))
    assert one_step.sum() == counters.get("episodes"), "the last step itself is there, not only those before it"


def test_envs_are_lent_to_the_evaluator_and_opened_again() -> None:
    script, run, counters = Script("A", num_envs=1), FakeRun(set()), FakeCounters()
    evaluator = counters.row("evaluator")
    seen_while_lent = []

    class Steps(ListedSteps):
        def write(self, steps: Any, timeout_s: float) -> bool:
            if len(self.written) == 3:
                evaluator.set("wants_envs", 1)
            return super().write(steps, timeout_s)

    class Control(FakeControl):
        """The evaluator's part is played here, between the explorer's looks at the stop flag."""

        def is_stopping(self) -> bool:
            if counters.get("lent"):
                seen_while_lent.append((script.opened, script.closed))
                evaluator.set("wants_envs", 0)
            return super().is_stopping()

    steps = Steps(run, 8)
    groups = [ExplorerGroup(0, script.open, constant(0))]
    run_explorer(TrainConfig(), TASK, groups, steps, counters.row("e"), Control(run, "e"), lends_envs=True)
    assert set(seen_while_lent) == {(1, 1)}
    assert counters.get("lent") == 0
    assert (script.opened, script.closed) == (2, 2)
    assert [bool(raw.valid.any()) for raw in steps.written] == [False, True, True, True, False, True, True, True]


def test_an_explorer_that_starts_again_plays_the_episodes_that_are_left() -> None:
    script, played = Script(num_envs=2), np.array([3, 1])
    run, counters, steps = FakeRun(set()), FakeCounters(), ListedSteps()
    group = ExplorerGroup(0, script.open, constant(0), played)
    for _ in range(2):  # the second finds nothing left, and opens no env
        run_explorer(TrainConfig(episodes=3), TASK, [group], steps, counters.row("e"), run.control("e"))
    assert counters.get("episodes") == 2
    assert played.tolist() == [3, 3]
    assert script.opened == 1
    assert counters.get("explorers_finished") == 1, "one explorer, however often it was started"


def test_episodes_that_a_resume_makes_known_after_the_envs_are_open_count() -> None:
    played = [np.zeros(2, np.int64), np.zeros(2, np.int64)]
    scripts = [Script(num_envs=2), Script(num_envs=2)]
    run, counters, steps = FakeRun(set()), FakeCounters(), ListedSteps()

    class Control(FakeControl):
        def wait_until_started(self) -> bool:
            played[0][:], played[1][:] = 3, (2, 3)
            return super().wait_until_started()

    groups = [
        ExplorerGroup(number, script.open, constant(0), array)
        for number, (script, array) in enumerate(zip(scripts, played, strict=True))
    ]
    run_explorer(TrainConfig(episodes=3), TASK, groups, steps, counters.row("e"), Control(run, "e"))
    assert counters.get("episodes") == 1
    assert {raw.group for raw in steps.written} == {1}
    assert [(script.opened, script.closed) for script in scripts] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_resume_that_is_known_after_the_envs_are_open_does_not_play_the_first_episodes_again(
    *, is_resumed: bool
) -> None:
    script, run, counters, steps = Script(), FakeRun(set()), FakeCounters(), ListedSteps()

    class Control(FakeControl):
        def wait_until_started(self) -> bool:
            if is_resumed:
                counters.row("learner").set("env_steps", 640)
                counters.row("learner").set("wall_before_s", 2.0)
            return super().wait_until_started()

    group = ExplorerGroup(0, script.open, constant(0))
    run_explorer(TrainConfig(episodes=1), TASK, [group], steps, counters.row("e"), Control(run, "e"))
    known = Script()  # a run whose env steps were known from the beginning
    other = FakeCounters()
    other.row("learner").set("env_steps", 640)
    run_explorer(
        TrainConfig(episodes=1), TASK, [ExplorerGroup(0, known.open, constant(0))], ListedSteps(), other.row("e"),
        FakeRun(set()).control("e"),
    )  # fmt: skip
    assert script.opened == 1
    assert (script.seeds[-1] == known.seeds[0]) == is_resumed
    assert len(script.seeds) == 1 + is_resumed


def test_an_explorer_whose_envs_are_lent_when_it_starts_again_waits_for_them() -> None:
    script, run, counters = Script("A", num_envs=1), FakeRun(set()), FakeCounters()
    evaluator, opened = counters.row("evaluator"), []
    evaluator.set("wants_envs", 1)
    counters.row("e").set("lent", 1)

    class Control(FakeControl):
        def is_stopping(self) -> bool:
            if counters.get("lent"):
                opened.append(script.opened)
                evaluator.set("wants_envs", 0)
            return super().is_stopping()

    group = ExplorerGroup(0, script.open, constant(0))
    steps = ListedSteps(run, 5)
    run_explorer(TrainConfig(), TASK, [group], steps, counters.row("e"), Control(run, "e"), lends_envs=True)
    assert set(opened) == {0}, "the evaluator had them"
    assert script.opened == 1
    assert counters.get("lent") == 0


@pytest.mark.parametrize(
    "trouble",
    [{"faults": {6: [0]}}, {"broken": {6: [("reward", 0, np.nan)]}}],
    ids=["a fault", "a reward that is not finite"],
)
def test_actions_are_asked_for_with_the_stacks_that_are_learned_from(trouble: dict[str, Any]) -> None:
    task = TASK.stacked(3)
    config, asked = TrainConfig(frame_stack=3, n_step=1, buffer_size=100, warmup_steps=1), []

    def choose(stacks: np.ndarray) -> np.ndarray:
        asked.append(stacks.copy())
        return np.zeros(len(stacks))

    run, script = FakeRun(set()), Script(**trouble)
    steps = ListedSteps(run, stop_after=16)
    group = ExplorerGroup(0, script.open, ScriptedActions(choose))
    run_explorer(config, task, [group], steps, FakeCounters().row("explorer"), run.control("explorer"))
    store = store_on(config, Declared(task))
    for number, raw in enumerate(steps.written):
        assert raw.obs.shape == (3, 3)
        store.take(replace(raw, number=number))
    stacks = {stack.tobytes() for stack in np.concatenate(asked)}
    learned = [stack.tobytes() for stack in all_items(store)["obs"]]
    assert len(set(learned)) == len(learned) == 15 * 3 - 1
    assert set(learned) <= stacks


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_step_with_numbers_that_are_not_finite_is_not_learned_from_and_its_env_is_named(
    value: float, logged: list[str]
) -> None:
    script = Script(num_envs=3, length=9, broken={2: [("reward", 2, value)], 3: [("obs", 1, value)]})
    explored = Explored([script], writes=6)
    assert [raw.valid.tolist() for raw in explored.steps] == [
        [True, True, True],
        [True, True, False],
        [True, False, True],
        [True, False, True],  # it began where the step before had led
        [True, True, True],
    ]
    assert all(np.isfinite(raw.reward).all() for raw in explored.steps), "none spoils a sum over several steps"
    assert explored.counters.get("not_finite") == explored.counters.get("faults") == 3
    assert explored.counters.get("env_steps") == 5 * 3 - 3
    assert explored.counters.get("not_finite_env") == env_number(group=0, row=1)
    assert explored.counters.get("not_finite_what") == WHAT.index("observation")
    assert len(logged) == 1
    assert f"env_not_finite group=0 env=2 what=reward reward={value}" in logged[0]


def test_an_episode_with_a_reward_that_is_not_finite_counts_but_has_no_return() -> None:
    script = Script(num_envs=2, length=4, broken={2: [("reward", 0, np.nan)]})
    explored = Explored([script], writes=9)
    assert explored.counters.get("episodes") == 4
    assert explored.counters.get("recent_returns") == 3
    assert explored.counters.get("return_sum") == 4.0 + 8.0 + 8.0


def test_an_explorer_says_at_each_turn_what_it_is_at() -> None:
    told: list[Doing] = []

    class Row(FakeCounterRow):
        def set(self, name: str, value: float) -> None:
            super().set(name, value)
            if name == "doing":
                told.append(Doing(int(value)))

    run, counters, script = FakeRun(set()), FakeCounters(), Script(num_envs=1)
    groups = [ExplorerGroup(0, script.open, constant(2))]
    run_explorer(TrainConfig(), TASK, groups, ListedSteps(run, 3), Row(counters, "e"), run.control("e"))
    turn = [Doing.WAITING_FOR_LEARNER, Doing.WAITING_FOR_ACTIONS, Doing.STEPPING]
    assert told == [Doing.OPENING_ENVS, *turn, *turn, Doing.WAITING_FOR_LEARNER]
    assert counters.get("beat_s") > 0
