"""Which items of a replay buffer the next update learns from: any alike, or those that surprised most.

Prioritised: Schaul, Quan, Antonoglou and Silver, "Prioritized Experience Replay" (ICLR 2016).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from multiserverrl.errors import RunError
from multiserverrl.train.algorithms.protocol import Updated
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import Fields, Replay

__all__ = ["PRIORITY", "Drawn", "Prioritised", "Sampler", "Uniform", "prioritised_layout"]

Array = NDArray[Any]
PRIORITY = "priority"  # a field of the replay buffer, beside those of the transition
AHEAD = 1 / 16  # draws that are made at once, as a share of the items: priorities are that old at most
_LEAST_ERROR = 1e-6  # so that what was learned to the bit may come again


class Drawn(NamedTuple):
    """(B,) rows of the replay buffer, and the weights of their errors; None: all alike."""

    rows: Array
    importance: Array | None


class Sampler(Protocol):
    """Draws rows of a replay buffer, and hears what came of them."""

    arrays: dict[str, Array]  # its state

    def of_new(self, count: int) -> dict[str, Array]:
        """What the replay buffer holds beside so many new items, (count,) each."""

    def draw(self, rng: np.random.Generator, inserted: int) -> Drawn:
        """The next batch's rows, when so many items were ever inserted."""

    def learned(self, rows: Array, updated: Updated) -> None:
        """What the update said of these rows."""

    def forget(self, rows: Array) -> None:
        """These can be learned from no more."""


class Uniform:
    """With replacement."""

    def __init__(self, replay: Replay, batch_size: int) -> None:
        self._replay, self._batch_size = replay, batch_size
        self.arrays: dict[str, Array] = {}

    def of_new(self, count: int) -> dict[str, Array]:
        return {}

    def draw(self, rng: np.random.Generator, inserted: int) -> Drawn:
        return Drawn(self.draws(rng, 1)[0], None)

    def draws(self, rng: np.random.Generator, count: int) -> Array:
        """(count, B) rows, of so many batches."""
        return rng.integers(0, len(self._replay), (count, self._batch_size))

    def learned(self, rows: Array, updated: Updated) -> None:
        pass

    def forget(self, rows: Array) -> None:
        pass


def prioritised_layout(config: TrainConfig) -> Fields:
    """(dtype, shape) of the arrays of `Prioritised`."""
    batches = (_most_ahead(config.buffer_size, config.batch_size), config.batch_size)
    return {
        "rows": ("int64", batches),
        "shares": ("float32", batches),
        "turn": ("int64", (2,)),
        "top": ("float32", (1,)),
    }


class Prioritised:
    """Proportional (section 3.3): item i is drawn with P(i) = p_i^α / Σ p^α (equation 1), p_i = |error| + 1e-6.

    Many batches are drawn at once, from one prefix sum: that is what makes it as cheap as two or three
    uniform samples. The k-th error of every batch is of the k-th of B equal parts of Σ p^α. So a batch knows the
    priorities of up to `AHEAD` of the buffer's size in draws ago; its weights are those of the
    probabilities that it was truly drawn with. The buffer's field holds p^α.
    """

    def __init__(self, config: TrainConfig, replay: Replay, arrays: dict[str, Array]) -> None:
        self._config, self._replay, self.arrays = config, replay, arrays
        self._rows, self._shares, self._turn, self._top = (arrays[name] for name in ("rows", "shares", "turn", "top"))
        self._strata = np.arange(config.batch_size)[:, None]
        if not len(replay):  # a learner before us left no item whole
            self._turn[:] = 0

    def of_new(self, count: int) -> dict[str, Array]:
        """The highest priority so far (algorithm 1, line 6)."""
        return {PRIORITY: np.full(count, self._top[0] or 1.0, np.float32)}

    def draw(self, rng: np.random.Generator, inserted: int) -> Drawn:
        if self._turn[0] >= self._turn[1]:
            self._draw_ahead(rng)
        turn = int(self._turn[0])
        self._turn[0] = turn + 1
        # (N · P(i))^-β, over the largest of the batch (section 3.4)
        importance = self._shares[turn] ** np.float32(-self._beta(inserted))
        importance /= np.maximum.reduce(importance)
        return Drawn(self._rows[turn].copy(), importance)

    def learned(self, rows: Array, updated: Updated) -> None:
        if updated.errors is None:
            raise RunError(
                "--prioritised needs an algorithm that tells its errors (`Updated.errors`): this one does not"
            )
        errors = np.abs(np.asarray(updated.errors, np.float32))
        errors += np.float32(_LEAST_ERROR)
        priorities = errors ** np.float32(self._config.priority_exponent)
        most = np.maximum.reduce(priorities)
        if not most < np.inf:  # the run is about to end, its replay buffer stays what it was
            whole = np.isfinite(priorities)
            rows, priorities = rows[whole], priorities[whole]
            most = priorities.max(initial=0.0)
        self._replay.arrays[PRIORITY][rows] = priorities
        self._top[0] = max(self._top[0], most)

    def forget(self, rows: Array) -> None:
        self._replay.arrays[PRIORITY][rows] = 0.0

    def _beta(self, inserted: int) -> float:
        start = self._config.importance_start
        return start + (1.0 - start) * min(1.0, inserted / self._config.importance_steps)

    def _draw_ahead(self, rng: np.random.Generator) -> None:
        size, B = len(self._replay), self._config.batch_size
        priorities = self._replay.arrays[PRIORITY][:size]
        sums = np.cumsum(priorities, dtype=np.float64)
        total = float(sums[-1])
        if not total > 0.0:
            raise RunError("nothing in the replay buffer can be learned from: raise --buffer-size")
        batches = _most_ahead(size, B)
        points = rng.random((B, batches))
        points += self._strata
        points *= total / B
        drawn = np.minimum(sums.searchsorted(points, side="right"), size - 1).T  # (batches, B)
        self._rows[:batches] = drawn
        np.multiply(priorities[drawn], size / total, out=self._shares[:batches])
        self._turn[:] = 0, batches


def _most_ahead(size: int, batch_size: int) -> int:
    return max(1, int(size * AHEAD) // batch_size)
