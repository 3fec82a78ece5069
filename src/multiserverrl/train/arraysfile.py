"""Arrays as safetensors: bytes to be written part by part, and a reader that believes no length before it is checked.

We write them ourselves so that nothing is copied, and every write is one that can be checked and may fail.
A structured array (Dict observations) is bytes there, and what they mean stands in the metadata.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

__all__ = ["digest_of", "parts_of", "read_arrays"]

Array = NDArray[Any]
Fields = Mapping[str, tuple[str, tuple[int, ...]]]
_DTYPES = {
    "bool": "BOOL", "int8": "I8", "uint8": "U8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32",
    "int64": "I64", "uint64": "U64", "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_ALIGNMENT_BYTES = 8
_STRUCTURE = "structure of "  # in the metadata: what the bytes of a structured array are
_STRUCTURES = re.compile(r"(\((\d+, ?)*\d*\)[|<]([bui]1|[ui][248]|f[248]),)+")
_LONGEST_TEXT = 1 << 16


def parts_of(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file; the arrays must not change until all are taken."""
    header: dict[str, Any] = {}
    structures = {f"{_STRUCTURE}{name}": _told(array.dtype) for name, array in arrays.items() if array.dtype.names}
    if metadata or structures:
        header["__metadata__"] = {**(metadata or {}), **structures}
    # so that each is aligned; what is told as bytes needs it least
    ordered = sorted(arrays.items(), key=lambda item: (-1 if item[1].dtype.names else -item[1].itemsize, item[0]))
    offset = 0
    for name, array in ordered:
        end = offset + array.nbytes
        dtype, shape = (
            ("uint8", (*array.shape, array.itemsize)) if array.dtype.names else (array.dtype.name, array.shape)
        )
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    yield len(text).to_bytes(8, "little") + text
    for _, array in ordered:
        yield _bytes_of(array)


def read_arrays(path: Path, wanted: Fields | None = None) -> dict[str, Array]:
    """All arrays of a file, or those that are wanted, whose dtype and shape are looked at before one is read.

    Needs no more memory than the file is long. ValueError when one is wanting or another;
    SafetensorError when its header lies.
    """
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        for name, (dtype, shape) in (wanted or {}).items():
            if name not in names:
                raise ValueError(f"it lacks {name!r}")
            found = file.get_slice(name)
            if (found.get_dtype(), tuple(found.get_shape())) != (_DTYPES[dtype], shape):
                raise ValueError(f"its {name!r} is {found.get_dtype()}{tuple(found.get_shape())}, not {dtype}{shape}")
        structures = {
            name.removeprefix(_STRUCTURE): text
            for name, text in (file.metadata() or {}).items()
            if name.startswith(_STRUCTURE)
        }
        arrays: dict[str, Array] = {name: file.get_tensor(name) for name in (names if wanted is None else wanted)}
    return {name: _structured(name, array, structures.get(name)) for name, array in arrays.items()}


def _told(dtype: np.dtype[Any]) -> str:
    """Fields f0, f1, … as NumPy's own text, which says no more than their shapes and numbers."""
    assert dtype.names is not None and dtype.fields is not None
    parts = [dtype.fields[name][0] for name in dtype.names]
    return "".join(f"{part.shape}{part.base.str}," for part in parts)


def _structured(name: str, array: Array, text: str | None) -> Array:
    """Bytes as what they were. ValueError when the text is none of ours, or they are not so many."""
    if text is None:
        return array
    if len(text) > _LONGEST_TEXT or not _STRUCTURES.fullmatch(text):
        raise ValueError(f"{name!r} is of no structure: {text[:80]!r}")
    dtype = np.dtype(text)
    if array.dtype != np.uint8 or array.ndim == 0 or array.shape[-1] != dtype.itemsize:
        raise ValueError(f"{name!r} is {array.dtype}{array.shape}, not {dtype.itemsize} bytes each ({text})")
    return array.view(dtype)[..., 0]


def digest_of(arrays: Mapping[str, Array], *more: bytes) -> str:
    """32 hexadecimal digits, equal only when names, dtypes, shapes, bytes and what more there is are."""
    found = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        dtype = _told(array.dtype) if array.dtype.names else array.dtype.str
        found.update(f"{name} {dtype} {array.shape}\n".encode())
        found.update(_bytes_of(array))
    for part in more:
        found.update(part)
    return found.hexdigest()


def _bytes_of(array: Array) -> memoryview:
    return np.asarray(array, order="C").reshape(-1).view(np.uint8).data
