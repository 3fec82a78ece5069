"""Entry points of the child processes that tests start: "tests.process_entries:function"."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from multiserverrl.memory import Block, BlockHandle
from multiserverrl.processes import start_child

HERE = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def describe(config: bytes, fds: Sequence[int]) -> None:
    """Write what this process is, as JSON, to the first descriptor."""
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    known = {"config": config.decode(), "threads": threads, "group": os.getpgrp(), "pid": os.getpid()}
    os.write(fds[0], json.dumps({**known, "has_multiprocessing": "multiprocessing" in sys.modules}).encode())


def exit_with(config: bytes, fds: Sequence[int]) -> None:
    sys.exit(int(config))


def kill_itself(config: bytes, fds: Sequence[int]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(config: bytes, fds: Sequence[int]) -> None:
    os.write(fds[0], b"%d\n" % os.getpid())
    signal.pause()


def ignore_sigterm(config: bytes, fds: Sequence[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(fds[0], b"ready\n")
    signal.pause()


def start_one_that_waits(config: bytes, fds: Sequence[int]) -> None:
    """A parent: it starts `wait_for_ever` on the same descriptor, and waits itself."""
    start_child("tests.process_entries:wait_for_ever", b"", name="grandchild", fds=fds, environment=HERE)
    signal.pause()


def hold_a_block(config: bytes, fds: Sequence[int]) -> None:
    """Create a shared block, write its handle, wait."""
    block = Block.create(64, "test")
    block.buffer[:5] = b"hello"
    os.write(fds[0], msgspec.json.encode(block.handle) + b"\n")
    signal.pause()


def write_into_a_block(config: bytes, fds: Sequence[int]) -> None:
    block = Block.open(msgspec.json.decode(config, type=BlockHandle))
    block.buffer[:3] = b"you"
    block.close()


def start_another_and_wait(config: bytes, fds: Sequence[int]) -> None:
    """Start a process that holds the first descriptor, too, and write "started" to it."""
    subprocess.Popen(["sleep", "1000"], pass_fds=fds)
    os.write(fds[0], b"started\n")
    signal.pause()


def hold_50_mb(config: bytes, fds: Sequence[int]) -> None:
    """Write "held" to the first descriptor, and wait."""
    held = b"x" * 50_000_000
    os.write(fds[0], b"held\n")
    signal.pause()
    del held
