"""memory/foreign.py: other processes' memory files are read, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multiserverrl.memory import Block, host_id, open_foreign

pytestmark = pytest.mark.skipif(not host_id(), reason="this system has no memory files that others can open")


def test_a_block_is_seen_as_its_maker_changes_it_and_cannot_be_written() -> None:
    made = Block.create(100, "test")
    seen = open_foreign(made.handle.name, 100)
    made.buffer[7] = 3
    assert seen.buffer[7] == 3 and seen.buffer.readonly
    seen.close()
    made.close()


def test_a_block_cannot_shrink_under_those_who_map_it() -> None:
    made = Block.create(100, "test")
    with open(made.handle.name, "r+b") as file, pytest.raises(PermissionError):
        os.ftruncate(file.fileno(), 10)
    made.close()


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/fd/3", "/proc/1/fd/../mem", "/proc/1/fd/3\n", ""])
def test_a_path_that_can_be_something_else_is_not_even_opened(path: str) -> None:
    with pytest.raises(ValueError, match="no memory file"):
        open_foreign(path, 10)


def test_a_pipe_and_a_file_are_no_memory_files(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        with open(tmp_path / "file", "wb") as file:
            file.write(bytes(100))
            file.flush()
            for fd in (reading, file.fileno()):
                with pytest.raises(ValueError, match="no memory file"):
                    open_foreign(f"/proc/{os.getpid()}/fd/{fd}", 100)
    finally:
        os.close(reading)
        os.close(writing)


def test_one_that_is_smaller_or_may_shrink_is_not_mapped() -> None:
    made = Block.create(100, "test")
    with pytest.raises(ValueError, match="101 bytes"):
        open_foreign(made.handle.name, 101)
    made.close()
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 100)
    with pytest.raises(ValueError, match="for good"):
        open_foreign(f"/proc/{os.getpid()}/fd/{fd}", 100)
    os.close(fd)


def test_the_host_is_the_same_for_all_who_ask() -> None:
    assert host_id() == host_id() and len(host_id()) == 32
