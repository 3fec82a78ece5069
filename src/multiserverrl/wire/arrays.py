"""Where the values of a batch lie in a buffer: spaces of fixed size as flat arrays, one after the other.

A *leaf* is one array of a nested space (Box, Discrete, MultiDiscrete, MultiBinary). N values of a
space are one (N, *shape) array a leaf, aligned to 8 bytes, little-endian. The same layout is the body
of a message and the shared block between front and env workers, so a reply is sent as it lies.
Spaces without a fixed size (Text, Sequence, Graph, OneOf) have no layout and travel as trees.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from multiserverrl.errors import SpaceError, WireError
from multiserverrl.wire.brief import brief, key_fault

__all__ = ["BatchLayout", "Leaf", "StepLayout", "is_fixed", "leaves_of", "nest"]

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview
_ALIGNMENT_BYTES = 8
_FLOAT64 = struct.Struct("<d")
_LEAF_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class Leaf(NamedTuple):
    """One array of a nested space; `path` leads to it through Dicts (str) and Tuples (int)."""

    path: tuple[str | int, ...]
    space: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def name(self, of: str) -> str:
        """How a message names it: `obs['camera'][0]`."""
        return of + "".join(f"[{part!r}]" for part in self.path)


def is_fixed(space: spaces.Space[Any]) -> bool:
    """Whether every value of the space has the same size."""
    if isinstance(space, spaces.Dict):
        return all(map(is_fixed, space.spaces.values()))
    if isinstance(space, spaces.Tuple):
        return all(map(is_fixed, space.spaces))
    return isinstance(space, _LEAF_SPACES)


def leaves_of(space: spaces.Space[Any], path: tuple[str | int, ...] = ()) -> list[Leaf]:
    """The leaves of a space of fixed size, in its own order."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, inner in space.spaces.items() for leaf in leaves_of(inner, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for index, inner in enumerate(space.spaces) for leaf in leaves_of(inner, (*path, index))]
    if not isinstance(space, _LEAF_SPACES):
        raise SpaceError(f"a {type(space).__name__} space has no fixed size")
    assert space.shape is not None and space.dtype is not None
    return [Leaf(path, space, np.dtype(space.dtype).newbyteorder("<"), tuple(space.shape))]


def nest(space: spaces.Space[Any], arrays: list[Any]) -> Any:
    """The leaves' arrays as the space nests them; takes them from the front of `arrays`."""
    if isinstance(space, spaces.Dict):
        return {key: nest(inner, arrays) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nest(inner, arrays) for inner in space.spaces)
    return arrays.pop(0)


def flatten(space: spaces.Space[Any], value: Any, of: str) -> list[Any]:
    """A nested value as a list in the leaves' order; SpaceError names a part that is missing or of another kind."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.spaces.keys():
            got = key_fault(value, space.spaces) if isinstance(value, dict) else brief(value)
            raise SpaceError(f"{of} must be a dict with the keys {list(space.spaces)}; it is {got}")
        return [part for key, inner in space.spaces.items() for part in flatten(inner, value[key], f"{of}[{key!r}]")]
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            got = f"of {len(value)}" if isinstance(value, (tuple, list)) else brief(value)
            raise SpaceError(f"{of} must be a tuple of {len(space.spaces)}, not {got}")
        return [part for i, inner in enumerate(space.spaces) for part in flatten(inner, value[i], f"{of}[{i}]")]
    return [value]


class BatchLayout:
    """N values of a space of fixed size in one buffer, from `offset` on."""

    def __init__(self, space: spaces.Space[Any], num: int, offset: int = 0) -> None:
        self.space, self.num = space, num
        self.leaves = leaves_of(space)
        self.offsets: list[int] = []
        for leaf in self.leaves:
            offset = _aligned(offset)
            self.offsets.append(offset)
            offset += leaf.dtype.itemsize * num * int(np.prod(leaf.shape, dtype=np.int64))
        self.end = offset
        self._is_plain = len(self.leaves) == 1 and not self.leaves[0].path
        # a value of a Box is an array even without axes; of a Discrete it is a NumPy scalar
        self._picks = [(...,) if isinstance(leaf.space, spaces.Box) and not leaf.shape else () for leaf in self.leaves]
        self._is_simple = not any(self._picks)
        # of a value that is just one array: it needs no view of the whole batch
        self._row_bytes = (self.end - self.offsets[0]) // num if num and self._is_plain and self.leaves[0].shape else 0

    def arrays(self, buffer: Buffer) -> list[Array]:
        """One (N, *shape) view a leaf."""
        return [
            np.ndarray((self.num, *leaf.shape), leaf.dtype, buffer, offset)
            for leaf, offset in zip(self.leaves, self.offsets, strict=True)
        ]

    def batch(self, buffer: Buffer) -> Any:
        """The batch as the space nests it, as views on the buffer."""
        if self._is_plain:
            leaf = self.leaves[0]
            return np.ndarray((self.num, *leaf.shape), leaf.dtype, buffer, self.offsets[0])
        return nest(self.space, self.arrays(buffer))

    def row(self, buffer: Buffer, index: int) -> Any:
        """One value, as views on the buffer (NumPy scalars for Discrete)."""
        if self._row_bytes and index < self.num:
            leaf = self.leaves[0]
            return np.ndarray(leaf.shape, leaf.dtype, buffer, self.offsets[0] + index * self._row_bytes)
        return self._row(self.arrays(buffer), index)

    def rows(self, buffer: Buffer) -> list[Any]:
        """All N values, as views on the buffer."""
        arrays = self.arrays(buffer)
        if self._is_plain and self._is_simple:
            return list(arrays[0])
        return [self._row(arrays, index) for index in range(self.num)]

    def _row(self, arrays: list[Array], index: int) -> Any:
        if self._is_simple:
            return arrays[0][index] if self._is_plain else nest(self.space, [array[index] for array in arrays])
        return nest(self.space, [array[(index, *pick)] for array, pick in zip(arrays, self._picks, strict=True)])

    def row_writer(self, buffer: Buffer, of: str) -> Callable[[int, Any], None]:
        """A function that writes one value into a row; SpaceError for one that the space says otherwise of."""
        writers = [_leaf_writer(leaf, view, of) for leaf, view in zip(self.leaves, self.arrays(buffer), strict=True)]
        if self._is_plain:
            return writers[0]
        space = self.space

        def write(index: int, value: Any) -> None:
            for write_leaf, part in zip(writers, flatten(space, value, of), strict=True):
                write_leaf(index, part)

        return write


class StepLayout(BatchLayout):
    """The body of an answer that bears observations.

    Rewards (N,) float64, the obs leaves, terminated (N,) bool, truncated (N,) bool.
    A space without a fixed size leaves the obs part empty: its observations travel as a tree.
    """

    def __init__(self, space: spaces.Space[Any], num: int) -> None:
        self.is_fixed = is_fixed(space)
        super().__init__(space if self.is_fixed else spaces.Tuple([]), num, offset=8 * num)
        self._ends = _aligned(self.end)
        self.size_bytes = _aligned(self._ends + 2 * num)

    def unpack(self, body: Buffer) -> tuple[Any, Array, Array, Array]:
        """(observations as a batch or None without a fixed size, rewards, terminated, truncated), as views on the body.

        One call for the step path; WireError unless the body is of this layout.
        """
        num, ends = self.num, self._ends
        if len(body) != self.size_bytes:
            self.check(len(body))
        return (
            self.batch(body) if self.is_fixed else None,
            np.ndarray((num,), np.float64, body, 0),
            np.ndarray((num,), np.bool_, body, ends),
            np.ndarray((num,), np.bool_, body, ends + num),
        )

    def unpack_only(self, body: Buffer) -> tuple[Any, float, bool, bool]:
        """The same for a layout of one env, in the singular: Python's own float and bools."""
        if len(body) != self.size_bytes:
            self.check(len(body))
        ends = self._ends
        obs = self.row(body, 0) if self.is_fixed else None
        return obs, _FLOAT64.unpack_from(body)[0], body[ends] != 0, body[ends + 1] != 0

    def rewards(self, buffer: Buffer) -> Array:
        """(N,) float64."""
        return np.ndarray((self.num,), np.float64, buffer, 0)

    def terminated(self, buffer: Buffer) -> Array:
        """(N,) bool."""
        return np.ndarray((self.num,), np.bool_, buffer, self._ends)

    def truncated(self, buffer: Buffer) -> Array:
        """(N,) bool."""
        return np.ndarray((self.num,), np.bool_, buffer, self._ends + self.num)

    def check(self, size_bytes: int) -> None:
        """WireError unless a body of so many bytes is one of this layout."""
        if size_bytes != self.size_bytes:
            raise WireError(f"a body of {self.size_bytes} bytes was expected for {self.num} envs, not {size_bytes}")


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _leaf_writer(leaf: Leaf, view: Array, of: str) -> Callable[[int, Any], None]:
    dtype, shape = leaf.dtype, leaf.shape

    def write(index: int, value: Any) -> None:
        if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
            value = fit(leaf, value, of)
        view[index] = value

    return write


def fit(leaf: Leaf, value: Any, of: str) -> Array:
    """A value as an array of the leaf's shape, cast where nothing of its kind is lost; SpaceError otherwise."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"{leaf.name(of)} is no array: {error}") from error
    if array.shape != leaf.shape or not is_castable(array, leaf.dtype):
        raise SpaceError(
            f"{leaf.name(of)} is {array.dtype}{list(array.shape)}, the space says {leaf.dtype}{list(leaf.shape)}; "
            "wrap the env so that reset() and step() return what its space says"
        )
    return array


def is_castable(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a cast keeps the kind of the numbers, and whole numbers exactly (np.asarray makes int64 of all ints)."""
    if np.can_cast(array.dtype, dtype):
        return True
    if array.dtype.kind in "iub" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return bool(array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max))
    return bool(np.can_cast(array.dtype, dtype, "same_kind"))
