"""The diary of an env, read from transitions: what is right passes, and every kind of wrong one is found."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

import bench_envs  # noqa: F401  registers Diary-v0
from diary import read_diary
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.transitions import NStep

N, GAMMA = 4, 0.5


def learned(steps: int = 120, num_envs: int = 3) -> dict[str, np.ndarray]:
    """Transitions as a learner makes them of this env."""
    envs = gymnasium.make_vec(
        "Diary-v0", num_envs, vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
    )  # fmt: skip
    windows, parts, rng = NStep(N, GAMMA, 1.0), [], np.random.default_rng(0)
    obs, _ = envs.reset(seed=1)
    for _ in range(steps):
        action = rng.integers(0, 2, num_envs)
        next_obs, reward, terminated, truncated, infos = envs.step(action)
        led_to = next_obs.copy()
        for row in np.flatnonzero(terminated | truncated):
            led_to[row] = infos["final_obs"][row]
        valid = np.ones(num_envs, bool)
        parts.append(windows.push(RawSteps(0, obs, action, reward, terminated, truncated, led_to, valid, 1)))
        obs = next_obs
    envs.close()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_what_the_env_gave_has_no_fault() -> None:
    reading = read_diary(learned(), N, GAMMA)
    assert reading.transitions > 300
    assert reading.is_faultless


@pytest.mark.parametrize("field", ["obs", "next_obs", "action", "reward", "discount"])
def test_a_transition_with_another_ones_field_is_wrong(field: str) -> None:
    transitions = learned()
    ending = transitions["discount"] == 0.0
    other = np.flatnonzero(ending)[0] if field == "discount" else 50
    row = next(row for row in range(200) if not np.array_equal(transitions[field][row], transitions[field][other]))
    transitions[field][row] = transitions[field][other]
    assert read_diary(transitions, N, GAMMA).wrong == 1


def test_one_that_is_there_twice_and_one_that_is_missing_are_counted() -> None:
    transitions = learned()
    middle = int(np.flatnonzero(transitions["obs"][:, 2] == 1)[0])
    rows: list[Any] = [*range(len(transitions["action"])), 7]
    rows.remove(middle)
    reading = read_diary({name: array[rows] for name, array in transitions.items()}, N, GAMMA)
    assert (reading.wrong, reading.twice, reading.missing) == (0, 1, 1)
    assert not reading.is_faultless
