"""memory/block.py: blocks are shared while their creator lives, and leave nothing behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from multiserverrl.memory import Block, BlockHandle, block
from multiserverrl.processes import start_child
from tests.process_entries import HERE

DEADLINE_S = 30.0
needs_memfd = pytest.mark.skipif(sys.platform != "linux", reason="memfd blocks are Linux's")


@pytest.fixture(params=["memfd", "named"])
def created(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Block]:
    if request.param == "named":
        monkeypatch.setattr(block, "_has_memfd", lambda: False)
    elif sys.platform != "linux":
        pytest.skip("memfd blocks are Linux's")
    made = Block.create(4096, "test")
    assert made.handle.kind == request.param
    yield made
    made.close()


def test_a_new_block_is_zeros(created: Block) -> None:
    assert bytes(created.buffer[:4096]) == bytes(4096)


def test_what_one_writes_the_other_reads(created: Block) -> None:
    opened = Block.open(created.handle)
    created.array(np.int64, (2,), offset=64)[:] = [3, 4]
    assert opened.array(np.int64, (2,), offset=64).tolist() == [3, 4]
    opened.close()


def test_a_handle_is_plain_data(created: Block) -> None:
    assert msgspec.json.decode(msgspec.json.encode(created.handle), type=BlockHandle) == created.handle


def test_an_array_beyond_the_block_is_refused(created: Block) -> None:
    with pytest.raises((TypeError, ValueError)):
        created.array(np.uint8, (4097,))


def test_a_view_outlives_close(created: Block) -> None:
    view = created.array(np.uint8, (8,))
    view[:] = 7
    created.close()
    assert view.tolist() == [7] * 8


def test_a_block_is_gone_when_its_creator_closed_it(created: Block) -> None:
    created.close()
    with pytest.raises(FileNotFoundError):
        Block.open(created.handle)


def test_closing_twice_is_harmless(created: Block) -> None:
    created.close()
    created.close()


@pytest.mark.parametrize("size_bytes", [0, -1])
def test_a_block_without_bytes_is_refused(size_bytes: int) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        Block.create(size_bytes, "test")


@needs_memfd
def test_a_child_writes_into_its_parents_block() -> None:
    ours = Block.create(64, "test")
    config = msgspec.json.encode(ours.handle)
    child = start_child("tests.process_entries:write_into_a_block", config, name="writer", environment=HERE)
    assert child.wait(DEADLINE_S) == 0
    assert bytes(ours.buffer[:3]) == b"you"
    ours.close()


@needs_memfd
def test_nothing_is_left_of_a_block_whose_creator_was_killed() -> None:
    reading, writing = os.pipe()
    shared_before = set(Path("/dev/shm").iterdir())
    child = start_child("tests.process_entries:hold_a_block", b"", name="holder", fds=(writing,), environment=HERE)
    os.close(writing)
    with os.fdopen(reading, "rb") as reader:
        handle = msgspec.json.decode(reader.readline(), type=BlockHandle)
    opened = Block.open(handle)
    child.kill()
    assert bytes(opened.buffer[:5]) == b"hello"  # who has it mapped keeps it
    opened.close()
    with pytest.raises(FileNotFoundError):
        Block.open(handle)
    assert not [path for path in set(Path("/dev/shm").iterdir()) - shared_before if "multiserverrl" in path.name]


@needs_memfd
def test_a_closed_block_holds_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    ours = Block.create(64, "test")
    theirs = Block.open(ours.handle)
    ours.close()
    theirs.close()
    assert os.listdir("/proc/self/fd") == before
