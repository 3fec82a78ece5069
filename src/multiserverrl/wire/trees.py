"""Nested plain values with arrays in them (infos, options, actions of spaces without a fixed size), as bytes.

MessagePack with extensions, so that what arrives equals what was sent: arrays, NumPy scalars, tuples,
graphs, and integers beyond 64 bits. Never pickle: an object of any other type is refused by its path.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from gymnasium.spaces import GraphInstance

from multiserverrl.errors import SpaceError, WireError

__all__ = ["carriable", "pack_tree", "unpack_tree"]

_ARRAY, _SCALAR, _TUPLE, _BIG_INT, _OBJECT_ARRAY, _GRAPH = 1, 2, 3, 4, 5, 6
_PLAIN = (bool, str, bytes, type(None))
_KINDS = "biufcSUmM"  # every NumPy kind but object and void
_MAX_DEPTH = 64

_encoder = msgspec.msgpack.Encoder()


class _ArrayRecord(msgspec.Struct, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    content: bytes


class _ObjectRecord(msgspec.Struct, array_like=True):
    shape: tuple[int, ...]
    items: list[Any]


def pack_tree(tree: Any) -> bytes:
    """The bytes of a tree; SpaceError names the path of a value that cannot be carried."""
    return _encoder.encode(_to_plain(tree, "", 0))


def unpack_tree(content: bytes | bytearray | memoryview) -> Any:
    """The tree of some bytes; WireError for bytes that are no tree. Arrays are writable copies."""
    try:
        return _decoder.decode(content)
    except WireError:
        raise
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise WireError(f"these {len(content)} bytes are not a tree of values: {error}") from error


def carriable(tree: dict[Any, Any]) -> tuple[dict[Any, Any], list[str]]:
    """The part of an info that can be carried, and the keys (with their types) that cannot."""
    kept, dropped = {}, []
    for key, value in tree.items():
        try:
            pack_tree({key: value})
        except SpaceError:
            dropped.append(f"{key} ({type(value).__module__}.{type(value).__qualname__})")
        else:
            kept[key] = value
    return kept, dropped


def _to_plain(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN or kind is float:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else msgspec.msgpack.Ext(_BIG_INT, str(value).encode())
    if depth > _MAX_DEPTH:
        raise SpaceError(f"{path or 'the value'} is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {
            _to_plain(key, f"{path} key", depth + 1): _to_plain(item, f"{path}[{key!r}]", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_to_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, tuple):
        plain = [_to_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        return msgspec.msgpack.Ext(_GRAPH if isinstance(value, GraphInstance) else _TUPLE, _encoder.encode(plain))
    if isinstance(value, np.ndarray):
        return _plain_array(value, path, depth)
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        record = _ArrayRecord(value.dtype.str, (), value.tobytes())
        return msgspec.msgpack.Ext(_SCALAR, _encoder.encode(record))
    raise SpaceError(
        f"{path or 'the value'} is a {kind.__module__}.{kind.__qualname__}, which cannot be carried; "
        "plain values, NumPy arrays, and dicts, lists and tuples of them can"
    )


def _plain_array(value: np.ndarray[Any, Any], path: str, depth: int) -> msgspec.msgpack.Ext:
    if value.dtype.kind == "O":
        items = [_to_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value.ravel())]
        return msgspec.msgpack.Ext(_OBJECT_ARRAY, _encoder.encode(_ObjectRecord(value.shape, items)))
    if value.dtype.kind not in _KINDS:
        raise SpaceError(f"{path or 'the value'} is an array of {value.dtype}, which cannot be carried")
    record = _ArrayRecord(value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
    return msgspec.msgpack.Ext(_ARRAY, _encoder.encode(record))


def _from_extension(code: int, content: memoryview) -> Any:
    if code in (_TUPLE, _GRAPH):
        items = _decoder.decode(content)
        if not isinstance(items, list) or (code == _GRAPH and len(items) != 3):
            raise WireError("a tuple on the wire must hold a list, a graph a list of three")
        return GraphInstance(*items) if code == _GRAPH else tuple(items)
    if code == _BIG_INT:
        if len(content) > 4096:
            raise WireError(f"an integer of {len(content)} digits is too long")
        return int(bytes(content).decode("ascii"))
    if code == _OBJECT_ARRAY:
        return _object_array(_object_decoder.decode(content))
    if code not in (_ARRAY, _SCALAR):
        raise WireError(f"unknown extension {code} in a tree of values")
    record = _array_decoder.decode(content)
    dtype = np.dtype(record.dtype)
    if dtype.kind not in _KINDS:
        raise WireError(f"arrays of {dtype} are not carried")
    _check_length(record.shape, dtype.itemsize, len(record.content))
    array = np.frombuffer(record.content, dtype).reshape(record.shape)
    return array.copy() if code == _ARRAY else array[()]


def _object_array(record: _ObjectRecord) -> np.ndarray[Any, Any]:
    _check_length(record.shape, 1, len(record.items))
    array = np.empty(len(record.items), dtype=object)
    for index, item in enumerate(record.items):
        array[index] = item
    return array.reshape(record.shape)


def _check_length(shape: tuple[int, ...], item_bytes: int, length: int) -> None:
    """Believe no shape before its bytes are there."""
    wanted = item_bytes
    for extent in shape:
        if extent < 0:
            raise WireError(f"an array of shape {shape} cannot be")
        wanted *= extent
    if wanted != length:
        raise WireError(f"an array of shape {shape} needs {wanted} bytes, not {length}")


_decoder = msgspec.msgpack.Decoder(ext_hook=_from_extension)
_array_decoder = msgspec.msgpack.Decoder(_ArrayRecord)
_object_decoder = msgspec.msgpack.Decoder(_ObjectRecord, ext_hook=_from_extension)
