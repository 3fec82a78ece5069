"""What falls linearly while a run goes on, by its env steps."""

from __future__ import annotations

from multiserverrl.train.config import TrainConfig

__all__ = ["epsilon_at", "learning_rate_at"]


def epsilon_at(config: TrainConfig, env_steps: int) -> float:
    """Share of random actions, from start to end."""
    start, end = config.epsilon_start, config.epsilon_end
    return start + (end - start) * min(1.0, env_steps / config.epsilon_steps)


def learning_rate_at(config: TrainConfig, env_steps: int) -> float:
    """Towards 0, and never below `learning_rate_end` of where it began."""
    left = 1.0 - env_steps / config.learning_rate_steps
    return config.learning_rate * max(config.learning_rate_end, left)
