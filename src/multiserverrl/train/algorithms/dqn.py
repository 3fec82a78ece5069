"""The DQN family on one page: every part of Rainbow (Hessel et al., AAAI 2018) is a switch of its own.

Double: van Hasselt et al. (AAAI 2016). Dueling and noisy nets: `networks/heads`. Prioritised replay: Schaul et al.
(ICLR 2016); the store samples, the loss bears the weights. C51: Bellemare et al. (ICML 2017). QR: Dabney et al.
(AAAI 2018). n-step returns come from the store, with the discount γⁿ (0 after termination) of what follows.
torch is imported where it is used: processes that only act load this page without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms.adam import Adam
from multiserverrl.train.algorithms.dqn_numpy import NumpyDQNLearner, require_same
from multiserverrl.train.algorithms.protocol import Acted, Array, Batch, Explore, Fields, Storage, Updated, Weights
from multiserverrl.train.algorithms.schedules import epsilon_at, learning_rate_at
from multiserverrl.train.algorithms.target_range import TargetRange
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks.device import open_device
from multiserverrl.train.networks.q_network import QNetwork
from multiserverrl.train.networks.tensors import arrays_of, on_device, tensors_of, weights_on
from multiserverrl.train.task import Task

if TYPE_CHECKING:
    import torch

__all__ = ["DQN", "DQNLearner", "c51_losses", "qr_losses"]

NOISE_ALONE = 1e-9  # a noisy network's `explore`: anything above 0, which is greedy


class DQN:
    """The half that acts: epsilon-greedy on Q, or greedy on noisy weights; in NumPy for plain networks."""

    storage: Storage = "n_steps"

    def __init__(self, config: TrainConfig, task: Task) -> None:
        if not task.is_discrete:
            raise ConfigError(
                f"{config.algorithm} learns to choose among numbered actions: this env's are continuous, not Discrete"
            )
        self.config, self.task, self.network = config, task, QNetwork(config, task)
        if config.backend == "numpy" and not self.network.is_plain:
            raise ConfigError("--backend is 'numpy': it has no image or Dict networks; use --backend torch or auto")
        self.extras_fields: Fields = {}
        self.weights_fields = self.network.fields
        self.transition_fields: Fields = {
            "obs": (task.obs_dtype, task.obs_shape),
            "action": ("int64", ()),
            "reward": ("float32", ()),  # discounted sum of n
            "next_obs": (task.obs_dtype, task.obs_shape),  # n steps later, or where the episode ended
            "discount": ("float32", ()),  # of the value of next_obs: gamma**n, 0 after termination
            "weights_version": ("int64", ()),
        }
        self._support = np.linspace(config.v_min, config.v_max, config.atoms, dtype=np.float32)
        self._device: torch.device | None = None  # of acting

    def fresh(self, rng: np.random.Generator) -> Weights:
        """Weights to begin with."""
        return self.network.fresh(rng)

    def prepare(self, weights: Weights) -> Any:
        if self.network.is_plain:
            return weights
        self._device = self._device or open_device(self.config.torch_device, self.config.torch_threads)
        return weights_on({name: weights[name] for name in self.weights_fields}, self._device)

    def act(self, weights: Any, obs: Array, extras: Batch, explore: Explore, rng: np.random.Generator) -> Acted:
        explores = bool(np.any(explore))
        noise = self.network.head.noise(rng) if explores else {}
        actions = self._values(weights, obs, noise).argmax(axis=1)  # (N,)
        if explores:
            is_random = rng.random(len(obs)) < explore
            actions = np.where(is_random, self.act_at_random(len(obs), rng)[0], actions)
        return actions, {}

    def act_at_random(self, num_envs: int, rng: np.random.Generator) -> Acted:
        return rng.integers(0, self.task.num_actions, num_envs), {}

    def exploration(self, env_steps: int) -> float:
        """Epsilon; a noisy network needs none."""
        return NOISE_ALONE if self.config.noisy else epsilon_at(self.config, env_steps)

    def init(self) -> DQNLearner | NumpyDQNLearner:
        """The half that learns, in the arithmetic that `--backend` names."""
        config = self.config
        is_plain = self.network.is_plain and not config.noisy and config.distributional == "none"
        is_best = config.backend == "auto" and is_plain and config.device != "cuda"
        kind = NumpyDQNLearner if is_best or config.backend == "numpy" else DQNLearner
        return kind(config, self.task)

    def _values(self, weights: Any, obs: Array, noise: dict[str, Array]) -> Array:
        """(N, *obs_shape) → (N, num_actions) expected returns."""
        if self._device is None:
            values = self.network.in_numpy(self.network.head.with_noise(weights, noise), obs)
        else:
            import torch

            with torch.inference_mode():
                weights = self.network.head.with_noise(weights, weights_on(noise, self._device))
                values = self.network.in_torch(weights, tensors_of(obs, self.task, self._device)).cpu().numpy()
        if self.config.distributional == "c51":
            shares = np.exp(values - values.max(axis=2, keepdims=True))
            return np.asarray(shares @ self._support / shares.sum(axis=2))
        return np.asarray(values.mean(axis=2) if self.config.distributional == "qr" else values[:, :, 0])


class DQNLearner:
    """The half that learns, in torch."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        import torch

        self.config, self.task, self.network = config, task, QNetwork(config, task)
        self.device = open_device(config.torch_device, config.torch_threads)
        fresh = weights_on(self.network.fresh(np.random.default_rng([config.seed, 0])), self.device)
        self.adam = Adam(fresh, config.adam_epsilon, config.max_grad_norm)
        self.online = self.adam.tensors
        self.target = {name: tensor.detach().clone() for name, tensor in fresh.items()}
        self.support = torch.linspace(config.v_min, config.v_max, config.atoms, device=self.device)
        self._range = TargetRange(config)
        self.updates = 0

    def update(self, batch: Batch, env_steps: int) -> Updated:
        import torch

        action, reward, discount = (on_device(batch[name], self.device) for name in ("action", "reward", "discount"))
        obs, next_obs = (tensors_of(batch[name], self.task, self.device) for name in ("obs", "next_obs"))
        online, chooser, target = self._noisy_weights()
        with torch.no_grad():
            # Double (equation 4, the target network as its second): the online network chooses the action, the
            # target network says what it is worth. Without it the target network does both.
            next_returns = self.network.in_torch(target, next_obs)  # (B, A, atoms)
            judged = self.network.in_torch(chooser, next_obs) if self.config.double else next_returns
            next_returns = _of_actions(next_returns, self._expected(judged).argmax(1))  # (B, atoms)
            is_c51 = self.config.distributional == "c51"  # whose atoms have fixed places, and learn their shares
            wanted = torch.addcmul(reward[:, None], discount[:, None], self.support if is_c51 else next_returns)
            wanted.clamp_(*self._range.with_batch(batch["reward"], batch["discount"]))  # (B, atoms)
        returns = _of_actions(self.network.in_torch(online, obs), action)  # (B, atoms)
        losses, errors = self._losses(returns, next_returns, wanted)  # (B,), (B,)
        if (importance := batch.get("importance")) is not None:
            losses = losses * on_device(importance, self.device)  # Schaul et al., section 3.4: w · δ
        loss = losses.mean()
        self.adam.step(loss, learning_rate_at(self.config, env_steps))
        self.updates += 1
        if self.updates % self.config.target_update == 0:
            for name, tensor in self.online.items():
                self.target[name].copy_(tensor.detach())
        is_asked = self.config.prioritised or self.device.type == "cpu"  # a GPU would have to be waited for
        return Updated(loss.detach(), errors.detach().cpu().numpy() if is_asked else None)

    def weights(self) -> Weights:
        return arrays_of(self.online)

    def state(self) -> dict[str, Array]:
        """As the NumPy learner's: either goes on from the other's checkpoint."""
        steps = {f"adam.step.{name}": np.array(self.adam.steps, np.float32) for name in self.online}
        return {"updates": np.array([self.updates]), **self._range.state(), **steps, **arrays_of(self._kept())}

    def load_state(self, state: dict[str, Array]) -> None:
        import torch

        require_same(self.network.fields, state)
        with torch.no_grad():
            for name, tensor in self._kept().items():
                tensor.copy_(torch.from_numpy(state[name]))
        self.adam.steps = int(state[f"adam.step.{next(iter(self.online))}"])
        self.updates = int(state["updates"][0])
        self._range.load_state(state)

    def _kept(self) -> dict[str, torch.Tensor]:
        """All tensors that a checkpoint holds."""
        kept = self.adam.state() | {f"target.{name}": tensor for name, tensor in self.target.items()}
        return kept | {f"online.{name}": tensor for name, tensor in self.online.items()}

    def _noisy_weights(self) -> list[Mapping[str, torch.Tensor]]:
        """Online weights that learn, online ones that choose, target ones: each with noise of its own.

        Fortunato et al. (ICLR 2018), section 3.1. The update's number names the noise: no generator is to be kept.
        It is of a stream (the last number) of its own: those from 1 on are of the groups that act (`exploration_rng`).
        """
        sources: list[Mapping[str, torch.Tensor]] = [self.online, self.online, self.target]
        if not self.config.noisy:
            return sources
        rng = np.random.Generator(np.random.Philox(key=self.config.seed, counter=[0, 0, self.updates, 0]))
        head = self.network.head
        return [head.with_noise(weights, weights_on(head.noise(rng), self.device)) for weights in sources]

    def _expected(self, returns: torch.Tensor) -> torch.Tensor:
        """(B, A, atoms) → (B, A)."""
        if self.config.distributional == "c51":
            return returns.softmax(2) @ self.support
        return returns.mean(2) if self.config.distributional == "qr" else returns[:, :, 0]

    def _losses(
        self, returns: torch.Tensor, next_returns: torch.Tensor, wanted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.config.distributional == "c51":
            return c51_losses(returns, next_returns, wanted, self.support)
        return (qr_losses if self.config.distributional == "qr" else huber_losses)(returns, wanted)


def _of_actions(returns: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """(B, A, atoms) and (B,) → (B, atoms)."""
    return returns.gather(1, actions.view(-1, 1, 1).expand(-1, 1, returns.shape[2])).squeeze(1)


def huber_losses(values: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1) values → (B,) losses and temporal-difference errors."""
    errors = (wanted - values).squeeze(1)  # (B,)
    cut = errors.detach().clamp(-1.0, 1.0)  # the loss's slope in the errors
    return cut * (errors - 0.5 * cut), errors


def c51_losses(
    logits: torch.Tensor, next_logits: torch.Tensor, wanted: torch.Tensor, support: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, atoms) → (B,) divergences of what is foretold from what is wanted, twice: they are the priorities, too.

    Equation 7: the wanted distribution, its atoms at r + γⁿz, is laid on the support, each atom's share between its two
    neighbours.
    """
    import torch

    last = len(support) - 1
    places = ((wanted - support[0]) * (last / (support[last] - support[0]))).clamp(0, last)
    below = places.floor()
    shares, above = next_logits.softmax(1), places - below
    target = torch.zeros_like(shares)
    target.scatter_add_(1, below.long(), shares * (1.0 - above))
    target.scatter_add_(1, (below + 1).clamp(max=last).long(), shares * above)
    losses = (torch.xlogy(target, target) - target * logits.log_softmax(1)).sum(1)
    return losses, losses


def qr_losses(quantiles: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, atoms) → (B,) losses (equations 9 and 10, κ = 1) and mean absolute temporal-difference errors."""
    import torch
    from torch.nn.functional import huber_loss

    N = quantiles.shape[1]
    middles = (torch.arange(N, device=quantiles.device) + 0.5) / N  # τ̂, Lemma 2
    errors = wanted[:, None, :] - quantiles[:, :, None]  # (B, N of quantiles, N of wanted)
    weights = (middles[:, None] - (errors.detach() < 0).float()).abs()
    losses = weights * huber_loss(errors, torch.zeros_like(errors), reduction="none")
    return losses.mean(2).sum(1), errors.detach().abs().mean((1, 2))
