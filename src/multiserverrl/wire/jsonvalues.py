"""Values of spaces as JSON for people and other languages, and back.

Arrays are nested lists; non-finite numbers are the strings NaN, Infinity, -Infinity; integers
beyond 2**53 are strings. Reading goes by the space, so a list becomes the array that the space says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from multiserverrl.errors import ActionError, WireError
from multiserverrl.wire.spaces import json_number, number_from_json

__all__ = ["from_json", "to_json"]


def to_json(value: Any) -> Any:
    """Any carriable value as JSON; what JSON cannot say exactly is said in words (`str`)."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        return json_number(value)
    if isinstance(value, np.ndarray):
        return [to_json(item) for item in value] if value.ndim else to_json(value[()])
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, spaces.GraphInstance):
        return {"nodes": to_json(value.nodes), "edges": to_json(value.edges), "edge_links": to_json(value.edge_links)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return str(value)


def from_json(space: spaces.Space[Any], value: Any, name: str = "action") -> Any:
    """A value of the space from its JSON; ActionError names what is of the wrong shape or kind."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.spaces.keys():
            raise ActionError(f"{name} must be an object with the keys {list(space.spaces)}")
        return {key: from_json(inner, value[key], f"{name}[{key!r}]") for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        parts = _list_of(value, len(space.spaces), name)
        return tuple(from_json(inner, part, f"{name}[{i}]") for i, (inner, part) in enumerate(zip(space.spaces, parts)))
    if isinstance(space, spaces.OneOf):
        index, inner = _list_of(value, 2, name)
        if not isinstance(index, int) or not 0 <= index < len(space.spaces):
            raise ActionError(f"{name}[0] must name one of {len(space.spaces)} spaces")
        return np.int64(index), from_json(space.spaces[index], inner, f"{name}[1]")
    if isinstance(space, spaces.Text):
        if not isinstance(value, str):
            raise ActionError(f"{name} must be a text, not {type(value).__name__}")
        return value
    if isinstance(space, spaces.Sequence):
        return _sequence(space, value, name)
    if isinstance(space, spaces.Graph):
        return _graph(space, value, name)
    return _array(space, value, name)


def _list_of(value: Any, length: int, name: str) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise ActionError(f"{name} must be a list of {length}")
    return value


def _sequence(space: spaces.Sequence, value: Any, name: str) -> Any:
    if not isinstance(value, list):
        raise ActionError(f"{name} must be a list, not {type(value).__name__}")
    items = [from_json(space.feature_space, item, f"{name}[{index}]") for index, item in enumerate(value)]
    return np.stack(items) if space.stack and items else tuple(items)


def _graph(space: spaces.Graph, value: Any, name: str) -> spaces.GraphInstance:
    if not isinstance(value, dict) or not {"nodes", "edges", "edge_links"} >= value.keys() >= {"nodes"}:
        raise ActionError(f"{name} must be an object with nodes, edges and edge_links")
    nodes = np.array(_numbers(value["nodes"], name), space.node_space.dtype)
    edges, links = value.get("edges"), value.get("edge_links")
    return spaces.GraphInstance(
        nodes,
        None if edges is None or space.edge_space is None else np.array(_numbers(edges, name), space.edge_space.dtype),
        None if links is None else np.array(_numbers(links, name), np.int32).reshape(-1, 2),
    )


def _array(space: spaces.Space[Any], value: Any, name: str) -> Any:
    try:
        array = np.array(_numbers(value, name))
    except (ValueError, OverflowError) as error:
        raise ActionError(f"{name} is no array: {error}") from error
    assert space.shape is not None and space.dtype is not None
    if array.shape != space.shape:
        raise ActionError(f"{name} has shape {array.shape}; the space {space} says {space.shape}")
    if np.dtype(space.dtype).kind in "iu" and array.dtype.kind not in "iub":
        raise ActionError(f"{name} must be whole numbers, as {space} says, not {array.dtype}")
    return array.astype(space.dtype)[()]


def _numbers(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_numbers(item, name) for item in value]
    if isinstance(value, bool):
        return int(value)
    try:
        return number_from_json(value)
    except WireError as error:
        raise ActionError(f"{name}: {error}") from error
