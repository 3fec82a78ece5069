"""The replay buffer: a ring of transitions in contiguous arrays that it is given.

All of its state is in those arrays: `inserted` counts every transition that was ever put in, and
says both where the next goes and how many there are. It is written last (the commit mark), so a
learner that maps the arrays of a dead one finds whole transitions only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Replay", "new_arrays", "replay_fields"]

Array = NDArray[Any]
Fields = dict[str, tuple[str, tuple[int, ...]]]
INSERTED = "inserted"


def replay_fields(transition: Fields, capacity: int) -> Fields:
    """(dtype, shape) of every array of a buffer of `capacity` such transitions."""
    return {
        **{name: (dtype, (capacity, *shape)) for name, (dtype, shape) in transition.items()},
        INSERTED: ("int64", (1,)),
    }


def new_arrays(fields: Fields) -> dict[str, Array]:
    """An empty buffer's arrays, in this process's own memory."""
    return {name: np.zeros(shape, dtype) for name, (dtype, shape) in fields.items()}


class Replay:
    """`arrays` as `replay_fields` lays them out; what is in them already stays."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._inserted = arrays[INSERTED]
        self.arrays = {name: array for name, array in arrays.items() if name != INSERTED}
        self.capacity = min(len(array) for array in self.arrays.values())

    @property
    def inserted(self) -> int:
        """Transitions ever put in."""
        return int(self._inserted[0])

    def __len__(self) -> int:
        return min(self.inserted, self.capacity)

    def insert(self, transitions: dict[str, Array]) -> int:
        """Put (K, ...) transitions in, over the oldest where it is full; K."""
        count = len(next(iter(transitions.values())))
        for first in range(0, count, self.capacity):  # once, unless there are more than the ring holds
            rows = slice(first, min(first + self.capacity, count))
            start = self.inserted % self.capacity
            for name, ring in self.arrays.items():
                _write_around(ring, start, transitions[name][rows])
            self._inserted[0] += rows.stop - rows.start
        return count

    def sample(self, rng: np.random.Generator, count: int) -> dict[str, Array]:
        """`count` transitions, uniform, with replacement, as copies."""
        rows = rng.integers(0, len(self), count)
        return {name: array[rows] for name, array in self.arrays.items()}

    def contents(self) -> dict[str, Array]:
        """Views of all that must be kept to make the same buffer again."""
        size = len(self)
        return {**{name: array[:size] for name, array in self.arrays.items()}, INSERTED: self._inserted}

    def restore(self, contents: dict[str, Array]) -> None:
        """Make the buffer what `contents` says. ValueError when it is of another shape, dtype or capacity."""
        inserted = int(contents[INSERTED][0])
        for name, array in self.arrays.items():
            kept, wanted = contents[name], (min(inserted, self.capacity), *array.shape[1:])
            if kept.shape != wanted or kept.dtype != array.dtype:
                raise ValueError(f"replay {name!r} is {kept.dtype}{kept.shape}, this run needs {array.dtype}{wanted}")
        for name, array in self.arrays.items():
            array[: len(contents[name])] = contents[name]
        self._inserted[0] = inserted


def _write_around(ring: Array, start: int, rows: Array) -> None:
    until_end = len(ring) - start
    ring[start : start + len(rows)] = rows[:until_end]
    if len(rows) > until_end:
        ring[: len(rows) - until_end] = rows[until_end:]
