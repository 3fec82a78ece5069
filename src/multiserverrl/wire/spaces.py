"""Gymnasium spaces as plain data and back: every space of Gymnasium, nested in any way.

The same description serves both wires; it is JSON as it stands (non-finite numbers are the strings
NaN, Infinity and -Infinity; integers beyond 2**53 are strings).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from multiserverrl.errors import SpaceError, WireError

__all__ = ["Description", "describe_space", "json_number", "number_from_json", "restore_space"]

Description = dict[str, Any]

_MAX_ELEMENTS = 2**31  # of one Box; a declared shape is not believed beyond it
_MAX_DEPTH = 32


def json_number(value: float | int | bool) -> float | int | str | bool:
    """A number as JSON can hold it."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        whole = int(value)
        return whole if abs(whole) <= 2**53 else str(whole)
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def number_from_json(value: Any) -> float | int | bool:
    """The number again; WireError for anything else."""
    if isinstance(value, str):
        if value in ("NaN", "Infinity", "-Infinity"):
            return float(value.replace("Infinity", "inf"))
        try:
            return int(value)
        except ValueError:
            raise WireError(f"{value[:40]!r} is not a number") from None
    if isinstance(value, (int, float)):
        return value
    raise WireError(f"a number was expected, not {type(value).__name__}")


def describe_space(space: spaces.Space[Any], path: str = "space") -> Description:
    """Plain data for a space; SpaceError names the part that cannot be carried."""
    describe = _DESCRIBE.get(type(space))
    if describe is None:
        raise SpaceError(
            f"{path} is a {type(space).__module__}.{type(space).__qualname__}, which cannot be carried; "
            "use the spaces of gymnasium.spaces, or wrap the env so that it does"
        )
    return {"type": type(space).__name__, **describe(space, path)}


def restore_space(description: Description, depth: int = 0) -> spaces.Space[Any]:
    """The space again; WireError for a description that describes none."""
    if depth > _MAX_DEPTH:
        raise WireError(f"a space nested more than {_MAX_DEPTH} deep is not believed")
    if not isinstance(description, dict) or description.get("type") not in _RESTORE:
        raise WireError(f"this describes no space: {str(description)[:80]}")
    try:
        return _RESTORE[description["type"]](description, depth + 1)
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise WireError(f"a broken description of a {description['type']} space: {error!r}") from error


def _bound(values: np.ndarray[Any, Any]) -> Any:
    """One number where all are the same, else all of them, flat."""
    flat = values.ravel()
    if flat.size and (flat == flat[0]).all():
        return json_number(flat[0])
    return [json_number(value) for value in flat.tolist()]


def _restore_bound(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if isinstance(value, list):
        return np.array([number_from_json(item) for item in value], dtype).reshape(shape)
    return np.full(shape, number_from_json(value), dtype)


def _describe_box(space: spaces.Box, path: str) -> Description:
    if space.dtype.kind not in "biuf":
        raise SpaceError(f"{path} is a Box of {space.dtype}, which cannot be carried")
    return {
        "dtype": space.dtype.str.lstrip("=|<>"),
        "shape": list(space.shape),
        "low": _bound(space.low),
        "high": _bound(space.high),
    }


def _restore_box(description: Description, depth: int) -> spaces.Box:
    shape, dtype = _shape(description["shape"]), np.dtype(description["dtype"])
    if dtype.kind not in "biuf":
        raise WireError(f"a Box of {dtype} is not carried")
    low, high = (_restore_bound(description[side], shape, dtype) for side in ("low", "high"))
    return spaces.Box(low, high, shape, dtype.type)


def _shape(value: Any) -> tuple[int, ...]:
    shape = tuple(int(extent) for extent in value)
    elements = 1
    for extent in shape:
        elements *= extent
        if extent < 0 or elements > _MAX_ELEMENTS:
            raise WireError(f"a space of shape {shape} is not believed")
    return shape


def _describe_discrete(space: spaces.Discrete, path: str) -> Description:
    return {"n": json_number(space.n), "start": json_number(space.start), "dtype": space.dtype.name}


def _restore_discrete(description: Description, depth: int) -> spaces.Discrete:
    n, start = number_from_json(description["n"]), number_from_json(description["start"])
    return spaces.Discrete(int(n), start=int(start), dtype=np.dtype(description["dtype"]).type)


def _describe_multi_discrete(space: spaces.MultiDiscrete, path: str) -> Description:
    return {
        "shape": list(space.shape),
        "nvec": [json_number(value) for value in space.nvec.ravel().tolist()],
        "start": [json_number(value) for value in space.start.ravel().tolist()],
        "dtype": space.dtype.name,
    }


def _restore_multi_discrete(description: Description, depth: int) -> spaces.MultiDiscrete:
    shape, dtype = _shape(description["shape"]), np.dtype(description["dtype"]).type
    nvec, start = (
        np.array([number_from_json(item) for item in description[key]], dtype).reshape(shape)
        for key in ("nvec", "start")
    )
    return spaces.MultiDiscrete(nvec, dtype=dtype, start=start)


def _describe_multi_binary(space: spaces.MultiBinary, path: str) -> Description:
    return {"n": list(space.shape)}


def _restore_multi_binary(description: Description, depth: int) -> spaces.MultiBinary:
    return spaces.MultiBinary(_shape(description["n"]))


def _describe_text(space: spaces.Text, path: str) -> Description:
    return {
        "min_length": space.min_length,
        "max_length": space.max_length,
        "charset": "".join(sorted(space.character_set)),
    }


def _restore_text(description: Description, depth: int) -> spaces.Text:
    return spaces.Text(
        int(description["max_length"]), min_length=int(description["min_length"]), charset=str(description["charset"])
    )


def _describe_dict(space: spaces.Dict, path: str) -> Description:
    for key in space.spaces:
        if not isinstance(key, str):
            raise SpaceError(f"{path} has the key {key!r}; only text keys can be carried")
    return {"spaces": [[key, describe_space(inner, f"{path}[{key!r}]")] for key, inner in space.spaces.items()]}


def _restore_dict(description: Description, depth: int) -> spaces.Dict:
    return spaces.Dict([(str(key), restore_space(inner, depth)) for key, inner in description["spaces"]])


def _describe_tuple(space: spaces.Tuple | spaces.OneOf, path: str) -> Description:
    return {"spaces": [describe_space(inner, f"{path}[{index}]") for index, inner in enumerate(space.spaces)]}


def _restore_tuple(description: Description, depth: int) -> spaces.Tuple:
    return spaces.Tuple([restore_space(inner, depth) for inner in description["spaces"]])


def _restore_one_of(description: Description, depth: int) -> spaces.OneOf:
    return spaces.OneOf([restore_space(inner, depth) for inner in description["spaces"]])


def _describe_sequence(space: spaces.Sequence, path: str) -> Description:
    return {"space": describe_space(space.feature_space, f"{path} item"), "stack": bool(space.stack)}


def _restore_sequence(description: Description, depth: int) -> spaces.Sequence:
    return spaces.Sequence(restore_space(description["space"], depth), stack=bool(description["stack"]))


def _describe_graph(space: spaces.Graph, path: str) -> Description:
    edges = None if space.edge_space is None else describe_space(space.edge_space, f"{path} edges")
    return {"nodes": describe_space(space.node_space, f"{path} nodes"), "edges": edges}


def _restore_graph(description: Description, depth: int) -> spaces.Graph:
    edges = None if description["edges"] is None else restore_space(description["edges"], depth)
    return spaces.Graph(restore_space(description["nodes"], depth), edges)


_DESCRIBE: dict[type, Any] = {
    spaces.Box: _describe_box,
    spaces.Discrete: _describe_discrete,
    spaces.MultiDiscrete: _describe_multi_discrete,
    spaces.MultiBinary: _describe_multi_binary,
    spaces.Text: _describe_text,
    spaces.Dict: _describe_dict,
    spaces.Tuple: _describe_tuple,
    spaces.OneOf: _describe_tuple,
    spaces.Sequence: _describe_sequence,
    spaces.Graph: _describe_graph,
}

_RESTORE: dict[str, Any] = {
    "Box": _restore_box,
    "Discrete": _restore_discrete,
    "MultiDiscrete": _restore_multi_discrete,
    "MultiBinary": _restore_multi_binary,
    "Text": _restore_text,
    "Dict": _restore_dict,
    "Tuple": _restore_tuple,
    "OneOf": _restore_one_of,
    "Sequence": _restore_sequence,
    "Graph": _restore_graph,
}
