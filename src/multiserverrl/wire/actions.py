"""Actions: from what a caller hands in to the wire, and the check at the server's door.

Refused by name: a wrong shape, a cast that loses its kind, NaN, a non-member of Discrete,
MultiDiscrete or MultiBinary. Beyond a Box's bounds they pass, as they do locally.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from multiserverrl.errors import ActionError, SpaceError
from multiserverrl.wire.arrays import BatchLayout, Buffer, Leaf, flatten, is_castable, is_fixed
from multiserverrl.wire.brief import brief
from multiserverrl.wire.members import Bounds, bounds_of, member, not_a_member, outside

__all__ = ["ActionCodec"]

Array = NDArray[Any]
_INT_FORMATS = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}  # by dtype


class ActionCodec:
    """The actions of N envs of one action space, packed and checked.

    `first_row`: what a message calls the first of the envs, where there are several.
    """

    def __init__(self, space: spaces.Space[Any], num: int) -> None:
        self.space, self.num = space, num
        self.first_row = None if num == 1 else 0
        self.layout = BatchLayout(space, num) if is_fixed(space) else None
        self._is_plain = not isinstance(space, (spaces.Dict, spaces.Tuple))
        self._discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self._low, self._high = int(space.start), int(space.start) + int(space.n) - 1
            self._dtype = np.dtype(space.dtype).newbyteorder("<")
            self._ints = struct.Struct(f"<{num}{_INT_FORMATS[self._dtype.str[1:]]}")
        self._bounds = [] if self.layout is None else [bounds_of(leaf) for leaf in self.layout.leaves]

    @property
    def size_bytes(self) -> int:
        """Of the packed actions; 0 for spaces without a fixed size."""
        return self.layout.end if self.layout is not None else 0

    def pack(self, actions: Any, *, is_single: bool = False) -> bytes:
        """A batch of actions, nested as the batched space nests them, as the body of a message.

        ActionError names the part whose shape or kind is wrong; nothing was sent. `is_single`: the caller's
        action has no axis for envs, which messages leave out.
        """
        assert self.layout is not None
        if self._discrete:
            return self._checked(self.layout.leaves[0], actions, "action", is_single).tobytes()
        try:
            parts = flatten(self.space, actions, "action")
        except SpaceError as error:
            raise ActionError(str(error)) from error
        body = bytearray(self.layout.end)
        for leaf, part, view in zip(self.layout.leaves, parts, self.layout.arrays(body), strict=True):
            view[...] = self._checked(leaf, part, leaf.name("action"), is_single)
        return bytes(body)

    def pack_one(self, action: Any) -> bytes:
        """Like `pack`, for a single action of a session with one env."""
        if self._discrete and type(action) is int:  # the usual case
            return self._packed_int(action)
        try:
            batch = np.asarray(action)[None] if self._is_plain else _batched(self.space, action)
        except (TypeError, ValueError) as error:
            raise ActionError(f"action is no array: {error}") from error
        return self.pack(batch, is_single=True)

    def _packed_int(self, action: int) -> bytes:
        if not self._low <= action <= self._high:
            raise ActionError(f"action is {brief(action)}, which is not a member of {self.space}")
        return action.to_bytes(self._dtype.itemsize, "little", signed=self._dtype.kind == "i")

    def _checked(self, leaf: Leaf, actions: Any, name: str, is_single: bool) -> Array:
        try:
            array = np.asarray(actions)
        except (TypeError, ValueError) as error:
            raise ActionError(f"{name} is no array: {error}") from error
        wanted = (self.num, *leaf.shape)
        if array.shape != wanted and is_single:
            raise ActionError(f"{name} has shape {array.shape[1:]}; {leaf.shape} was expected")
        if array.shape != wanted:
            raise ActionError(
                f"{name} has shape {array.shape}; {wanted} was expected, the first axis for {self.num} env(s)"
            )
        if array.dtype == leaf.dtype:
            return array
        if not is_castable(array, leaf.dtype):
            what = "the numbers in it" if array.dtype.kind in "iub" else "its kind"
            told = f"{brief(actions)}: " if isinstance(actions, (str, bytes, int, float)) else ""
            raise ActionError(f"{name} is {told}{array.dtype}; a cast to the space's {leaf.dtype} would lose {what}")
        with np.errstate(over="ignore"):  # beyond a Box's bounds they pass
            return array.astype(leaf.dtype)

    def check(self, body: Buffer) -> list[int] | None:
        """The check at the door: ActionError when these bytes are no actions of the space.

        Returns them where an env gets them as Python ints: those of a Discrete of int64, its default.
        """
        assert self.layout is not None
        if len(body) != self.layout.end:
            raise ActionError(
                f"the actions are {len(body)} bytes; {self.layout.end} were expected for {self.num} of {self.space}"
            )
        if self._discrete:
            values = list(self._ints.unpack(body))
            if values and (min(values) < self._low or max(values) > self._high):
                self._refuse_discrete(values)
            return values if self._dtype == np.int64 else None
        for leaf, bounds, view in zip(self.layout.leaves, self._bounds, self.layout.arrays(body), strict=True):
            self._check_leaf(leaf, bounds, view)
        return None

    def _refuse_discrete(self, values: list[int]) -> None:
        index, value = next((i, v) for i, v in enumerate(values) if not self._low <= v <= self._high)
        raise ActionError(f"{self._env(index)}action is {value}, which is not a member of {self.space}")

    def _check_leaf(self, leaf: Leaf, bounds: Bounds, view: Array) -> None:
        """`view` is (N, *shape)."""
        wrong = outside(leaf, bounds, view)
        if wrong is not None and wrong.any():
            row = int(wrong.reshape(self.num, -1).any(axis=1).argmax())
            error = not_a_member(leaf.name("action"), leaf, np.asarray(wrong[row]), np.asarray(view[row]))
            raise ActionError(f"{self._env(row)}{error}")

    def _env(self, row: int) -> str:
        """Which env a message is about, where there are several."""
        return "" if self.first_row is None else f"env {self.first_row + row}: "

    def check_tree(self, actions: Any) -> list[Any]:
        """The same for a space without a fixed size: a list of N members; returns them, arrays in their dtypes."""
        if not isinstance(actions, (list, tuple)) or len(actions) != self.num:
            raise ActionError(f"a list of {self.num} actions was expected, one an env, not {brief(actions)}")
        return [self._member(index, action) for index, action in enumerate(actions)]

    def _member(self, index: int, action: Any) -> Any:
        try:
            return member(self.space, action, "action")
        except ActionError as error:
            raise ActionError(f"{self._env(index)}{error}") from error


def _batched(space: spaces.Space[Any], value: Any) -> Any:
    """One nested value as a batch of one; what is nested wrongly is left for `pack` to name."""
    if isinstance(space, spaces.Dict) and isinstance(value, dict):
        return {key: _batched(space.spaces[key], item) if key in space.spaces else item for key, item in value.items()}
    if isinstance(space, spaces.Tuple) and isinstance(value, (tuple, list)) and len(value) == len(space.spaces):
        return tuple(_batched(inner, item) for inner, item in zip(space.spaces, value, strict=True))
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return value
    return np.asarray(value)[None]
