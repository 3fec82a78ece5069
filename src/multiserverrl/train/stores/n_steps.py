"""Transitions over n steps in a replay buffer: the storage "n_steps"."""

from __future__ import annotations

from multiserverrl.train.algorithms.protocol import Algorithm
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import Fields
from multiserverrl.train.stores.frames import keeps_frames
from multiserverrl.train.stores.protocol import Arrays
from multiserverrl.train.stores.replayed import ReplayStore, replay_layout
from multiserverrl.train.transitions import NStep

__all__ = ["NStepStore", "kept_n_steps", "n_step_layout"]


def n_step_layout(config: TrainConfig, algorithm: Algorithm) -> Fields:
    """(dtype, shape) of each of the arrays of the replay buffer."""
    return replay_layout(config, algorithm.transition_fields, algorithm.transition_fields["obs"])


def kept_n_steps(config: TrainConfig, algorithm: Algorithm) -> int:
    """Those whose transitions are not made yet; frames want to know of the last step whether it ended an episode."""
    least = 1 if keeps_frames(config, algorithm.transition_fields["obs"]) else 0
    return max(config.n_step - 1, least)


class NStepStore(ReplayStore):
    """See `Store`; the items are transitions."""

    def __init__(self, config: TrainConfig, arrays: Arrays) -> None:
        super().__init__(config, arrays, NStep(config.n_step, config.gamma, config.reward_scale))
