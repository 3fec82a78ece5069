"""Values of spaces as JSON for people and other languages, and back.

Arrays are nested lists; non-finite numbers are the strings NaN, Infinity, -Infinity; integers
beyond 2**53 are strings. Reading goes by the space, so a list becomes the array that the space says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from multiserverrl.errors import ActionError, WireError
from multiserverrl.wire.brief import brief, key_fault
from multiserverrl.wire.members import stacked
from multiserverrl.wire.spaces import json_number, number_from_json

__all__ = ["from_json", "to_json"]

_MAX_DEPTH = 32  # axes of an array; NumPy before 2.0 knows no more


def to_json(value: Any) -> Any:
    """Any carriable value as JSON; what JSON cannot say exactly is said in words (`str`)."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, np.timedelta64):  # to NumPy it is a whole number
        return str(value)
    if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        return json_number(value)
    if isinstance(value, np.ndarray):
        return _array_to_json(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, spaces.GraphInstance):
        return {"nodes": to_json(value.nodes), "edges": to_json(value.edges), "edge_links": to_json(value.edge_links)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return str(value)


def _array_to_json(array: np.ndarray[Any, Any]) -> Any:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b" or (kind in "iu" and size <= 4) or (kind == "f" and size <= 8 and np.isfinite(array).all()):
        return array.tolist()  # JSON holds them all
    return [to_json(item) for item in array] if array.ndim else to_json(array[()])


def from_json(space: spaces.Space[Any], value: Any, name: str = "action") -> Any:
    """A value of the space from its JSON; ActionError names what is of the wrong shape or kind."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.spaces.keys():
            got = key_fault(value, space.spaces) if isinstance(value, dict) else brief(value)
            raise ActionError(f"{name} must be an object with the keys {list(space.spaces)}; it is {got}")
        return {key: from_json(inner, value[key], f"{name}[{key!r}]") for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, _list_of(value, len(space.spaces), name), strict=True)
        return tuple(from_json(inner, part, f"{name}[{i}]") for i, (inner, part) in enumerate(parts))
    if isinstance(space, spaces.OneOf):
        index, inner = _list_of(value, 2, name)
        if type(index) is not int or not 0 <= index < len(space.spaces):
            raise ActionError(f"{name}[0] must name one of {len(space.spaces)} spaces")
        return np.int64(index), from_json(space.spaces[index], inner, f"{name}[1]")
    if isinstance(space, spaces.Text):
        if not isinstance(value, str):
            raise ActionError(f"{name} must be a text, not {brief(value)}")
        return value
    if isinstance(space, spaces.Sequence):
        return _sequence(space, value, name)
    if isinstance(space, spaces.Graph):
        return _graph(space, value, name)
    return _array(space, value, name)


def _list_of(value: Any, length: int, name: str) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise ActionError(f"{name} must be a list of {length}, not {brief(value)}")
    return value


def _sequence(space: spaces.Sequence, value: Any, name: str) -> Any:
    if not isinstance(value, list):
        raise ActionError(f"{name} must be a list, not {brief(value)}")
    return _stacked(space.feature_space, value, name) if space.stack else _items(space.feature_space, value, name)


def _items(space: spaces.Space[Any], values: list[Any], name: str) -> tuple[Any, ...]:
    return tuple(from_json(space, item, f"{name}[{index}]") for index, item in enumerate(values))


def _stacked(space: spaces.Space[Any], values: Any, name: str) -> Any:
    """A list of values of a space as one batch of it."""
    if not isinstance(values, list):
        raise ActionError(f"{name} must be a list, not {brief(values)}")
    return stacked(space, _items(space, values, name))


def _graph(space: spaces.Graph, value: Any, name: str) -> spaces.GraphInstance:
    if not isinstance(value, dict) or not {"nodes", "edges", "edge_links"} >= value.keys() >= {"nodes"}:
        raise ActionError(f"{name} must be an object with nodes, edges and edge_links")
    nodes = _stacked(space.node_space, value["nodes"], f"{name}['nodes']")
    edges, links = value.get("edges"), value.get("edge_links")
    if edges is None and links is None:
        return spaces.GraphInstance(nodes, None, None)
    if edges is None or links is None or space.edge_space is None:
        raise ActionError(f"{name} must have edges and edge_links, both or neither, as {str(space)[:200]} says")
    pairs = spaces.Box(0, max(0, len(value["nodes"]) - 1), (2,), np.int32)
    return spaces.GraphInstance(
        nodes,
        _stacked(space.edge_space, edges, f"{name}['edges']"),
        _stacked(pairs, links, f"{name}['edge_links']"),
    )


def _array(space: spaces.Space[Any], value: Any, name: str) -> Any:
    assert space.shape is not None
    dtype = np.dtype(space.dtype)
    numbers = _numbers(value, name, dtype, 0)
    try:
        with np.errstate(over="ignore"):  # beyond a Box's bounds they pass
            array = np.array(numbers, dtype)
    except (ValueError, OverflowError) as error:
        raise ActionError(f"{name} is no array: {error}") from error
    if array.shape != space.shape and not (array.size == 0 and 0 in space.shape):
        raise ActionError(f"{name} has shape {array.shape}; the space {str(space)[:200]} says {space.shape}")
    return array.reshape(space.shape) if isinstance(space, spaces.Box) else array[()]


def _numbers(value: Any, name: str, dtype: np.dtype[Any], depth: int) -> Any:
    """Nested lists of numbers, whole and within the dtype's range where it is one of whole numbers."""
    if isinstance(value, list):
        if depth > _MAX_DEPTH:
            raise ActionError(f"{name} is nested more than {_MAX_DEPTH} deep")
        return [_numbers(item, f"{name}[{index}]", dtype, depth + 1) for index, item in enumerate(value)]
    number = _number(value, name, dtype)
    if dtype.kind == "f":
        return number
    if not isinstance(number, int):
        raise ActionError(f"{name} must be whole numbers, not {number}")
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not low <= number <= high:
        raise ActionError(f"{name} is {brief(number)}, which {dtype} cannot hold")
    return int(number)


def _number(value: Any, name: str, dtype: np.dtype[Any]) -> Any:
    """A bool stands for a number only where the space has bools, a text only for one that JSON cannot say."""
    if isinstance(value, bool) and dtype.kind != "b":
        raise ActionError(f"{name} is {str(value).lower()}; a number was expected")
    try:
        number = number_from_json(value)
    except WireError as error:
        raise ActionError(f"{name}: {error}") from error
    if isinstance(value, str) and isinstance(number, int) and abs(number) <= 2**53:
        raise ActionError(f"{name} is the text {brief(value)}; a number was expected")
    return number
