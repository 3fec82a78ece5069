"""Transitions over n steps in a replay buffer, sampled uniformly: the storage "n_steps"."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from multiserverrl.train.algorithms.protocol import Algorithm, Batch, Updated
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.ratio import ReplayRatio
from multiserverrl.train.replay import Fields, Replay, Source, replay_fields
from multiserverrl.train.stores.protocol import Arrays
from multiserverrl.train.transitions import NStep

__all__ = ["NStepStore", "n_step_layout"]


def n_step_layout(config: TrainConfig, algorithm: Algorithm) -> Fields:
    """(dtype, shape) of each of the arrays of the replay buffer."""
    return replay_fields(algorithm.transition_fields, config.buffer_size)


class NStepStore:
    """See `Store`. Updates are owed as the replay ratio says."""

    def __init__(self, config: TrainConfig, arrays: Arrays) -> None:
        self.publish_every, self._batch_size = config.publish_every, config.batch_size
        self._wanted = ReplayRatio(config.replay_ratio, config.warmup_steps)
        self.windows = NStep(config.n_step, config.gamma, config.reward_scale)
        self.replay = Replay(arrays)
        self.ratio = self._wanted
        self.rng = np.random.default_rng([config.seed, 1])  # of sampling alone

    @property
    def inserted(self) -> int:
        return self.replay.inserted

    @property
    def source(self) -> Source:
        return self.replay.source

    def __len__(self) -> int:
        return len(self.replay)

    def take(self, raw: RawSteps) -> None:
        self.replay.insert(self.windows.push(raw), (raw.group, raw.number))

    def retake(self, raw: RawSteps) -> None:
        self.windows.push(raw)  # what they complete is in the replay buffer

    def owes(self, updates: int) -> bool:
        return self.ratio.owed(self.replay.inserted, updates) > 0

    def batch(self) -> Batch:
        return self.replay.sample(self.rng, self._batch_size)

    def learned(self, updated: Updated) -> None:
        pass  # uniform sampling has no use for it

    def achieved_ratio(self, updates: int) -> float:
        return self.ratio.measured(self.replay.inserted, updates)

    def go_on_from(self, updates: int) -> None:
        self.ratio = self.ratio.beginning_at(self.replay.inserted, updates)

    def keep_ratio(self, updates: int) -> None:
        if not self.ratio.is_like(self._wanted):
            self.ratio = self._wanted.beginning_at(self.replay.inserted, updates)

    def contents(self) -> Arrays:
        return self.replay.contents()

    def tails(self) -> Arrays:
        return self.windows.tails()

    def cut_off(self) -> None:
        self.end_episodes(self.windows.tails())
        self.windows = self.windows.emptied()

    def end_episodes(self, tails: Arrays) -> None:
        if tails:
            self.replay.insert(tails)

    def state(self) -> dict[str, Any]:
        return {"sampling_rng": dict(self.rng.bit_generator.state), "ratio": msgspec.to_builtins(self.ratio)}

    def restore(self, contents: Arrays, state: dict[str, Any]) -> None:
        if self.replay.inserted == 0:
            self.replay.restore(contents)
        self.rng.bit_generator.state = state["sampling_rng"]
        self.ratio = msgspec.convert(state["ratio"], ReplayRatio)
