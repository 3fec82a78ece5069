"""The real Weights & Biases and trackio, offline, keep the contract of our loggers (`make trackers`)."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from multiserverrl.observe.aside import Aside
from multiserverrl.observe.loggers import RunName
from tests.observe.logging_contract import Read, keeps_every_number_by_tag_and_env_steps

pytestmark = pytest.mark.trainers


def test_wandb_keeps_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = Aside("wandb", RunName("run-1", "ab12", str(tmp_path)))
    keeps_every_number_by_tag_and_env_steps(logger, lambda: wandb_records(tmp_path))


def test_trackio_keeps_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    logger = Aside("trackio", RunName("run-1", "ab12", str(tmp_path)))
    keeps_every_number_by_tag_and_env_steps(logger, lambda: trackio_rows(tmp_path))


def wandb_records(directory: Path) -> Read:
    from wandb.proto import wandb_internal_pb2

    [path] = directory.glob("wandb/offline-run-*/*.wandb")
    found = defaultdict(list)
    for content in records_of(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for tag, value in row.items():
            if "/" in tag:
                found[tag].append((int(row["env_steps"]), float(value)))
    return found


def records_of(file: bytes) -> Iterator[bytes]:
    """W&B's file is LevelDB's log: 7 bytes of its own, then blocks of 32 KiB; (crc, length, type) before each part."""
    block_bytes, header = 1 << 15, struct.Struct("<IHB")
    at, content = 7, b""
    while at + header.size <= len(file):
        left = block_bytes - at % block_bytes
        if left < header.size:
            at += left
            continue
        _, length, kind = header.unpack_from(file, at)
        at += header.size
        content += file[at : at + length]
        at += length
        if kind in (1, 4):  # whole, or the last part
            yield content
            content = b""


def trackio_rows(directory: Path) -> Read:
    from trackio.sqlite_storage import SQLiteStorage

    found = defaultdict(list)
    for row in SQLiteStorage.get_logs("multiserverrl", "run-1-ab12"):
        for tag, value in row.items():
            if "/" in tag:
                found[tag].append((row["step"], float(value)))
    return found
