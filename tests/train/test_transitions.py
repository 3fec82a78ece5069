from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multiserverrl.train.channels import RawSteps
from multiserverrl.train.transitions import NStep

GAMMA, SCALE = 0.9, 0.5


def random_steps(rng: np.random.Generator, T: int, N: int, faults: float = 0.1) -> list[RawSteps]:
    """T steps of N envs whose episodes end, are cut, and break, at random."""
    steps = []
    obs = rng.normal(size=(N, 2)).astype(np.float32)
    for t in range(T):
        terminated, truncated = rng.random(N) < 0.15, rng.random(N) < 0.1
        next_obs = rng.normal(size=(N, 2)).astype(np.float32)
        valid = rng.random(N) >= faults
        reward = rng.normal(size=N).astype(np.float32)
        steps.append(RawSteps(0, obs, rng.integers(0, 3, N), reward, terminated, truncated, next_obs, valid, t + 1))
        begins = terminated | truncated | ~valid
        obs = np.where(begins[:, None], rng.normal(size=(N, 2)).astype(np.float32), next_obs)
    return steps


def slow_transitions(steps: list[RawSteps], n: int) -> list[tuple[Any, ...]]:
    """The definition, one env and one step at a time: episodes first, then every state's look ahead."""
    found = []
    for env in range(len(steps[0].valid)):
        episode: list[tuple[Any, ...]] = []
        for step in steps:
            if step.valid[env]:
                episode.append((step, step.terminated[env]))
            if not step.valid[env] or step.terminated[env] or step.truncated[env]:
                found += slow_episode(episode, env, n, is_over=True)
                episode = []
        found += slow_episode(episode, env, n, is_over=False)
    return sorted(found)


def slow_episode(episode: list[tuple[Any, ...]], env: int, n: int, is_over: bool) -> list[tuple[Any, ...]]:
    found = []
    for t, (first, _) in enumerate(episode):
        ahead = episode[t : t + n]
        if len(ahead) < n and not is_over:
            continue
        reward = sum(GAMMA**j * SCALE * float(step.reward[env]) for j, (step, _) in enumerate(ahead))
        last, terminated = ahead[-1]
        discount = 0.0 if terminated else GAMMA ** len(ahead)
        found.append(as_row(first.obs[env], first.action[env], reward, last.next_obs[env], discount, first))
    return found


def as_row(obs: Any, action: Any, reward: Any, next_obs: Any, discount: Any, first: RawSteps) -> tuple[Any, ...]:
    version = first.weights_version
    return (
        *np.round(obs, 4),
        int(action),
        round(float(reward), 4),
        *np.round(next_obs, 4),
        round(float(discount), 4),
        version,
    )


def rows_of(parts: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted(
        (
            *np.round(part["obs"][k], 4),
            int(part["action"][k]),
            round(float(part["reward"][k]), 4),
            *np.round(part["next_obs"][k], 4),
            round(float(part["discount"][k]), 4),
            int(part["weights_version"][k]),
        )
        for part in parts
        for k in range(len(part["reward"]))
    )


def assert_same(fast: list[tuple[Any, ...]], slow: list[tuple[Any, ...]]) -> None:
    assert len(fast) == len(slow)
    np.testing.assert_allclose(np.array(fast, float), np.array(slow, float), atol=2e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_transitions_are_those_of_the_slow_definition(n: int) -> None:
    steps = random_steps(np.random.default_rng(n), T=120, N=5)
    windows = NStep(n, GAMMA, SCALE)
    fast = rows_of([windows.push(step) for step in steps])
    assert len(fast) > 200
    assert_same(fast, slow_transitions(steps, n))


def test_groups_do_not_mix() -> None:
    first, second = (random_steps(np.random.default_rng(seed), T=40, N=3) for seed in (1, 2))
    windows, fast = NStep(3, GAMMA, SCALE), []
    for one, other in zip(first, second, strict=True):
        other.group = 1
        fast += [windows.push(one), windows.push(other)]
    assert_same(rows_of(fast), sorted(slow_transitions(first, 3) + slow_transitions(second, 3)))


def one_episode(length: int, *, terminated: bool) -> list[RawSteps]:
    """Reward 1 each step; observation t leads to t + 1."""
    no, yes, at_end = np.array([False]), np.array([True]), np.array([terminated])
    return [
        RawSteps(
            group=0,
            obs=np.array([[t]], np.float32),
            action=np.array([t % 2]),
            reward=np.ones(1, np.float32),
            terminated=at_end if t == length - 1 else no,
            truncated=~at_end if t == length - 1 else no,
            next_obs=np.array([[t + 1]], np.float32),
            valid=yes,
            weights_version=1,
        )
        for t in range(length)
    ]


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_every_step_of_an_episode_gets_one_transition_and_its_last_only_bootstraps_when_truncated(
    length: int, terminated: bool
) -> None:
    windows = NStep(3, GAMMA, 1.0)
    parts = [windows.push(step) for step in one_episode(length, terminated=terminated)]
    starts = np.concatenate([part["obs"][:, 0] for part in parts])
    assert sorted(starts.tolist()) == list(range(length))
    by_start = {
        float(part["obs"][k, 0]): (part["next_obs"][k, 0], part["discount"][k], part["reward"][k])
        for part in parts
        for k in range(len(part["reward"]))
    }
    for t in range(length):
        steps_ahead = min(3, length - t)
        reaches_end = t + steps_ahead == length
        led_to, discount, reward = by_start[t]
        assert led_to == t + steps_ahead
        assert discount == pytest.approx(0.0 if reaches_end and terminated else GAMMA**steps_ahead)
        assert reward == pytest.approx(sum(GAMMA**j for j in range(steps_ahead)))


def test_an_env_that_is_both_terminated_and_truncated_does_not_bootstrap() -> None:
    (step,) = one_episode(1, terminated=True)
    step.truncated = np.array([True])
    assert NStep(3, GAMMA, 1.0).push(step)["discount"].tolist() == [0.0]


def test_a_broken_step_is_not_used_and_what_came_before_it_bootstraps_from_where_it_led() -> None:
    windows = NStep(3, GAMMA, 1.0)
    good, broken = one_episode(3, terminated=False)[:2]
    broken.valid, broken.reward = np.array([False]), np.array([100.0], np.float32)
    broken.obs = broken.next_obs = np.array([[-1.0]], np.float32)  # of another episode: nothing of it may be used
    assert len(windows.push(good)["reward"]) == 0
    made = windows.push(broken)
    assert made["reward"].tolist() == [1.0]
    assert made["next_obs"].tolist() == [[1.0]]
    assert made["discount"] == pytest.approx([GAMMA])


def test_no_transition_spans_a_break() -> None:
    windows = NStep(3, GAMMA, 1.0)
    first, broken, second = (one_episode(5, terminated=True) for _ in range(3))
    broken[0].valid = np.array([False])
    second = [*second]
    for step in second:
        step.obs, step.next_obs = step.obs + 100, step.next_obs + 100
    parts = [windows.push(step) for step in [*first[:2], broken[0], *second]]
    pairs = [(part["obs"][k, 0], part["next_obs"][k, 0]) for part in parts for k in range(len(part["reward"]))]
    assert len(pairs) == 2 + 5
    assert all((start >= 100) == (led_to >= 100) for start, led_to in pairs)


def test_the_windows_of_one_step_hold_no_copies_that_later_steps_change() -> None:
    windows = NStep(2, GAMMA, 1.0)
    steps = one_episode(6, terminated=True)
    parts = [windows.push(step) for step in steps]
    kept = [{name: array.copy() for name, array in part.items()} for part in parts]
    for step in one_episode(6, terminated=True):
        windows.push(step)
    for part, copy in zip(parts, kept, strict=True):
        for name in part:
            np.testing.assert_array_equal(part[name], copy[name])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_tails_are_what_a_cut_would_make_of_the_steps_that_wait_and_change_nothing(n: int) -> None:
    steps = random_steps(np.random.default_rng(n), T=40, N=4)
    windows = NStep(n, GAMMA, SCALE)
    assert windows.tails() == {}
    for length, step in enumerate(steps, start=1):
        windows.push(step)
        tails = windows.tails()
        again = NStep(n, GAMMA, SCALE)
        for earlier in steps[:length]:
            again.push(earlier)
        nothing = np.zeros(4, np.float32)
        broken = RawSteps(0, step.obs, step.action, nothing, nothing > 0, nothing > 0, step.obs, nothing > 0, 0)
        cut = again.push(broken)
        for name, array in tails.items():
            np.testing.assert_array_equal(array, cut[name], err_msg=name)


def test_a_transition_bears_the_extras_of_its_first_step() -> None:
    rng, windows, N = np.random.default_rng(0), NStep(3, GAMMA, 1.0), 4
    told = {}
    parts = []
    for step in random_steps(rng, T=30, N=N):
        step.extras = {"told": rng.normal(size=(N, 2)).astype(np.float32)}
        told |= {step.obs[row].tobytes(): step.extras["told"][row] for row in range(N)}
        parts.append(windows.push(step))
    made = [(part["obs"][k], part["told"][k]) for part in parts for k in range(len(part["reward"]))]
    assert len(made) > 50
    for obs, extra in made:
        np.testing.assert_array_equal(extra, told[obs.tobytes()])
