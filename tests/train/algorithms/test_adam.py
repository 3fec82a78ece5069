"""train/algorithms/adam.py: the fused Adam without its books, against torch's own."""

from __future__ import annotations

import pytest
import torch

from multiserverrl.train.algorithms.adam import Adam


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5, 100.0])
def test_fifty_steps_are_those_of_torch(max_grad_norm: float) -> None:
    generator = torch.Generator().manual_seed(3)
    fresh = {"matrix": torch.randn(4, 3, generator=generator), "vector": torch.randn(5, generator=generator)}
    ours = Adam(fresh, 1e-6, max_grad_norm)
    theirs = {name: tensor.clone().requires_grad_() for name, tensor in fresh.items()}
    adam = torch.optim.Adam(theirs.values(), eps=1e-6)
    for step in range(50):
        inputs, learning_rate = torch.randn(7, 4, generator=generator), 0.1 / (1 + step)
        ours.step(loss_of(ours.tensors, inputs), learning_rate)
        adam.param_groups[0]["lr"] = learning_rate
        adam.zero_grad()
        loss_of(theirs, inputs).backward()  # type: ignore[no-untyped-call]
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), max_grad_norm)
        adam.step()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours.tensors[name].detach(), tensor.detach(), atol=1e-6, rtol=1e-5)
        moments = adam.state[tensor]
        torch.testing.assert_close(ours.state()[f"adam.exp_avg.{name}"], moments["exp_avg"])
        torch.testing.assert_close(ours.state()[f"adam.exp_avg_sq.{name}"], moments["exp_avg_sq"])


def test_it_learns_copies_of_what_it_was_given() -> None:
    fresh = {"vector": torch.ones(2)}
    adam = Adam(fresh, 1e-8, 0.0)
    adam.step(adam.tensors["vector"].sum(), 0.1)
    assert adam.steps == 1 and adam.tensors["vector"].detach().allclose(torch.tensor(0.9))
    assert fresh["vector"].equal(torch.ones(2))


def test_a_tensor_that_the_loss_does_not_depend_on_stays_as_it_is() -> None:
    adam = Adam({"used": torch.ones(2), "unused": torch.ones(3)}, 1e-8, 0.0)
    adam.step(adam.tensors["used"].sum(), 0.1)
    assert adam.tensors["unused"].detach().equal(torch.ones(3))


@pytest.mark.parametrize("fresh", [torch.ones(2, 3), torch.ones(3, 2).t()])
def test_weights_and_gradients_may_lie_in_memory_in_any_order(fresh: torch.Tensor) -> None:
    adam = Adam({"matrix": fresh}, 1e-8, 0.0)
    slopes = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, -1.0]])
    adam.step((adam.tensors["matrix"].t() * slopes).sum(), 0.1)
    wanted = torch.tensor([[0.9, 0.9, 1.0], [0.9, 0.9, 1.1]])
    torch.testing.assert_close(adam.tensors["matrix"].detach(), wanted)


def loss_of(weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    return (inputs @ weights["matrix"]).tanh().square().sum() + weights["vector"].square().sum()
