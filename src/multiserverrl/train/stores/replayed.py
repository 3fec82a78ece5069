"""A store whose items lie in a replay buffer until newer ones take their place: what is sampled, when, and how often.

What the items are is its windows' matter: they make them of the steps.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import msgspec
import numpy as np

from multiserverrl.errors import RunError
from multiserverrl.train.algorithms.protocol import Batch, Updated
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.ratio import ReplayRatio
from multiserverrl.train.replay import Fields, Replay, Source, replay_fields
from multiserverrl.train.stores.frames import FrameRing, frame_layout, keeps_frames
from multiserverrl.train.stores.protocol import Arrays
from multiserverrl.train.stores.sampling import PRIORITY, Drawn, Prioritised, Sampler, Uniform, prioritised_layout

__all__ = ["ReplayStore", "Windows", "replay_layout"]

_OBSERVATIONS = ("obs", "next_obs")
_FRAMES, _SAMPLING = "frames.", "sampling."
_MOST_AHEAD, _MOST_BYTES_AHEAD = 16, 1_000_000  # of batches that are gathered at once
_MOST_DRAWS = 100  # of batches that are all of frames that are gone


class Windows(Protocol):
    """Makes items of steps that are pushed one after the other."""

    def push(self, steps: RawSteps) -> Arrays:
        """The items, (K, ...) each, that are complete with these steps; K may be 0."""

    def tails(self) -> Arrays:
        """What the steps that still wait would become if every running episode were cut off now; {} before any step."""

    def emptied(self) -> Windows:
        """Windows like these in which nothing waits."""

    def push_again(self, steps: RawSteps) -> None:
        """As `push`, of steps whose items a learner before us has put into the replay buffer."""


def replay_layout(config: TrainConfig, item: Fields, obs: tuple[str, tuple[int, ...]], new_steps: int = 1) -> Fields:
    """(dtype, shape) of all arrays of a store of such items, whose single observations are (dtype, shape) `obs`.

    `new_steps` of an item are in no item before it.
    """
    fields, more = dict(item), Fields()
    if keeps_frames(config, obs):
        more |= _over(_FRAMES, frame_layout(config, obs, new_steps))
        for name in _OBSERVATIONS:
            axes = len(item[name][1]) - len(obs[1])
            fields[name] = ("int64", item[name][1][:axes])
    if config.prioritised:
        more |= _over(_SAMPLING, prioritised_layout(config))
        fields[PRIORITY] = ("float32", ())
    return replay_fields(fields, config.buffer_size) | more


class ReplayStore:
    """See `Store`. Updates are owed as the replay ratio says."""

    def __init__(self, config: TrainConfig, arrays: Arrays, windows: Windows) -> None:
        self.publish_every, self._batch_size = config.publish_every, config.batch_size
        self._wanted = ReplayRatio(config.replay_ratio, config.warmup_steps)
        self.windows = windows
        frames, sampling = _under(_FRAMES, arrays), _under(_SAMPLING, arrays)
        others = {name: array for name, array in arrays.items() if not name.startswith((_FRAMES, _SAMPLING))}
        self.replay = Replay(others)
        self.frames = FrameRing(frames, self.replay.frames, config.frame_stack) if frames else None
        self.sampler: Sampler = (
            Prioritised(config, self.replay, sampling) if sampling else Uniform(self.replay, config.batch_size)
        )
        self.ratio = self._wanted
        self.rng = np.random.default_rng([config.seed, 1])  # of sampling alone
        self._learned_from = np.zeros(0, np.int64)  # rows of the last batch
        self._owed = 0  # updates, when last asked
        self._ahead: list[Batch] = []  # of the updates that are owed before anything is inserted, the next one last
        self._most_ahead = min(_MOST_AHEAD, max(1, _MOST_BYTES_AHEAD // (config.batch_size * self.replay.item_bytes)))

    @property
    def inserted(self) -> int:
        return self.replay.inserted

    @property
    def source(self) -> Source:
        return self.replay.source

    def __len__(self) -> int:
        return len(self.replay)

    def take(self, raw: RawSteps) -> None:
        source = raw.group, raw.number
        self._insert(self.windows.push(raw if self.frames is None else self.frames.put(raw)), source)

    def retake(self, raw: RawSteps) -> None:
        self.windows.push_again(raw if self.frames is None else self.frames.find(raw))

    def owes(self, updates: int) -> bool:
        self._owed = self.ratio.owed(self.replay.inserted, updates)
        return self._owed > 0

    def batch(self) -> Batch:
        if self.frames is not None:
            return self._with_stacks(self.frames)
        if isinstance(self.sampler, Uniform):
            if not self._ahead:
                self._ahead = self._drawn_ahead(self.sampler, max(1, min(self._owed, self._most_ahead)))
            return self._ahead.pop()
        return self._rows(self.sampler.draw(self.rng, self.inserted))

    def learned(self, updated: Updated) -> None:
        self.sampler.learned(self._learned_from, updated)

    def achieved_ratio(self, updates: int) -> float:
        return self.ratio.measured(self.replay.inserted, updates)

    def go_on_from(self, updates: int) -> None:
        self.ratio = self.ratio.beginning_at(self.replay.inserted, updates)

    def keep_ratio(self, updates: int) -> None:
        if not self.ratio.is_like(self._wanted):
            self.ratio = self._wanted.beginning_at(self.replay.inserted, updates)

    def contents(self) -> Arrays:
        frames = {} if self.frames is None else self.frames.contents()
        return self.replay.contents() | _over(_FRAMES, frames) | _over(_SAMPLING, self.sampler.arrays)

    def tails(self) -> Arrays:
        return self.windows.tails()

    def cut_off(self) -> None:
        self.end_episodes(self.windows.tails())
        self.windows = self.windows.emptied()
        if self.frames is not None:
            self.frames.begin_anew()

    def end_episodes(self, tails: Arrays) -> None:
        if tails:
            self._insert(tails)

    def state(self) -> dict[str, Any]:
        return {"sampling_rng": dict(self.rng.bit_generator.state), "ratio": msgspec.to_builtins(self.ratio)}

    def restore(self, contents: Arrays, state: dict[str, Any]) -> None:
        if self.replay.inserted == 0:
            frames = 0
            if self.frames is not None:
                self.frames.restore(_under(_FRAMES, contents))
                frames = self.frames.written
            for name, array in self.sampler.arrays.items():
                array[:] = contents[_SAMPLING + name]
            self.replay.restore(contents, frames)
        self.rng.bit_generator.state = state["sampling_rng"]
        self.ratio = msgspec.convert(state["ratio"], ReplayRatio)

    def _insert(self, items: Arrays, source: Source | None = None) -> None:
        self._ahead.clear()
        count = len(next(iter(items.values())))
        insert = functools.partial(self.replay.insert, frames=0 if self.frames is None else self.frames.written)
        made = items | self.sampler.of_new(count)
        if source is None:
            insert(made)
        else:
            insert(made, source)

    def _drawn_ahead(self, sampler: Uniform, count: int) -> list[Batch]:
        """Several batches cost little more than one: 12 µs alone, 30 between two updates that have used the caches."""
        batches = self.replay.rows(sampler.draws(self.rng, count))
        return [{name: array[at] for name, array in batches.items()} for at in reversed(range(count))]

    def _rows(self, drawn: Drawn) -> Batch:
        self._learned_from = drawn.rows
        batch = self.replay.rows(drawn.rows, without=PRIORITY)
        if drawn.importance is not None:
            batch["importance"] = drawn.importance
        return batch

    def _with_stacks(self, frames: FrameRing) -> Batch:
        """Of items whose frames are there still: in the place of another there is one more of those."""
        for _ in range(_MOST_DRAWS):
            rows, importance = self.sampler.draw(self.rng, self.inserted)
            chains = frames.chains(self.replay.arrays["obs"][rows])
            there = frames.are_there(chains).reshape(len(rows), -1).all(axis=1)
            if there.all():
                break
            self.sampler.forget(rows[~there])
            if there.any():
                others = self.rng.choice(np.flatnonzero(there), int(np.count_nonzero(~there)))
                chains[~there], rows[~there] = chains[others], rows[others]
                if importance is not None:
                    importance[~there] = importance[others]
                break
        else:
            raise RunError("the frames of all transitions are gone before they are learned from: raise --buffer-size")
        batch = self._rows(Drawn(rows, importance))
        batch["obs"] = frames.stacks(chains)
        batch["next_obs"] = frames.stacks(frames.chains(batch["next_obs"]))
        return batch


def _over(prefix: str, parts: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": part for name, part in parts.items()}


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
