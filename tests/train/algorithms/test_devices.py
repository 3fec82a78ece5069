"""Learning and acting on another device than the CPU: on torch's `meta`, where nothing is computed, but a tensor of
another device is refused just as on a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from multiserverrl.train.algorithms import algorithm_for, dqn, pqn
from multiserverrl.train.algorithms.adam import Adam
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task, task_of

PICTURE = spaces.Box(0, 255, (8, 9, 2), np.uint8)
OBSERVATIONS: dict[str, Any] = {
    "picture": PICTURE,
    "dict": spaces.Dict(picture=PICTURE, speed=spaces.Box(-1.0, 1.0, (3,))),
    "numbers": spaces.Box(-1.0, 1.0, (3,)),
}
PARTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "single": {"double": False, "max_grad_norm": 1.0, "target_update": 1},
    "dueling, noisy": {"dueling": True, "noisy": True, "head_hidden": 4},
    "c51": {"distributional": "c51", "atoms": 5},
    "qr": {"distributional": "qr", "atoms": 5},
}


def batch_of(task: Task, B: int = 4) -> dict[str, Any]:
    zeros = np.zeros((B, *task.obs_shape), task.obs_dtype)
    reward = np.ones(B, np.float32)
    return {
        "obs": zeros, "next_obs": zeros, "action": np.zeros(B, np.int64), "reward": reward,
        "discount": np.full(B, 0.99, np.float32), "importance": reward,
    }  # fmt: skip


@pytest.mark.parametrize("seen", OBSERVATIONS)
@pytest.mark.parametrize("parts", PARTS)
def test_an_update_makes_no_tensor_on_another_device(seen: str, parts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dqn, "open_device", lambda wanted, threads: torch.device("meta"))
    monkeypatch.setattr(Adam, "step", lambda adam, loss, learning_rate: torch.autograd.backward(loss))
    task = task_of(OBSERVATIONS[seen], spaces.Discrete(2))
    learner = algorithm_for(TrainConfig(hidden="8", backend="torch", **PARTS[parts]), task).init()
    updated = learner.update(batch_of(task), 0)
    assert isinstance(updated.loss, torch.Tensor)
    assert updated.loss.device.type == "meta"
    assert updated.errors is None  # nobody asked: reading them would wait for the device
    assert all(tensor.grad is not None for tensor in learner.online.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("seen", OBSERVATIONS)
def test_a_step_of_pqn_makes_no_tensor_on_another_device(seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pqn, "open_device", lambda wanted, threads: torch.device("meta"))
    task = task_of(OBSERVATIONS[seen], spaces.Discrete(2))
    arithmetic = pqn.TorchArithmetic(TrainConfig(algorithm="pqn", hidden="8", backend="torch", max_grad_norm=1.0), task)
    batch = batch_of(task)
    loss = arithmetic.descend(batch["obs"], batch["action"], batch["reward"], 1e-3)
    assert loss.device.type == "meta"


def test_a_step_of_adam_makes_no_tensor_on_another_device() -> None:
    adam = Adam({"matrix": torch.ones(2, 3, device="meta"), "unused": torch.ones(2, device="meta")}, 1e-8, 1.0)
    adam.step(adam.tensors["matrix"].square().sum(), 0.1)
    assert {tensor.device.type for tensor in (*adam.tensors.values(), *adam.state().values())} == {"meta"}


@pytest.mark.parametrize("algorithm", ["dqn", "pqn"])
def test_a_deterministic_run_learns_and_acts_on_the_cpu_though_there_is_a_gpu(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    task = task_of(OBSERVATIONS["picture"], spaces.Discrete(2))
    config = TrainConfig(algorithm=algorithm, hidden="8", deterministic=True)
    chosen = algorithm_for(config, task)
    weights = chosen.prepare(chosen.init().weights())
    assert {tensor.device for tensor in weights.values()} == {torch.device("cpu")}


@pytest.mark.cuda
@pytest.mark.parametrize("seen", OBSERVATIONS)
def test_pqn_learns_the_same_on_a_gpu(seen: str, cuda: torch.device) -> None:
    task = task_of(OBSERVATIONS[seen], spaces.Discrete(2))
    config, batch = TrainConfig(algorithm="pqn", hidden="8", backend="torch"), batch_of(task)
    both = [pqn.TorchArithmetic(replace(config, device=device), task) for device in ("cpu", "cuda")]
    for _ in range(5):
        losses = [float(one.descend(batch["obs"], batch["action"], batch["reward"], 1e-3)) for one in both]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    np.testing.assert_allclose(both[1].values(batch["obs"]), both[0].values(batch["obs"]), atol=1e-3)
    both[0].load_state(both[1].state())


@pytest.mark.cuda
@pytest.mark.parametrize("seen", OBSERVATIONS)
@pytest.mark.parametrize("parts", PARTS)
def test_a_gpu_makes_the_same_updates_and_either_goes_on_from_the_others_state(
    seen: str, parts: str, cuda: torch.device
) -> None:
    task = task_of(OBSERVATIONS[seen], spaces.Discrete(2))
    config = TrainConfig(hidden="8", backend="torch", **PARTS[parts])
    learners = [algorithm_for(replace(config, device=device), task).init() for device in ("cpu", "cuda")]
    for _ in range(5):
        losses = [float(learner.update(batch_of(task), 0).loss) for learner in learners]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    on_cpu, on_gpu = (learner.state() for learner in learners)
    for name, array in on_cpu.items():
        np.testing.assert_allclose(on_gpu[name], array, atol=1e-3)
    for learner, state in zip(learners, (on_gpu, on_cpu), strict=True):
        learner.load_state(state)
        assert all((array == state[name]).all() for name, array in learner.state().items())
    algorithm = algorithm_for(replace(config, device="cuda"), task)
    obs = batch_of(task)["obs"]
    actions, _ = algorithm.act(algorithm.prepare(learners[1].weights()), obs, {}, 0.0, np.random.default_rng(0))
    assert actions.shape == (4,)
