from __future__ import annotations

import msgspec
import numpy as np
import pytest
from gymnasium import spaces

from multiserverrl.errors import ConfigError
from multiserverrl.train.task import Task, task_of


def test_a_task_knows_shape_and_actions() -> None:
    task = task_of(spaces.Box(-1.0, 1.0, (3, 4), np.float64), spaces.Discrete(5, start=2))
    assert task == Task(obs_shape=(3, 4), num_actions=5, action_start=2, obs_dtype="float32")
    assert task.obs_size == 12


def test_a_task_survives_json() -> None:
    task = Task(obs_shape=(4,), num_actions=2)
    assert msgspec.json.decode(msgspec.json.encode(task), type=Task) == task


def test_a_dict_of_boxes_travels_as_one_structured_array() -> None:
    space = spaces.Dict({"camera": spaces.Box(0, 255, (4, 5, 3), np.uint8), "speed": spaces.Box(-1.0, 1.0, (2,))})
    task = task_of(space, spaces.Discrete(2))
    obs = {"camera": np.arange(120, dtype=np.uint8).reshape(2, 4, 5, 3), "speed": np.ones((2, 2), np.float32)}
    packed = task.packed(obs)
    assert (packed.shape, packed.itemsize) == ((2,), 60 + 8)
    for index, part in enumerate(task.obs_parts):
        np.testing.assert_array_equal(packed[f"f{index}"], obs[part.name])
        assert packed[f"f{index}"].dtype == part.dtype
    one = task.packed_one({name: array[1] for name, array in obs.items()})
    assert one == packed[1]


def test_images_stay_as_small_as_they_are() -> None:
    assert task_of(spaces.Box(0, 255, (8, 8), np.uint8), spaces.Discrete(2)).obs_dtype == "uint8"


def test_continuous_actions_are_known_with_their_bounds() -> None:
    task = task_of(spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 1.0, (1,)))
    assert (task.is_discrete, task.action_dtype, task.action_shape) == (False, "float32", (1,))
    assert (task.action_low, task.action_high) == ((-2.0,), (1.0,))
    assert task.no_actions(4).shape == (4, 1)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Dict(), spaces.Box(0.0, 1.0, (0,))])
def test_observations_that_no_network_here_can_read_are_refused(space: spaces.Space) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match="cannot train on observations"):
        task_of(space, spaces.Discrete(2))


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), spaces.Box(-np.inf, np.inf, (1,))])
def test_actions_that_nothing_here_can_choose_are_refused(space: spaces.Space) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match="cannot train with actions"):
        task_of(spaces.Box(-1.0, 1.0, (3,)), space)
