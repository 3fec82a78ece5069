"""Arrays as safetensors: bytes to be written part by part, and a reader that believes no length before it is checked.

We write them ourselves so that nothing is copied, and every write is one that can be checked and may fail.
"""

from __future__ import annotations

import hashlib
import json
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


def parts_of(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file; the arrays must not change until all are taken."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))  # so that each is aligned
    offset = 0
    for name, array in ordered:
        end = offset + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, end]}
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
        return {name: file.get_tensor(name) for name in (names if wanted is None else wanted)}


def digest_of(arrays: Mapping[str, Array], *more: bytes) -> str:
    """32 hexadecimal digits, equal only when names, dtypes, shapes, bytes and what more there is are."""
    found = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(_bytes_of(array))
    for part in more:
        found.update(part)
    return found.hexdigest()


def _bytes_of(array: Array) -> memoryview:
    return np.asarray(array, order="C").reshape(-1).view(np.uint8).data
