"""A training run's directory: what it was asked to do, how far it came, how it ended.

    config.json     versions, the git state and effective settings, written at the start and at each resume
    config.toml     the same settings, as `train --config` reads them
    checkpoints/    written by the learner
    metrics.jsonl   one line about every second
    evaluations.jsonl   one line an evaluation
    policy.safetensors   the best weights that were evaluated; those that passed, once some have
    result.json     written last, whole or not at all

One live run owns a directory (a lock on run.lock, gone with the process); another is refused.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

from multiserverrl.errors import CheckpointError, ConfigError
from multiserverrl.observe.disk import discard, remove_leftovers, replace_file
from multiserverrl.observe.log import log

__all__ = ["RunDir", "default_path", "versions"]

_LOCK, _SETTINGS = "run.lock", "config.toml"
LOOKED_AT_S = 0.1  # for so long `is_running` of another process may hold a lock
_PACKAGES = ("multiserverrl", "gymnasium", "numpy", "torch", "safetensors", "msgspec", "uvicorn", "websockets")


class RunDir:
    """A run's directory, made by `create` or `resume` (which lock it) or `open` (which only reads)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None
        self._before: dict[str, bytes] = {}
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.policy = path / "policy.safetensors"

    @classmethod
    def create(cls, path: Path, config: dict[str, Any], settings: str = "") -> RunDir:
        """A new run, with config.json and the text of config.toml.

        ConfigError when the directory holds anything already, or cannot be written to.
        """
        if (path / "config.json").exists():
            raise ConfigError(f"--run-dir {path} holds a run already: go on by --resume {path}, or name another")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"--run-dir {path} exists and is not an empty directory; name another")
        run = cls(path)
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            run._lock_fd = _lock(path)
            run._write_config(config, settings)
        except OSError as error:
            run.close()
            for made in (
                path / "checkpoints",
                path / _LOCK,
                path / _SETTINGS,
            ):  # nothing else is in it: it may be named again
                discard(made)
            raise ConfigError(f"--run-dir {path} cannot be written to: {error.strerror}") from error
        return run

    @classmethod
    def resume(cls, path: Path) -> RunDir:
        """An earlier run to go on with; ConfigError when it isn't one or still runs.

        What a kill left unfinished in it is cleared away.
        """
        run = cls.open(path, "--resume")
        run.config()
        try:
            run._lock_fd = _lock(path)
        except OSError as error:
            raise ConfigError(f"--resume {path} cannot be written to: {error.strerror}") from error
        if leftovers := [*remove_leftovers(path), *remove_leftovers(run.checkpoints)]:
            log("leftovers_removed", level=logging.WARNING, run_dir=path, names=",".join(leftovers))
        return run

    @classmethod
    def open(cls, path: Path, named_by: str = "RUN_DIR") -> RunDir:
        """A run to read; ConfigError when `path` isn't one. `named_by` is the argument that named it."""
        if not (path / "config.json").is_file():
            raise ConfigError(f"{named_by} {path} is not a run directory: it has no config.json")
        return cls(path)

    def config(self) -> dict[str, Any]:
        """What config.json holds; CheckpointError when it is broken."""
        return _read_json(self.path / "config.json")

    def result(self) -> dict[str, Any] | None:
        """What result.json holds; None before the run has ended."""
        path = self.path / "result.json"
        return _read_json(path) if path.exists() else None

    def is_running(self) -> bool:
        """Whether a live process owns it; the lock is held for a moment to find out."""
        try:
            fd = os.open(self.path / _LOCK, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            return False
        try:
            return not _has_locked(fd, is_shared=True)
        finally:
            os.close(fd)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json: the run has ended. OSError when that cannot be written."""
        replace_file(self.path / "result.json", [_json(result)])

    def begin_again(self, config: dict[str, Any], settings: str = "") -> None:
        """A resumed run has not ended, and may have other settings. ConfigError when they cannot be written."""
        try:
            self._before = {
                path.name: path.read_bytes()
                for path in (self.path / "result.json", self.path / _SETTINGS, self.path / "config.json")
                if path.exists()
            }
            self._write_config(config, settings)
            (self.path / "result.json").unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"--resume {self.path} cannot be written to: {error.strerror}") from error

    def put_back(self) -> None:
        """What `begin_again` replaced: the run did not go on after all, and its settings are what they were."""
        for name, content in self._before.items():
            try:
                replace_file(self.path / name, [content])
            except OSError as error:
                log("not_written", level=logging.WARNING, what=name, why=error.strerror)

    def _write_config(self, config: dict[str, Any], settings: str) -> None:
        """config.json last: it is what makes a directory a run's."""
        replace_file(self.path / _SETTINGS, [settings.encode("utf-8", "replace")])
        replace_file(self.path / "config.json", [_json({"versions": versions(), **config})])

    def close(self) -> None:
        """Give the lock up."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def default_path(env_id: str, seed: int, now_s: float, root: Path = Path("runs")) -> Path:
    """runs/CartPole-v1-20260131-235959-0, with a number behind it where that exists."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in env_id)
    name = name.lstrip("-.")  # of ../envs.py:Maze: what begins with a dot is hidden, with a hyphen looks like a flag
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now_s))
    first = root / f"{name}-{stamp}-{seed}"
    others = (root / f"{first.name}-{number}" for number in range(2, 1000))
    return first if not first.exists() else next(path for path in others if not path.exists())


def versions() -> dict[str, str]:
    """The versions that a run depends on; packages that are not installed are left out."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def _lock(path: Path) -> int:
    """Lock the directory for this process's life; ConfigError when another holds it."""
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    give_up_s = time.monotonic() + LOOKED_AT_S
    while not _has_locked(fd):
        if time.monotonic() > give_up_s:
            os.close(fd)
            raise ConfigError(f"{path} belongs to a run that still runs; stop that one first, or name another")
        time.sleep(0.01)
    return fd


def _has_locked(fd: int, *, is_shared: bool = False) -> bool:
    """False when another holds the lock; True where there are no locks (Windows)."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
