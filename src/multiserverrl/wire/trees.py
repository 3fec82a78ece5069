"""Nested plain values with arrays in them (infos, options, actions of spaces without a fixed size), as bytes.

MessagePack with extensions, so that what arrives equals what was sent: arrays, NumPy scalars, tuples,
graphs, dicts with keys of these kinds, and integers beyond 64 bits. Never pickle: an object of any
other type is refused by its path.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from gymnasium.spaces import GraphInstance

from multiserverrl.errors import SpaceError, WireError
from multiserverrl.wire.brief import brief
from multiserverrl.wire.counting import FREE_BYTES, check_count

__all__ = ["carriable", "pack_tree", "unpack_rows", "unpack_tree"]

_ARRAY, _SCALAR, _TUPLE, _BIG_INT, _OBJECT_ARRAY, _GRAPH, _MAPPING = 1, 2, 3, 4, 5, 6, 7
_PLAIN = (bool, str, bytes, type(None))
_ROWS = {int}
_PLAIN_KEYS = {str, int, float, *_PLAIN}
_KINDS = "biufcSUmM"  # every NumPy kind but object and void
_DTYPE = re.compile(r"[<>|=]?([biufcSU]\d{1,9}|[mM]8(\[\d{0,9}[a-zA-Zμ]{1,7}\])?)")
_MAX_DEPTH = 64
_MAX_DIMENSIONS = 64

_encoder = msgspec.msgpack.Encoder()


class _ArrayRecord(msgspec.Struct, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    content: bytearray  # of its own: the array is made on it


class _ObjectRecord(msgspec.Struct, array_like=True):
    shape: tuple[int, ...]
    items: list[Any]


def pack_tree(tree: Any) -> bytes:
    """The bytes of a tree; SpaceError names the path of a value that cannot be carried."""
    try:
        content: bytes = _encoder.encode(_to_plain(tree, "", 0))
        if len(content) > FREE_BYTES:
            check_count((content,))
    except UnicodeEncodeError as error:
        raise SpaceError(f"a text that is not Unicode cannot be carried: {error}") from error
    except WireError as error:
        raise SpaceError(f"{error}; make arrays of them") from error
    return content


def unpack_tree(content: bytes | bytearray | memoryview) -> Any:
    """The tree of some bytes; WireError for bytes that are no tree. Arrays are writable copies."""
    if len(content) > FREE_BYTES:
        check_count((content,))
    return _unpacked(content)


def unpack_rows(parts: list[bytes]) -> dict[int, Any]:
    """{row: value} of the trees of one message; WireError where they are no trees of rows."""
    if len(parts) > 1 or (parts and len(parts[0]) > FREE_BYTES):
        check_count(parts)
    found: dict[int, Any] = {}
    for part in parts:
        rows = _unpacked(part)
        if type(rows) is not dict or not {*map(type, rows)} <= _ROWS:
            raise WireError(f"a tree of rows was expected, not {brief(rows)}")
        found.update(rows)
    return found


def _unpacked(content: bytes | bytearray | memoryview) -> Any:
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
        return value if -(2**63) <= value < 2**64 else _plain_big_int(value)
    if depth > _MAX_DEPTH:
        raise SpaceError(f"{path or 'the value'} is nested more than {_MAX_DEPTH} deep")
    if kind is np.ndarray:
        return _plain_array(value, path, depth)
    if isinstance(value, dict):
        return _plain_dict(value, path, depth)
    if isinstance(value, list):
        return [_to_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, tuple):
        plain = [_to_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        return msgspec.msgpack.Ext(_GRAPH if isinstance(value, GraphInstance) else _TUPLE, _encoder.encode(plain))
    if isinstance(value, np.ndarray):
        return _plain_array(value, path, depth)
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        array = np.asarray(value)  # an empty np.str_ calls itself <U0, which no array is
        return msgspec.msgpack.Ext(_SCALAR, _array_head(array.dtype.str, (), array.nbytes) + array.tobytes())
    raise SpaceError(
        f"{path or 'the value'} is a {kind.__module__}.{kind.__qualname__}, which cannot be carried; "
        "plain values, NumPy arrays, and dicts, lists and tuples of them can"
    )


def _plain_big_int(value: int) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


def _plain_dict(value: dict[Any, Any], path: str, depth: int) -> Any:
    kinds = set(map(type, value))
    if kinds <= _PLAIN_KEYS and (int not in kinds or all(_is_small(key) for key in value)):
        return {key: _to_plain(item, f"{path}[{key!r}]", depth + 1) for key, item in value.items()}
    pairs = [
        (_to_plain(key, f"{path} key", depth + 1), _to_plain(item, f"{path}[{key!r}]", depth + 1))
        for key, item in value.items()
    ]
    return msgspec.msgpack.Ext(_MAPPING, _encoder.encode(pairs))


def _is_small(key: Any) -> bool:
    """False for an integer that MessagePack has no room for."""
    return type(key) is not int or -(2**63) <= key < 2**64


def _plain_array(value: np.ndarray[Any, Any], path: str, depth: int) -> msgspec.msgpack.Ext:
    if value.dtype.kind == "O":
        items = [_to_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value.ravel())]
        return msgspec.msgpack.Ext(_OBJECT_ARRAY, _encoder.encode(_ObjectRecord(value.shape, items)))
    if value.dtype.kind not in _KINDS:
        raise SpaceError(f"{path or 'the value'} is an array of {value.dtype}, which cannot be carried")
    return msgspec.msgpack.Ext(_ARRAY, _array_head(value.dtype.str, value.shape, value.nbytes) + value.tobytes())


@lru_cache(maxsize=256)
def _array_head(dtype: str, shape: tuple[int, ...], size_bytes: int) -> bytes:
    """The bytes of an `_ArrayRecord` before those of its array: infos have the same ones in every step."""
    empty = _encoder.encode(_ArrayRecord(dtype, shape, bytearray()))[: -len(_encoder.encode(b""))]
    if size_bytes < 1 << 8:
        return empty + struct.pack(">BB", 0xC4, size_bytes)
    return empty + (
        struct.pack(">BH", 0xC5, size_bytes) if size_bytes < 1 << 16 else struct.pack(">BI", 0xC6, size_bytes)
    )


def _from_extension(code: int, content: memoryview) -> Any:
    if code in (_ARRAY, _SCALAR):
        return _array_or_scalar(code, _array_decoder.decode(content))
    if code in (_TUPLE, _GRAPH):
        items = _decoder.decode(content)
        if not isinstance(items, list) or (code == _GRAPH and len(items) != 3):
            raise WireError("a tuple on the wire must hold a list, a graph a list of three")
        return GraphInstance(*items) if code == _GRAPH else tuple(items)
    if code == _MAPPING:
        return dict(_pairs_decoder.decode(content))
    if code == _BIG_INT:
        return int.from_bytes(content, "little", signed=True)
    if code == _OBJECT_ARRAY:
        return _object_array(_object_decoder.decode(content))
    raise WireError(f"unknown extension {code} in a tree of values")


def _array_or_scalar(code: int, record: _ArrayRecord) -> Any:
    dtype = _dtype_of(record.dtype)
    _check_length(record.shape, dtype.itemsize, len(record.content))
    array = np.ndarray(record.shape, dtype, record.content)
    if dtype.kind == "b" and not _is_bool(record.content):
        raise WireError("an array of bool has bytes that are neither 0 nor 1")
    if dtype.kind == "U" and array.size:
        points = np.frombuffer(record.content, np.dtype("u4").newbyteorder(dtype.byteorder))
        if points.max() > 0x10FFFF:
            raise WireError("an array of text has characters beyond Unicode")
    if code == _ARRAY:
        return array
    if array.ndim:
        raise WireError(f"a scalar has no shape {record.shape}")
    return array[()]


def _is_bool(content: bytearray) -> bool:
    """Whether all bytes are 0 or 1; NumPy's way takes 2 µs for a mask of 64."""
    if len(content) < 1 << 12:
        return not content.translate(None, b"\0\1")
    return not (np.frombuffer(content, np.uint8) > 1).any()


@lru_cache(maxsize=256)
def _dtype_of(text: str) -> np.dtype[Any]:
    """A dtype that `_plain_array` writes; np.dtype itself would read whole structures from a text."""
    if not _DTYPE.fullmatch(text):
        raise WireError(f"arrays of {text[:40]!r} are not carried")
    return np.dtype(text)


def _object_array(record: _ObjectRecord) -> np.ndarray[Any, Any]:
    _check_length(record.shape, 1, len(record.items))
    array = np.empty(len(record.items), dtype=object)
    for index, item in enumerate(record.items):
        array[index] = item
    return array.reshape(record.shape)


def _check_length(shape: tuple[int, ...], item_bytes: int, length: int) -> None:
    """Believe no shape before its bytes are there."""
    if len(shape) > _MAX_DIMENSIONS:
        raise WireError(f"an array of {len(shape)} dimensions cannot be")
    wanted = item_bytes
    for extent in shape:
        if extent < 0:
            raise WireError(f"an array of shape {shape} cannot be")
        wanted *= extent
    if wanted != length:
        raise WireError(f"an array of shape {shape} needs {wanted} bytes, not {length}")


_decoder = msgspec.msgpack.Decoder(ext_hook=_from_extension)
_array_decoder = msgspec.msgpack.Decoder(_ArrayRecord)
_pairs_decoder = msgspec.msgpack.Decoder(list[tuple[Any, Any]], ext_hook=_from_extension)
_object_decoder = msgspec.msgpack.Decoder(_ObjectRecord, ext_hook=_from_extension)
