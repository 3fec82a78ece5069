"""The replay buffer: a ring of transitions in contiguous arrays that it is given.

All of its state is in those arrays. `inserted` counts every transition that was ever put in, and says both where the
next goes and how many there are. It stands in a commit mark, beside the steps that the newest transitions were made
of: two marks are written in turn, and a running number, written last, says which one counts. So a learner that maps
the arrays of a dead one finds whole transitions only, and knows which steps it has still to learn from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_STEPS", "Fields", "Replay", "Source", "new_arrays", "replay_fields"]

Array = NDArray[Any]
Fields = dict[str, tuple[str, tuple[int, ...]]]
Source = tuple[int, int]  # the steps that transitions were made of: their group, their number in it
NO_STEPS: Source = (-1, -1)
INSERTED = "inserted"  # in contents
_BEGUN, _COMMITS, _COMMIT = "begun", "commits", "commit"


def replay_fields(transition: Fields, capacity: int) -> Fields:
    """(dtype, shape) of every array of a buffer of `capacity` such transitions."""
    return {
        **{name: (dtype, (capacity, *shape)) for name, (dtype, shape) in transition.items()},
        _BEGUN: ("int64", (1,)),  # `inserted` of the insertion that runs: rows until there may be half written
        _COMMITS: ("int64", (1,)),  # commits ever made; the mark of number n is n % 2
        _COMMIT: ("int64", (2, 4)),  # inserted, the source's group and number, frames
    }


def new_arrays(fields: Fields) -> dict[str, Array]:
    """An empty buffer's arrays, in this process's own memory."""
    return {name: np.zeros(shape, dtype) for name, (dtype, shape) in fields.items()}


class Replay:
    """`arrays` as `replay_fields` lays them out; what is in them already stays."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._begun, self._commits, self._marks = arrays[_BEGUN], arrays[_COMMITS], arrays[_COMMIT]
        self.arrays = {name: array for name, array in arrays.items() if name not in (_BEGUN, _COMMITS, _COMMIT)}
        self.capacity = min(len(array) for array in self.arrays.values())
        inserted, group, number, frames = self._marks[self._commits[0] % 2].tolist()
        self.inserted: int = inserted  # transitions ever put in
        self.frames: int = frames  # as told with the newest of them
        self.source: Source = (group, number) if self._commits[0] else NO_STEPS
        self._mend()

    def __len__(self) -> int:
        return min(self.inserted, self.capacity)

    @property
    def item_bytes(self) -> int:
        """Of one transition."""
        return sum(array[:1].nbytes for array in self.arrays.values())

    def insert(self, transitions: dict[str, Array], source: Source = NO_STEPS, frames: int = 0) -> int:
        """Put (K, ...) transitions in, over the oldest where it is full, and note what they were made of; K.

        `frames` is a number that becomes what it says in the same moment as they are there: see `FrameRing`.
        """
        count = len(next(iter(transitions.values())))
        self._begun[0] = self.inserted + count
        for first in range(0, count, self.capacity):  # once, unless there are more than the ring holds
            rows = slice(first, min(first + self.capacity, count))
            start = (self.inserted + first) % self.capacity
            for name, ring in self.arrays.items():
                _write_around(ring, start, transitions[name][rows])
        self._commit(self.inserted + count, source, frames)
        return count

    def sample(self, rng: np.random.Generator, count: int) -> dict[str, Array]:
        """`count` transitions, uniform, with replacement, as copies."""
        return self.rows(rng.integers(0, len(self), count))

    def rows(self, rows: Array, without: str = "") -> dict[str, Array]:
        """Copies of the transitions in these rows, of any shape: a field is (*rows.shape, ...); `without` one field."""
        # take needs a fourth of the time of array[rows]
        return {name: array.take(rows, axis=0) for name, array in self.arrays.items() if name != without}

    def contents(self) -> dict[str, Array]:
        """Views of all that must be kept to make the same buffer again."""
        size = len(self)
        kept = {name: array[:size] for name, array in self.arrays.items()}
        return {**kept, INSERTED: np.array([self.inserted])}

    def restore(self, contents: dict[str, Array], frames: int = 0) -> None:
        """Make the buffer what `contents` says. ValueError when it is of another shape, dtype or capacity."""
        inserted = int(contents[INSERTED][0])
        for name, array in self.arrays.items():
            kept, wanted = contents[name], (min(inserted, self.capacity), *array.shape[1:])
            if kept.shape != wanted or kept.dtype != array.dtype:
                raise ValueError(f"replay {name!r} is {kept.dtype}{kept.shape}, this run needs {array.dtype}{wanted}")
        for name, array in self.arrays.items():
            array[: len(contents[name])] = contents[name]
        self._begun[0] = inserted
        self._commit(inserted, NO_STEPS, frames)

    def _commit(self, inserted: int, source: Source, frames: int) -> None:
        number = int(self._commits[0]) + 1
        self._marks[number % 2] = (inserted, *source, frames)
        self._commits[0] = number
        self.inserted, self.source, self.frames = inserted, source, frames

    def _mend(self) -> None:
        """Put whole transitions over those that a learner was overwriting when it died.

        The steps that it was at are still to be learned from, so the same transitions come to these rows again.
        """
        begun = int(self._begun[0])
        torn = np.arange(self.inserted, max(begun, self.inserted)) % self.capacity
        torn = torn[torn < len(self)]
        whole = np.setdiff1d(np.arange(len(self)), torn)
        if len(torn) and not len(whole):
            self._commit(0, self.source, self.frames)
        for array in self.arrays.values() if len(torn) and len(whole) else ():
            array[torn] = array[np.resize(whole, len(torn))]
        self._begun[0] = self.inserted


def _write_around(ring: Array, start: int, rows: Array) -> None:
    until_end = len(ring) - start
    ring[start : start + len(rows)] = rows[:until_end]
    if len(rows) > until_end:
        ring[: len(rows) - until_end] = rows[until_end:]
