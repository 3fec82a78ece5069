"""Transitions to learn from, and settings with every part of the DQN family."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

TASK = Task(obs_shape=(2, 2), num_actions=3, action_start=5)
CONFIG = TrainConfig(hidden="16,8", batch_size=32, target_update=1000)
SWITCHES = {
    "double": (True, False),
    "dueling": (False, True),
    "head_hidden": (0, 5),
    "prioritised": (False, True),
    "noisy": (False, True),
    "distributional": ("none", "c51", "qr"),
}
OF_NUMPY = ("double", "dueling", "head_hidden", "prioritised")


def combinations(*names: str) -> list[dict[str, Any]]:
    """Every combination of these switches."""
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(SWITCHES[name] for name in names))]


def name_of(settings: dict[str, Any]) -> str:
    said = [f"{name}={value}" for name, value in settings.items() if name in SWITCHES and value != SWITCHES[name][0]]
    return "-".join(said) or "plain"


def random_batch(seed: int, B: int = 32, *, is_weighted: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    batch = {
        "obs": rng.normal(size=(B, 2, 2)).astype(np.float32),
        "action": rng.integers(0, 3, B),
        "reward": rng.normal(size=B).astype(np.float32),
        "next_obs": rng.normal(size=(B, 2, 2)).astype(np.float32),
        "discount": np.where(rng.random(B) < 0.3, 0.0, 0.9).astype(np.float32),
        "weights_version": np.ones(B, np.int64),
    }
    return batch | ({"importance": rng.uniform(0.2, 1.0, B).astype(np.float32)} if is_weighted else {})
