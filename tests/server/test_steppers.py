"""Stepping around TimeLimit: the same steps, the same truncations, at less cost."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.server.steppers import Steppers
from multiserverrl.testing.contract import assert_same, vector_trajectory
from multiserverrl.testing.envs import Scripted
from multiserverrl.testing.serving import serving


def limited(limit: int) -> gymnasium.Env[Any, Any]:
    env = TimeLimit(Scripted(), limit)
    env.reset(seed=1, options={"length": 1000})
    return env


def truncations(envs: list[gymnasium.Env[Any, Any]], num_steps: int, *, resets: bool) -> list[list[bool]]:
    steppers = Steppers(envs)
    told = []
    for _ in range(num_steps):
        steps = [step(0) for step in steppers.next_step()]
        told.append([step[3] for step in steps])
        for index, step in enumerate(steps):
            if step[3] and resets:
                envs[index].reset()
                steppers.began(index)
    return told


@pytest.mark.parametrize("resets", [True, False])
def test_episodes_end_where_the_wrapper_ends_them(resets: bool) -> None:
    told = truncations([limited(3), limited(5), Scripted()], 12, resets=resets)
    for column, limit in ((0, 3), (1, 5)):
        wanted = [number % limit == 0 if resets else number >= limit for number in range(1, 13)]
        assert [row[column] for row in told] == wanted
    assert not any(row[2] for row in told)


def test_an_env_that_was_replaced_has_its_own_limit() -> None:
    envs = [limited(2)]
    steppers = Steppers(envs)
    assert [steppers.next_step()[0](0)[3] for _ in range(2)] == [False, True]
    envs[0] = limited(4)
    steppers.renewed(0)
    assert [steppers.next_step()[0](0)[3] for _ in range(4)] == [False, False, False, True]


def test_the_wrappers_count_is_right_for_somebody_who_looks() -> None:
    envs = [limited(9)]
    steppers = Steppers(envs)
    for _ in range(4):
        steppers.next_step()[0](0)
    steppers.put_right()
    assert envs[0].get_wrapper_attr("_elapsed_steps") == 4


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_served_time_limits_are_gymnasiums(mode: str) -> None:
    with serving("MountainCar-v0", count=3, allow_attr="_elapsed_steps") as server:
        envs = VirtualVectorEnv(server.url, num_envs=3, autoreset_mode=mode)
        local = gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.make("MountainCar-v0")] * 3, autoreset_mode=envs.autoreset_mode
        )
        assert_same(vector_trajectory(envs, 450), vector_trajectory(local, 450), "trajectory")
        envs.reset()
        envs.step(np.zeros(3, int))
        assert envs.get_attr("_elapsed_steps") == (1, 1, 1)
        envs.close()
        local.close()


def test_a_step_past_the_limit_is_truncated_again() -> None:
    with serving("MountainCar-v0", count=1) as server:
        env = VirtualEnv(server.url)
        env.reset(seed=0)
        ends = [env.step(0)[3] for _ in range(203)]
        assert ends == [False] * 199 + [True] * 4
        env.close()
