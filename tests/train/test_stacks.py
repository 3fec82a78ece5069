from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from multiserverrl.errors import ConfigError
from multiserverrl.train.stacks import FrameStacks
from multiserverrl.train.task import Task, task_of


def pushed(stacks: FrameStacks, frames: list[int], begins: list[bool] | None) -> list[list[float]]:
    one = np.array(frames, np.float32)[:, None]
    found = stacks.pushed(one, None if begins is None else np.array(begins))
    return [row.ravel().tolist() for row in found]


def test_a_stack_holds_the_last_frames_of_its_episode_and_the_first_one_again_at_its_start() -> None:
    stacks = FrameStacks(3)
    assert pushed(stacks, [1, 10], [True, True]) == [[1, 1, 1], [10, 10, 10]]
    assert pushed(stacks, [2, 11], [False, False]) == [[1, 1, 2], [10, 10, 11]]
    assert pushed(stacks, [3, 12], [False, True]) == [[1, 2, 3], [12, 12, 12]]
    assert pushed(stacks, [4, 13], None) == [[2, 3, 4], [12, 12, 13]]
    assert pushed(stacks, [5], None) == [[5, 5, 5]]  # other envs than before


def test_a_stack_of_one_is_the_frame() -> None:
    frames = np.zeros((2, 1), np.float32)
    assert FrameStacks(1).pushed(frames, None) is frames


def test_a_stacked_task_knows_what_the_network_sees_and_what_the_env_gives() -> None:
    task = Task(obs_shape=(84, 84), num_actions=2, obs_dtype="uint8").stacked(4)
    assert (task.obs_shape, task.frame_shape, task.frame_stack) == ((4, 84, 84), (84, 84), 4)
    assert task.packed(np.zeros((3, 84, 84), np.uint8)).shape == (3, 84, 84)


def test_a_dict_is_not_stacked() -> None:
    space = spaces.Dict({"speed": spaces.Box(-1.0, 1.0, (2,))})
    with pytest.raises(ConfigError, match="--frame-stack"):
        task_of(space, spaces.Discrete(2)).stacked(2)
