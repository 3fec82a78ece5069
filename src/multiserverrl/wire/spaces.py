"""Gymnasium spaces as plain data and back: every space of Gymnasium, nested in any way.

The same description serves both wires; it is JSON as it stands (non-finite numbers are the strings
NaN, Infinity and -Infinity; integers beyond 2**53 are strings). What a description claims is bounded
before anything is made of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from multiserverrl.errors import SpaceError, WireError
from multiserverrl.wire.brief import brief

__all__ = ["Description", "describe_space", "json_number", "number_from_json", "restore_space"]

Array = NDArray[Any]
Description = dict[str, Any]
Space = spaces.Space[Any]

_MAX_BYTES = 2**27  # of one value of a whole space; the largest message is smaller
_MAX_DEPTH = 32
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")
_MOST_DIGITS = 400  # more than the largest number of any dtype has
_WHOLE = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
_NUMBERS = _WHOLE | {"bool", "float16", "float32", "float64"}


def json_number(value: Any) -> float | int | str | bool:
    """A Python or NumPy number as JSON can hold it."""
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
        if len(value) > _MOST_DIGITS or not _WHOLE_NUMBER.fullmatch(value):
            raise WireError(f"{brief(value)} is not a number")
        return int(value)
    if isinstance(value, (int, float)):
        return value
    raise WireError(f"a number was expected, not {type(value).__name__}")


# -- spaces to plain data ----------------------------------------------------------------------------


def describe_space(space: Space, path: str = "space", depth: int = 0) -> Description:
    """Plain data for a space; SpaceError names the part that cannot be carried."""
    describe = _DESCRIBE.get(type(space))
    if describe is None:
        raise SpaceError(
            f"{path} is a {type(space).__module__}.{type(space).__qualname__}, which cannot be carried; "
            "use the spaces of gymnasium.spaces, or wrap the env so that it does"
        )
    if depth > _MAX_DEPTH:
        raise SpaceError(f"{path[:80]}… is nested more than {_MAX_DEPTH} deep, which cannot be carried")
    return {"type": type(space).__name__, **describe(space, path, depth + 1)}


def _bound(values: Array, is_bounded: Array, infinity: str) -> Any:
    """One number where all are the same, else all of them, flat; `infinity` where there is no bound."""
    flat, finite = values.ravel(), is_bounded.ravel()
    if flat.size and flat.tobytes() == flat[:1].tobytes() * flat.size and (finite == finite[0]).all():
        return json_number(flat[0]) if finite[0] else infinity
    return [json_number(value) if one else infinity for value, one in zip(flat.tolist(), finite.tolist(), strict=True)]


def _describe_box(space: spaces.Box, path: str, depth: int) -> Description:
    if space.dtype.name not in _NUMBERS:
        raise SpaceError(f"{path} is a Box of {space.dtype}, which cannot be carried")
    if space.low.nbytes > _MAX_BYTES:
        raise SpaceError(f"{path} is a Box of {space.low.nbytes} bytes, which cannot be carried; {_MAX_BYTES} can")
    return {
        "dtype": space.dtype.name,
        "shape": list(space.shape),
        "low": _bound(space.low, space.bounded_below, "-Infinity"),
        "high": _bound(space.high, space.bounded_above, "Infinity"),
    }


def _describe_discrete(space: spaces.Discrete, path: str, depth: int) -> Description:
    assert space.dtype is not None
    return {"n": json_number(space.n), "start": json_number(space.start), "dtype": np.dtype(space.dtype).name}


def _describe_multi_discrete(space: spaces.MultiDiscrete, path: str, depth: int) -> Description:
    return {
        "shape": list(space.shape),
        "nvec": [json_number(value) for value in space.nvec.ravel().tolist()],
        "start": [json_number(value) for value in space.start.ravel().tolist()],
        "dtype": np.dtype(space.dtype).name,
    }


def _describe_multi_binary(space: spaces.MultiBinary, path: str, depth: int) -> Description:
    return {"n": space.n if isinstance(space.n, int) else list(space.shape)}


def _describe_text(space: spaces.Text, path: str, depth: int) -> Description:
    charset = "".join(space.character_list)
    _check_text(charset, f"the charset of {path}")
    return {"min_length": space.min_length, "max_length": space.max_length, "charset": charset}


def _describe_dict(space: spaces.Dict, path: str, depth: int) -> Description:
    for key in space.spaces:
        if not isinstance(key, str):
            raise SpaceError(f"{path} has the key {key!r}; only text keys can be carried")
        _check_text(key, f"a key of {path}")
    return {"spaces": [[str(key), describe_space(inner, f"{path}[{key!r}]", depth)] for key, inner in space.items()]}


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SpaceError(f"{what} is not Unicode and cannot be carried: {error}") from error


def _describe_tuple(space: Any, path: str, depth: int) -> Description:
    return {"spaces": [describe_space(inner, f"{path}[{index}]", depth) for index, inner in enumerate(space.spaces)]}


def _describe_sequence(space: spaces.Sequence, path: str, depth: int) -> Description:
    return {"space": describe_space(space.feature_space, f"{path} item", depth), "stack": bool(space.stack)}


def _describe_graph(space: spaces.Graph, path: str, depth: int) -> Description:
    edges = None if space.edge_space is None else describe_space(space.edge_space, f"{path} edges", depth)
    return {"nodes": describe_space(space.node_space, f"{path} nodes", depth), "edges": edges}


_DESCRIBE: dict[type, Callable[[Any, str, int], Description]] = {
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


# -- plain data to spaces ----------------------------------------------------------------------------


def restore_space(description: Description) -> Space:
    """The space again; WireError for a description that describes none, or one that is not believed."""
    return _Restorer().space(description)


class _Restorer:
    """One description's restoring: how deep it is now, and how much more it may claim."""

    def __init__(self) -> None:
        self.depth, self.bytes_left = 0, _MAX_BYTES

    def space(self, description: Any) -> Space:
        kind = description.get("type") if isinstance(description, dict) else None
        if not isinstance(kind, str) or kind not in _RESTORE:
            raise WireError(f"this describes no space: {brief(description)}")
        if self.depth > _MAX_DEPTH:
            raise WireError(f"a space nested more than {_MAX_DEPTH} deep is not believed")
        self.depth += 1
        try:
            return _RESTORE[kind](self, description)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise WireError(f"a broken description of a {kind} space: {str(error)[:200]!r}") from error
        finally:
            self.depth -= 1

    def shape(self, value: Any, dtype: np.dtype[Any]) -> tuple[int, ...]:
        """A shape, if all that was claimed so far and this is little enough."""
        shape = tuple(int(extent) for extent in value)
        claimed = dtype.itemsize
        for extent in shape:
            claimed *= extent
            if extent < 0 or claimed > self.bytes_left:
                raise WireError(f"a space of shape {str(list(map(brief, shape[:8])))[:200]} is not believed")
        self.bytes_left -= claimed
        return shape

    def box(self, description: Description) -> Space:
        dtype = _dtype(description, _NUMBERS)
        shape = self.shape(description["shape"], dtype)
        is_whole = dtype.kind in "iu"
        limits = (np.iinfo(dtype).min, np.iinfo(dtype).max) if is_whole else (None, None)
        (low, has_low), (high, has_high) = (
            _restore_bound(description[side], shape, dtype, limit)
            for side, limit in zip(("low", "high"), limits, strict=True)
        )
        space = spaces.Box(low, high, shape, dtype.type)
        if is_whole:  # Gymnasium knows no bound only where it is told an infinite float
            space.bounded_below, space.bounded_above = has_low, has_high
        return space

    def discrete(self, description: Description) -> Space:
        n, start = int(number_from_json(description["n"])), int(number_from_json(description["start"]))
        dtype: Any = _dtype(description, _WHOLE).type
        # before Gymnasium 1.2 there is no dtype, and all are int64
        return spaces.Discrete(n, start=start) if dtype is np.int64 else spaces.Discrete(n, start=start, dtype=dtype)

    def multi_discrete(self, description: Description) -> Space:
        dtype = _dtype(description, _WHOLE)
        shape = self.shape(description["shape"], dtype)
        nvec, start = (_array(description[key], dtype).reshape(shape) for key in ("nvec", "start"))
        kind: Any = dtype.type
        return spaces.MultiDiscrete(nvec, dtype=kind, start=start)

    def multi_binary(self, description: Description) -> Space:
        n = description["n"]
        shape = self.shape(n if isinstance(n, list) else [n], np.dtype(np.int8))
        return spaces.MultiBinary(shape if isinstance(n, list) else shape[0])

    def text(self, description: Description) -> Space:
        low, high = int(description["min_length"]), int(description["max_length"])
        return spaces.Text(high, min_length=low, charset=str(description["charset"]))

    def mapping(self, description: Description) -> Space:
        return spaces.Dict([(str(key), self.space(inner)) for key, inner in description["spaces"]])

    def product(self, description: Description) -> Space:
        return spaces.Tuple([self.space(inner) for inner in description["spaces"]])

    def one_of(self, description: Description) -> Space:
        return spaces.OneOf([self.space(inner) for inner in description["spaces"]])

    def sequence(self, description: Description) -> Space:
        return spaces.Sequence(self.space(description["space"]), stack=bool(description["stack"]))

    def graph(self, description: Description) -> Space:
        edges = None if description["edges"] is None else self.space(description["edges"])
        nodes: Any = self.space(description["nodes"])
        return spaces.Graph(nodes, edges)


def _dtype(description: Description, names: frozenset[str]) -> np.dtype[Any]:
    name = description["dtype"]
    if not isinstance(name, str) or name not in names:
        raise WireError(f"a {description['type']} space of {str(name)[:40]!r} is not carried")
    return np.dtype(name)


def _array(value: Any, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        return np.array([number_from_json(item) for item in value], dtype)


def _restore_bound(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], limit: int | None) -> tuple[Array, Array]:
    """The bound of each element, and whether it is one; whole numbers have `limit` where there is none."""
    items = value if isinstance(value, list) else [value]
    is_bound = np.array([item not in ("Infinity", "-Infinity") for item in items], bool)
    if limit is not None:
        items = [item if one else limit for item, one in zip(items, is_bound, strict=True)]
    bound = _array(items, dtype)
    if isinstance(value, list):
        return bound.reshape(shape), is_bound.reshape(shape)
    return np.full(shape, bound[0]), np.full(shape, is_bound[0])


_RESTORE: dict[str, Callable[[_Restorer, Description], Space]] = {
    "Box": _Restorer.box,
    "Discrete": _Restorer.discrete,
    "MultiDiscrete": _Restorer.multi_discrete,
    "MultiBinary": _Restorer.multi_binary,
    "Text": _Restorer.text,
    "Dict": _Restorer.mapping,
    "Tuple": _Restorer.product,
    "OneOf": _Restorer.one_of,
    "Sequence": _Restorer.sequence,
    "Graph": _Restorer.graph,
}
