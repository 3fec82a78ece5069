from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from multiserverrl.train.networks.tensors import arrays_of, on_device, tensors_of, weights_on
from multiserverrl.train.task import Task, task_of

CPU = torch.device("cpu")
MIXED = spaces.Dict(
    odd=spaces.Box(0, 255, (3, 7), np.uint8),  # 21 bytes: what follows lies at an odd place
    speed=spaces.Box(-9.0, 9.0, (2,), np.float64),
    is_open=spaces.Box(0, 1, (5,), np.bool_),
    height=spaces.Box(-9.0, 9.0, ()),
)


def packed(N: int) -> tuple[Task, np.ndarray]:  # type: ignore[type-arg]
    task = task_of(MIXED, spaces.Discrete(2))
    rng = np.random.default_rng(0)
    obs = {
        "odd": rng.integers(0, 256, (N, 3, 7), np.uint8),
        "speed": rng.normal(size=(N, 2)),
        "is_open": rng.random((N, 5)) < 0.5,
        "height": rng.normal(size=N),
    }
    return task, task.packed(obs)


@pytest.mark.parametrize("N", [1, 2, 7])
def test_the_parts_of_an_observation_come_out_as_they_went_in(N: int) -> None:
    task, obs = packed(N)
    parts = tensors_of(obs, task, CPU)
    assert isinstance(parts, dict)
    assert list(parts) == [part.name for part in task.obs_parts]
    for number, part in enumerate(task.obs_parts):
        assert str(parts[part.name].dtype) == f"torch.{part.dtype}"
        np.testing.assert_array_equal(parts[part.name].numpy(), obs[f"f{number}"])


def test_parts_can_be_taken_from_every_second_row() -> None:
    task, obs = packed(8)
    parts = tensors_of(obs[::2], task, CPU)
    assert isinstance(parts, dict)
    np.testing.assert_array_equal(parts["odd"].numpy(), obs["f0" if task.obs_parts[0].name == "odd" else "f2"][::2])


def test_on_the_cpu_nothing_is_copied() -> None:
    task, obs = Task(obs_shape=(3,), num_actions=2), np.zeros((4, 3), np.float32)
    tensor = tensors_of(obs, task, CPU)
    weights = weights_on({"a": obs}, CPU)
    obs[1, 2] = 5.0
    assert isinstance(tensor, torch.Tensor)
    assert tensor[1, 2] == weights["a"][1, 2] == 5.0


def test_arrays_that_may_not_be_written_can_be_read() -> None:
    array = np.arange(3.0)
    array.flags.writeable = False
    tensor = on_device(array, CPU)
    tensor += 1.0
    np.testing.assert_array_equal(array, [0.0, 1.0, 2.0])


def test_arrays_of_tensors_are_copies_of_the_same_shapes() -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).requires_grad_(), "b": torch.tensor(7.0), "c": torch.zeros(0)}
    arrays = arrays_of(tensors)
    with torch.no_grad():
        tensors["a"] += 1.0
    assert {name: array.shape for name, array in arrays.items()} == {"a": (2, 3), "b": (), "c": (0,)}
    np.testing.assert_array_equal(arrays["a"], np.arange(6.0).reshape(2, 3))
    assert arrays["b"] == 7.0
    assert all(array.dtype == np.float32 and array.flags.writeable for array in arrays.values())


@pytest.mark.cuda
def test_parts_and_weights_come_to_the_gpu_and_back(cuda: torch.device) -> None:
    task, obs = packed(7)
    parts = tensors_of(obs, task, cuda)
    assert isinstance(parts, dict)
    for number, part in enumerate(task.obs_parts):
        assert parts[part.name].device.type == "cuda"
        np.testing.assert_array_equal(parts[part.name].cpu().numpy(), obs[f"f{number}"])
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((), np.float32)}
    back = arrays_of(weights_on(weights, cuda))
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)
