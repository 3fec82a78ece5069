"""Whether a value may go to an env as a member of its space, part by part, and named where it may not.

Refused: a wrong shape or structure, a cast that loses the numbers or their kind, NaN, a non-member of
Discrete, MultiDiscrete, MultiBinary or Text. Beyond a Box's bounds numbers pass, as they do locally.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from multiserverrl.errors import ActionError
from multiserverrl.wire.arrays import Leaf, is_castable, leaves_of
from multiserverrl.wire.brief import brief, key_fault

__all__ = ["Bounds", "bounds_of", "member", "not_a_member", "outside", "stacked"]

Array = NDArray[Any]
Space = spaces.Space[Any]
Bounds = tuple[Any, Any] | None


def bounds_of(leaf: Leaf) -> Bounds:
    """The smallest and largest member, inclusive; None for a Box of numbers, whose bounds may be passed."""
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start) + int(space.n) - 1
    if isinstance(space, spaces.MultiDiscrete):  # start + nvec may be beyond the dtype, and wrap
        high = np.minimum(space.start.astype(object) + space.nvec.astype(object) - 1, np.iinfo(leaf.dtype).max)
        return space.start, np.asarray(high).astype(leaf.dtype)
    return (0, 1) if isinstance(space, spaces.MultiBinary) or leaf.dtype.kind == "b" else None


def outside(leaf: Leaf, bounds: Bounds, array: Array) -> Array | None:
    """Where an array of the leaf's dtype holds what is no member; None when that cannot be."""
    if bounds is None:
        return np.isnan(array) if leaf.dtype.kind == "f" else None
    if leaf.dtype.kind == "b":  # a byte may hold what no bool does
        array = array.view(np.uint8)
    return np.asarray((array < bounds[0]) | (array > bounds[1]))


def not_a_member(name: str, leaf: Leaf, wrong: Array, array: Array) -> ActionError:
    """The error that names the first number which is no member, by its place in the array."""
    place = np.unravel_index(int(wrong.argmax()), wrong.shape)
    where = name + "".join(f"[{index}]" for index in place)
    if leaf.dtype.kind == "f":
        return ActionError(f"{where} is NaN")
    told = int(array.view(np.uint8)[place]) if leaf.dtype.kind == "b" else int(array[place])
    return ActionError(f"{where} is {told}, which is not a member of {str(leaf.space)[:200]}")


def member(space: Space, value: Any, name: str) -> Any:
    """The value, its arrays in the space's dtypes; ActionError names the part that is no member."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.spaces.keys():
            got = key_fault(value, space.spaces) if isinstance(value, dict) else brief(value)
            raise ActionError(f"{name} must be a dict with the keys {list(space.spaces)}; it is {got}")
        return {key: member(inner, value[key], f"{name}[{key!r}]") for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, _sequence_of(value, len(space.spaces), name), strict=True)
        return tuple(member(inner, part, f"{name}[{index}]") for index, (inner, part) in enumerate(parts))
    if isinstance(space, spaces.OneOf):
        index, inner = _sequence_of(value, 2, name)
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < len(space.spaces):
            raise ActionError(f"{name}[0] must name one of {len(space.spaces)} spaces, not {brief(index)}")
        return np.int64(index), member(space.spaces[int(index)], inner, f"{name}[1]")
    if isinstance(space, spaces.Text):
        return _text(space, value, name)
    if isinstance(space, spaces.Sequence):
        if space.stack:
            return stacked(space.feature_space, _batch_members(space.feature_space, value, name))
        return _members(space.feature_space, _sequence_of(value, None, name), name)
    if isinstance(space, spaces.Graph):
        return _graph(space, value, name)
    return _array(space, value, name)


def stacked(space: Space, items: tuple[Any, ...]) -> Any:
    """Members as one batch of the space, as Gymnasium stacks them; also none at all."""
    empty: Any = create_empty_array(space, len(items))
    return concatenate(space, items, empty) if items else empty


def _text(space: spaces.Text, value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ActionError(f"{name} must be a text, not {brief(value)}")
    if not space.min_length <= len(value) <= space.max_length:
        raise ActionError(f"{name} has {len(value)} characters; {space.min_length} to {space.max_length} were expected")
    for index, character in enumerate(value):
        if character not in space.character_set:
            raise ActionError(f"{name}[{index}] is {character!r}, which is not in the space's charset")
    return value


def _sequence_of(value: Any, length: int | None, name: str) -> Any:
    if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
        raise ActionError(f"{name} must be a tuple{'' if length is None else f' of {length}'}, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return f"of {len(value)}" if isinstance(value, (list, tuple)) else brief(value)


def _members(space: Space, values: Any, name: str) -> tuple[Any, ...]:
    return tuple(member(space, item, f"{name}[{index}]") for index, item in enumerate(values))


def _batch_members(space: Space, batch: Any, name: str) -> tuple[Any, ...]:
    try:
        items = list(iterate(batch_space(space, 1), batch))
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # it is of another structure
        raise ActionError(f"{name} is no batch of {str(space)[:200]}: {str(error)[:200]}") from error
    return _members(space, items, name)


def _graph(space: spaces.Graph, value: Any, name: str) -> spaces.GraphInstance:
    if not isinstance(value, spaces.GraphInstance):
        raise ActionError(f"{name} must be a graph, not {brief(value)}")
    nodes = _batch_members(space.node_space, value.nodes, f"{name}.nodes")
    if value.edges is None and value.edge_links is None:
        return spaces.GraphInstance(stacked(space.node_space, nodes), None, None)
    if value.edges is None or value.edge_links is None or space.edge_space is None:
        raise ActionError(f"{name} must have edges and edge_links, both or neither, as {str(space)[:200]} says")
    edges = _batch_members(space.edge_space, value.edges, f"{name}.edges")
    links = _array(spaces.Box(0, 1, (len(edges), 2), np.int32), value.edge_links, f"{name}.edge_links")
    if ((links < 0) | (links >= len(nodes))).any():
        raise ActionError(f"{name}.edge_links must lead from one of {len(nodes)} nodes to another")
    return spaces.GraphInstance(stacked(space.node_space, nodes), stacked(space.edge_space, edges), links)


def _array(space: Space, value: Any, name: str) -> Any:
    (leaf,) = leaves_of(space)
    try:
        array = np.asarray(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise ActionError(f"{name} is no array: {error}") from error
    if array.shape != leaf.shape:
        raise ActionError(f"{name} has shape {array.shape}; {leaf.shape} was expected")
    if not is_castable(array, leaf.dtype):
        told = f"{brief(value)}: " if array.ndim == 0 else ""
        raise ActionError(f"{name} is {told}{array.dtype}, which the space's {leaf.dtype} cannot hold")
    with np.errstate(over="ignore"):
        array = array.astype(leaf.dtype)
    wrong = outside(leaf, bounds_of(leaf), array)
    if wrong is not None and wrong.any():
        raise not_a_member(name, leaf, wrong, array)
    return array if isinstance(space, spaces.Box) else array[()]
