"""Weights on their way from the learner to those who act: two buffers, written in turn.

A reader copies the newest buffer and then looks whether the writer has begun on it meanwhile (only
possible when it published twice during the copy); if so it copies again. Nobody waits, and a
writer that is killed half-way leaves the newest snapshot whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["SnapshotReader", "SnapshotWriter", "snapshot_fields"]

Array = NDArray[Any]


def snapshot_fields(
    weights: Mapping[str, tuple[str, tuple[int, ...]]],
) -> dict[str, tuple[DTypeLike, tuple[int, ...]]]:
    """The arrays of the channel: every array of the weights twice, and who stands where."""
    fields: dict[str, tuple[DTypeLike, tuple[int, ...]]] = {
        "published": (np.int64, (1,)),  # snapshots ever published; number n lies in buffer n % 2
        "begun": (np.int64, (2,)),  # the number that each buffer was last begun with
        "version": (np.int64, (2,)),
    }
    return fields | {f"weights.{name}": (dtype, (2, *shape)) for name, (dtype, shape) in weights.items()}


def _buffers(views: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix("weights."): views[name] for name in views if name.startswith("weights.")}


class SnapshotWriter:
    """The learner's end (`WeightsWriter`)."""

    def __init__(self, views: Mapping[str, Array]) -> None:
        self._views = views
        self._weights = _buffers(views)

    def publish(self, weights: dict[str, Array], version: int) -> None:
        """See `WeightsWriter.publish`; the names must be those of the channel."""
        if weights.keys() != self._weights.keys():
            raise ValueError(f"weights {sorted(weights)} are published on a channel for {sorted(self._weights)}")
        number = int(self._views["published"][0]) + 1
        buffer = number % 2
        self._views["begun"][buffer] = number
        for name, array in weights.items():
            self._weights[name][buffer] = array
        self._views["version"][buffer] = version
        self._views["published"][0] = number


class SnapshotReader:
    """The end of one who acts (`WeightsReader`)."""

    def __init__(self, views: Mapping[str, Array]) -> None:
        self._views = views
        self._weights = _buffers(views)

    def version(self) -> int:
        """See `WeightsReader.version`."""
        number = int(self._views["published"][0])
        return int(self._views["version"][number % 2]) if number else 0

    def read(self) -> tuple[dict[str, Array], int] | None:
        """See `WeightsReader.read`."""
        while (number := int(self._views["published"][0])) > 0:
            buffer = number % 2
            weights = {name: array[buffer].copy() for name, array in self._weights.items()}
            version = int(self._views["version"][buffer])
            if int(self._views["begun"][buffer]) == number:
                return weights, version
        return None
