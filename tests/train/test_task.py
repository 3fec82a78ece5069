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


@pytest.mark.parametrize(
    "space", [spaces.Discrete(4), spaces.Dict(), spaces.Box(0, 255, (8, 8), np.uint8), spaces.Box(0.0, 1.0, (0,))]
)
def test_observations_that_no_network_here_can_read_are_refused(space: spaces.Space) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match="cannot train on observations"):
        task_of(space, spaces.Discrete(2))


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(ConfigError, match="only Discrete"):
        task_of(spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (1,)))
