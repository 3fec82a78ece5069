"""Checkpoints on disks that fail, fill up or lie, or whose writer is killed: at every change that one is made of.

    python bench/fault_matrix/bad_disk.py DIRECTORY TRIAL STRIDE

prints one JSON object: how often (`done`), and what went wrong (`wrong`). It is a process of its own because it forks.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from multiserverrl.errors import CheckpointError
from multiserverrl.observe.disk import DISK, Disk, remove_leftovers, replace_file
from multiserverrl.train.checkpoint import Checkpoint, load_newest, save_checkpoint

__all__ = ["TRIALS", "BadDisk", "Trial", "full_from", "kill_at", "try_it"]


class BadDisk(Disk):
    """Does something before its n-th change, and where `lasts` before each one after it; of a write half is done."""

    def __init__(self, number: int, act: Callable[[], None], *, lasts: bool = False) -> None:
        self.number, self.act, self.lasts, self.changes = number, act, lasts, 0

    def make_directory(self, path: Path) -> None:
        self._count()
        super().make_directory(path)

    def create(self, path: Path) -> BinaryIO:
        self._count()
        return super().create(path)

    def write(self, file: BinaryIO, content: memoryview) -> int:
        if self.changes + 1 == self.number:
            super().write(file, content[: len(content) // 2])
        self._count()
        return super().write(file, content)

    def sync(self, fd: int) -> None:
        self._count()
        super().sync(fd)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def _count(self) -> None:
        self.changes += 1
        if self.changes == self.number or (self.lasts and self.changes > self.number):
            self.act()


def kill_at(number: int) -> BadDisk:
    """Ends this process by SIGKILL at the n-th change."""
    return BadDisk(number, lambda: os.kill(os.getpid(), signal.SIGKILL))


def full_from(number: int, code: int = errno.ENOSPC) -> BadDisk:
    """Refuses every change from the n-th on."""

    def refuse() -> None:
        raise OSError(code, os.strerror(code))

    return BadDisk(number, refuse, lasts=True)


class Trial(NamedTuple):
    """What came of a fault that was done `done` times."""

    done: int
    wrong: list[str]


def try_it(directory: Path, trial: str, stride: int = 1) -> Trial:
    """A trial in a process of its own; every `stride`-th position where there are many."""
    command = [sys.executable, __file__, str(directory), trial, str(stride)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if ended.returncode:
        raise RuntimeError(f"{trial}: {ended.stderr[-500:]}")
    return Trial(**json.loads(ended.stdout))


def a_checkpoint(number: int) -> Checkpoint:
    """A small one of its own content."""
    rng = np.random.default_rng(number)
    arrays = {
        "replay/obs": rng.normal(size=(7, 4)).astype(np.float32),
        "replay/inserted": np.array([number]),
        "learner/online": rng.normal(size=(5,)).astype(np.float32),
    }
    return Checkpoint(arrays, {"updates": number, "sampling_rng": rng.bit_generator.state})


class _Series:
    """Checkpoints in one directory, one after another, each saved under a fault."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.number = directory, 2
        self.done, self.wrong = 0, list[str]()
        for number in (1, 2):
            save_checkpoint(directory, a_checkpoint(number))

    def attempt(self, where: str, save: Callable[[Checkpoint], int]) -> int:
        """Save the next under a fault, and look at what is there; what `save` gave."""
        code = save(a_checkpoint(self.number + 1))
        self.done += 1
        try:
            loaded = load_newest(self.directory)
        except CheckpointError as error:
            self.wrong.append(f"{where}: {error}")
            return code
        remove_leftovers(self.directory)
        number = loaded.state["updates"] if loaded else 0
        if loaded is None or number < self.number or loaded.digest() != a_checkpoint(number).digest():
            self.wrong.append(f"{where}: {number} was loaded after {self.number}")
        elif list(self.directory.glob(".*")):
            self.wrong.append(f"{where}: something unfinished is left")
        elif newest_named(self.directory) != loaded.name:
            self.wrong.append(f"{where}: one that is not whole bears a name")
        self.number = max(number, self.number)
        return code


def newest_named(directory: Path) -> str:
    return max(path.name for path in directory.glob("checkpoint-*"))


def killed_at_each_change(directory: Path, stride: int) -> Trial:
    """SIGKILL before each change and in the middle of each write."""
    series = _Series(directory)
    for number in range(1, 1000, stride):
        if (
            in_child(series, f"kill at {number}", lambda new, at=number: save_checkpoint(directory, new, kill_at(at)))
            == 0
        ):  # type: ignore[misc]
            return Trial(series.done, series.wrong)
    return Trial(series.done, [*series.wrong, "the writer never came to its end"])


def killed_at_each_byte(directory: Path, stride: int) -> Trial:
    """SIGXFSZ, which ends the process inside write(2), at each length of a file."""
    series = _Series(directory)

    def save(new: Checkpoint, most_bytes: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        save_checkpoint(directory, new)

    for most_bytes in range(0, 1 << 20, stride):
        if in_child(series, f"cut at byte {most_bytes}", lambda new, most=most_bytes: save(new, most)) == 0:  # type: ignore[misc]
            return Trial(series.done, series.wrong)
    return Trial(series.done, [*series.wrong, "the writer never came to its end"])


def full_at_each_change(directory: Path, stride: int) -> Trial:
    """No room, or no disk, from each change on; afterwards the disk is well again and the next one is saved."""
    series = _Series(directory)
    for code in (errno.ENOSPC, errno.EIO):
        for number in range(1, 1000, stride):
            disk = full_from(number, code)
            where = f"{errno.errorcode[code]} at {number}"
            series.attempt(where, lambda new, disk=disk: refused(directory, new, disk))  # type: ignore[misc]
            if refused(directory, a_checkpoint(series.number + 1), DISK):
                series.wrong.append(f"{where}: none could be saved afterwards")
            series.number += 1
            if disk.changes < number:
                break
    return Trial(series.done, series.wrong)


def flipped_at_each_bit(directory: Path, stride: int) -> Trial:
    """Every bit of the three files: it is never loaded, the one before it is."""
    return _damaged(directory, stride, lambda size: range(8 * size), flip)


def cut_at_each_byte(directory: Path, stride: int) -> Trial:
    """Every length that each of the three files may be cut to."""
    return _damaged(directory, stride, range, lambda content, length: content[:length])


def replaced_at_each_change(directory: Path, stride: int) -> Trial:
    """A file of the run directory, its writer killed at each change: the old one or the new one, whole."""
    path, wrong = directory / "config.json", list[str]()
    replace_file(path, [b"0" * 5000])
    for number in range(1, 100, stride):
        old, new = path.read_bytes(), str(number % 10).encode() * 5000
        code = forked(lambda new=new, at=number: replace_file(path, [new], kill_at(at)))  # type: ignore[misc]
        if path.read_bytes() not in (old, new):
            wrong.append(f"kill at {number}: neither old nor new")
        remove_leftovers(directory)
        if os.listdir(directory) != [path.name]:
            wrong.append(f"kill at {number}: something is left")
        if code == 0:
            return Trial(number, wrong)
    return Trial(100, [*wrong, "the writer never came to its end"])


def _damaged(
    directory: Path, stride: int, places: Callable[[int], range], damage: Callable[[bytes, int], bytes]
) -> Trial:
    logging.disable()
    save_checkpoint(directory, a_checkpoint(1))
    newest = save_checkpoint(directory, a_checkpoint(2))
    done, wrong = 0, list[str]()
    for path in sorted(newest.iterdir()):
        content = path.read_bytes()
        for place in places(len(content))[::stride]:
            path.write_bytes(damage(content, place))
            loaded = load_newest(directory)
            done += 1
            if loaded is None or loaded.state["updates"] != 1:
                wrong.append(f"{path.name} at {place}")
        path.write_bytes(content)
    return Trial(done, wrong)


def flip(content: bytes, bit: int) -> bytes:
    """One bit turned over."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def refused(directory: Path, checkpoint: Checkpoint, disk: Disk) -> int:
    """The errno that kept it from being saved; 0 when nothing did."""
    try:
        save_checkpoint(directory, checkpoint, disk)
    except OSError as error:
        return error.errno or -1
    return 0


def in_child(series: _Series, where: str, save: Callable[[Checkpoint], Any]) -> int:
    """An attempt whose writer is a process of its own; its exit code."""
    return series.attempt(where, lambda new: forked(lambda: save(new)))


def forked(work: Callable[[], Any]) -> int:
    """What became of a process that did this work and nothing else: 0 when it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


TRIALS = {
    trial.__name__: trial
    for trial in (
        killed_at_each_change,
        killed_at_each_byte,
        full_at_each_change,
        flipped_at_each_bit,
        cut_at_each_byte,
        replaced_at_each_change,
    )
}


if __name__ == "__main__":
    place, name, every = sys.argv[1:]
    print(json.dumps(TRIALS[name](Path(place), int(every))._asdict()))
