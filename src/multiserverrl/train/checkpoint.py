"""Checkpoints and policies: what a run leaves on disk, and how it is read back.

A checkpoint is a directory with two files, arrays (safetensors) and state (JSON). It is written
aside, synced and renamed, so that one which bears its name is whole; the last two are kept. A
policy is one safetensors file. Nothing in either is ever executed or unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from multiserverrl.errors import CheckpointError

__all__ = ["Checkpoint", "load_newest", "save_checkpoint", "write_arrays"]

Array = NDArray[Any]
FORMAT = 1
KEPT = 2
_PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Checkpoint:
    """`arrays` by name; `state` is what JSON can hold (Python's own integers included, however long)."""

    arrays: dict[str, Array]
    state: dict[str, Any]


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> Path:
    """Write it as the newest in `directory` and remove all but the last two; its path."""
    directory.mkdir(parents=True, exist_ok=True)
    kept = _numbered(directory)
    path = directory / f"{_PREFIX}{(kept[-1][0] if kept else 0) + 1:09d}"
    aside = directory / f".writing-{path.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    arrays_path = write_arrays(aside / "arrays.safetensors", checkpoint.arrays)
    head = {"format": FORMAT, "arrays_crc32": _crc32(arrays_path), "state": checkpoint.state}
    _write_synced(aside / "state.json", json.dumps(head).encode())
    _sync(aside)
    aside.rename(path)
    _sync(directory)
    for _, old in [*kept, (0, path)][:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when there are none; CheckpointError when all are broken."""
    broken = []
    for _, path in reversed(_numbered(directory)):
        try:
            return _load(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            broken.append(f"{path}: {error}")
    if broken:
        raise CheckpointError("no checkpoint can be read:\n" + "\n".join(f"  {line}" for line in broken))
    return None


def write_arrays(path: Path, arrays: dict[str, Array], metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file aside, sync it, rename it."""
    aside = path.with_name(f".writing-{path.name}")
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, aside, metadata)
    _sync(aside)
    aside.rename(path)
    _sync(path.parent)
    return path


def _load(path: Path) -> Checkpoint:
    head = json.loads((path / "state.json").read_bytes())
    if head["format"] != FORMAT:
        raise ValueError(f"it is of format {head['format']}, this version reads {FORMAT}")
    if _crc32(path / "arrays.safetensors") != head["arrays_crc32"]:
        raise ValueError("arrays.safetensors is not what was written (its checksum differs)")
    return Checkpoint(load_file(path / "arrays.safetensors"), head["state"])


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    """Checkpoints by age, the newest last."""
    found = [(path.name.removeprefix(_PREFIX), path) for path in directory.glob(f"{_PREFIX}*")]
    return sorted((int(number), path) for number, path in found if number.isdigit())


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return value


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
