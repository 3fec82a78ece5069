"""Double DQN: the network, the replay memory, and one update. Knows nothing of processes."""

import numpy as np
import torch
from torch import nn

GAMMA = 0.97  # looks some 30 steps ahead: enough for a pole, and learned sooner than 0.99


def make_network(obs_size: int, num_actions: int) -> nn.Sequential:
    """Maps observations (B, obs_size) to one value an action (B, num_actions)."""
    return nn.Sequential(
        *(nn.Linear(obs_size, 128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.ReLU()),
        nn.Linear(128, num_actions),
    )


class Replay:
    """A ring of transitions (obs, action, reward, next_obs, terminated); the oldest is overwritten."""

    def __init__(self, capacity: int, obs_size: int) -> None:
        self.fields = (
            np.zeros((capacity, obs_size), np.float32),
            np.zeros(capacity, np.int64),
            np.zeros(capacity, np.float32),
            np.zeros((capacity, obs_size), np.float32),
            np.zeros(capacity, bool),
        )
        self.capacity, self.added = capacity, 0

    def add(self, *transition: object) -> None:
        for field, value in zip(self.fields, transition, strict=True):
            field[self.added % self.capacity] = value
        self.added += 1

    def sample(self, batch_size: int, rng: np.random.Generator) -> list[torch.Tensor]:
        rows = rng.integers(0, min(self.added, self.capacity), batch_size)
        return [torch.from_numpy(field[rows]) for field in self.fields]


def update(network: nn.Module, target: nn.Module, optimizer: torch.optim.Optimizer, batch: list[torch.Tensor]) -> float:
    """One step down the loss; all of the batch's fields are (B,), the observations (B, obs_size)."""
    obs, action, reward, next_obs, terminated = batch
    with torch.no_grad():
        best = network(next_obs).argmax(1, keepdim=True)  # the network chooses, the target values: double DQN
        next_value = target(next_obs).gather(1, best).squeeze(1)
        # A terminated episode has no future. One that a time limit cut off (truncated) has: it still bootstraps.
        wanted = reward + GAMMA * next_value * ~terminated
    value = network(obs).gather(1, action[:, None]).squeeze(1)
    loss = nn.functional.smooth_l1_loss(value, wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
