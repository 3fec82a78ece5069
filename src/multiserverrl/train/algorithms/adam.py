"""Adam in torch, as `torch.optim.Adam(fused=True)` computes it, without its books: on a small network they take longer.

Kingma and Ba, "Adam" (ICLR 2015), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

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
        # The kernel goes over memory: weights, moments and gradients must lie there in the same order.
        copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in fresh.items()}
        self._firsts, self._seconds = ([torch.zeros_like(tensor) for tensor in copies.values()] for _ in range(2))
        self.tensors = {name: tensor.requires_grad_() for name, tensor in copies.items()}
        self._weights = list(copies.values())
        self._step = torch.zeros((), device=self._weights[0].device)

    def step(self, loss: torch.Tensor, learning_rate: float) -> None:
        """Down the gradient of `loss`, a number."""
        import torch

        slopes = torch.autograd.grad(loss, self._weights, materialize_grads=True)
        with torch.no_grad():
            gradient = [slope.contiguous() for slope in slopes]
            if self._max_grad_norm:
                length = torch.cat([slope.view(-1) for slope in gradient]).norm()
                share = (self._max_grad_norm / (length + 1e-6)).clamp(max=1.0)
                gradient = [slope * share for slope in gradient]
            self.steps += 1
            steps = [self._step.fill_(self.steps)] * len(gradient)
            torch._fused_adam_(
                self._weights, gradient, self._firsts, self._seconds, [], steps, lr=learning_rate, beta1=_BETA_1,
                beta2=_BETA_2, eps=self._epsilon, weight_decay=0.0, amsgrad=False, maximize=False,
            )  # fmt: skip

    def state(self) -> dict[str, torch.Tensor]:
        """`adam.exp_avg.NAME` and `adam.exp_avg_sq.NAME`: the living moments of each tensor."""
        firsts, seconds = (zip(self.tensors, moments, strict=True) for moments in (self._firsts, self._seconds))
        return {f"adam.exp_avg.{name}": first for name, first in firsts} | {
            f"adam.exp_avg_sq.{name}": second for name, second in seconds
        }
