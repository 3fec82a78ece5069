"""Adam in torch, over all of a network's weights as one flat tensor: on a small one a third of torch.optim's time.

Kingma and Ba, "Adam" (ICLR 2015), algorithm 1, as `torch.optim.Adam` computes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from multiserverrl.train.networks.tensors import views_of

if TYPE_CHECKING:
    import torch

__all__ = ["Adam"]

_BETA_1, _BETA_2 = 0.9, 0.999


class Adam:
    """`tensors` are the weights to learn, by the names of `fresh` and equal to them.

    Gradients longer than `max_grad_norm` are shortened to it; 0: never.
    """

    def __init__(self, fresh: Mapping[str, torch.Tensor], epsilon: float, max_grad_norm: float) -> None:
        import torch

        self._epsilon, self._max_grad_norm, self.steps = epsilon, max_grad_norm, 0
        self._weights = torch.cat([tensor.detach().reshape(-1) for tensor in fresh.values()])
        self._gradient, self._first, self._second = (torch.zeros_like(self._weights) for _ in range(3))
        self.tensors = {name: view.requires_grad_() for name, view in views_of(self._weights, fresh).items()}

    def step(self, loss: torch.Tensor, learning_rate: float) -> None:
        """Down the gradient of `loss`, a number."""
        import torch

        slopes = torch.autograd.grad(loss, list(self.tensors.values()), materialize_grads=True)
        gradient, first, second = self._gradient, self._first, self._second
        torch.cat([slope.reshape(-1) for slope in slopes], out=gradient)
        if self._max_grad_norm:
            gradient *= (self._max_grad_norm / (gradient.norm() + 1e-6)).clamp(max=1.0)
        self.steps += 1
        first.lerp_(gradient, 1.0 - _BETA_1)
        second.mul_(_BETA_2).addcmul_(gradient, gradient, value=1.0 - _BETA_2)
        size = (second.sqrt() / math.sqrt(1.0 - _BETA_2**self.steps)).add_(self._epsilon)
        self._weights.addcdiv_(first, size, value=-learning_rate / (1.0 - _BETA_1**self.steps))

    def state(self) -> dict[str, torch.Tensor]:
        """`adam.exp_avg.NAME` and `adam.exp_avg_sq.NAME`: the living moments of each tensor."""
        firsts, seconds = (views_of(moments, self.tensors) for moments in (self._first, self._second))
        return {f"adam.exp_avg.{name}": view for name, view in firsts.items()} | {
            f"adam.exp_avg_sq.{name}": view for name, view in seconds.items()
        }
