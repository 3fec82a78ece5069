"""Weights as they travel: a plain dict of arrays, stamped with when and after what they were published.

The stamp is one more array in the dict, so whoever holds a snapshot holds its stamp, and a channel
has nothing to know of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

__all__ = ["Publication", "publication_of", "stamped", "timeless", "weights_fields"]

Array = NDArray[Any]
STAMP = "published"


@dataclass(frozen=True)
class Publication:
    """When (CLOCK_MONOTONIC) a snapshot was published, and what had been done by then."""

    at_s: float
    env_steps: int
    updates: int


def weights_fields(config: TrainConfig, task: Task) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of every array of a snapshot, the stamp included."""
    return {**algorithm_for(config, task).weights_fields, STAMP: ("float64", (3,))}


def stamped(weights: dict[str, Array], env_steps: int, updates: int) -> dict[str, Array]:
    """The weights with a stamp of this moment."""
    return {**weights, STAMP: np.array([time.monotonic(), env_steps, updates], np.float64)}


def timeless(weights: dict[str, Array]) -> dict[str, Array]:
    """The same with nothing in the stamp that another run would not have: as a file keeps it."""
    return {**weights, STAMP: weights[STAMP] * np.array([0.0, 1.0, 1.0])}


def publication_of(weights: dict[str, Array]) -> Publication:
    """The stamp of a snapshot."""
    at_s, env_steps, updates = weights[STAMP].tolist()
    return Publication(at_s, int(env_steps), int(updates))
