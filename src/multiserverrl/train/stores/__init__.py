"""What an algorithm learns from, made of the explorers' raw steps: one kind of store for each `Algorithm.storage`.

A store's arrays lie where the launcher says, so they outlive a learner that dies. `store_layout` says what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from multiserverrl.train.algorithms.protocol import Algorithm, Storage
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import Fields
from multiserverrl.train.stores.n_steps import NStepStore, kept_n_steps, n_step_layout
from multiserverrl.train.stores.protocol import Arrays, Store
from multiserverrl.train.stores.rollouts import RolloutStore, rollout_layout
from multiserverrl.train.stores.sequences import SequenceStore, kept_for_sequences, sequence_layout

__all__ = ["Store", "kept_steps", "store_for", "store_layout"]


@dataclass(frozen=True)
class _Kind:
    """A kind of store: its arrays, itself, and how many steps of a group it must see again when it starts anew."""

    layout: Callable[[TrainConfig, Algorithm], Fields]
    store: Callable[[TrainConfig, Arrays], Store]
    kept_steps: Callable[[TrainConfig, Algorithm], int]


_KINDS: dict[Storage, _Kind] = {
    "n_steps": _Kind(n_step_layout, NStepStore, kept_n_steps),
    "rollouts": _Kind(rollout_layout, RolloutStore, lambda config, algorithm: config.frame_stack - 1),
    "sequences": _Kind(sequence_layout, SequenceStore, kept_for_sequences),
}


def store_layout(config: TrainConfig, algorithm: Algorithm) -> Fields:
    """(dtype, shape) of each of the arrays that `store_for` needs."""
    return _KINDS[algorithm.storage].layout(config, algorithm)


def store_for(config: TrainConfig, algorithm: Algorithm, arrays: Arrays) -> Store:
    """The store on these arrays, zeros at first; what an earlier one left in them is there."""
    return _KINDS[algorithm.storage].store(config, arrays)


def kept_steps(config: TrainConfig, algorithm: Algorithm) -> int:
    """Steps of each group that a store needs to see again where a learner starts anew (`Store.retake`)."""
    return _KINDS[algorithm.storage].kept_steps(config, algorithm)
