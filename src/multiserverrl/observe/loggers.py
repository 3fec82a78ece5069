"""Where a run's numbers go beside its own files: one small interface, and which of its kinds there are.

TensorBoard's files are written here and now (observe/eventfile); what needs a package and a network has a process of
its own (observe/aside).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import msgspec

from multiserverrl.errors import ConfigError

__all__ = ["LOGGERS", "MetricsLogger", "RunName", "logger_names", "open_loggers", "require_loggers"]

LOGGERS = ("tensorboard", "wandb", "trackio")
NONE = "none"
PACKAGES = ("wandb", "trackio")  # TensorBoard's files need none to be written


class RunName(msgspec.Struct, frozen=True):
    """How a logger names a run; `id` stays the same when the run is gone on with, and no other has it."""

    name: str
    id: str
    directory: str


class MetricsLogger(Protocol):
    """Takes a run's numbers. An OSError of any method says in words what was lost; the next call may go well again."""

    name: str

    def begin(self, settings: Mapping[str, Any]) -> None:
        """The run's settings, once, before any number; quick: the run waits for it."""

    def write(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """Numbers by tag ("train/loss") at this count of env steps; quick, too. The OSError may be of earlier ones."""

    def close(self) -> None:
        """All that was written is where it belongs, or an OSError says that it is not; a second time does nothing."""


def logger_names(text: str) -> tuple[str, ...]:
    """ "tensorboard,wandb" → its parts, "none" → none; ConfigError names what is not known."""
    names = tuple(part.strip() for part in text.split(","))
    if names == (NONE,):
        return ()
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(
                f"--log is {text!r}: {name!r} is none of {', '.join(LOGGERS)}; {NONE} alone means no logger"
            )
    return tuple(dict.fromkeys(names))


def require_loggers(names: Sequence[str]) -> None:
    """ConfigError when the package of one is not installed."""
    for name in names:
        if name in PACKAGES and find_spec(name) is None:
            how = f"pip install 'multiserverrl[{name}]' (in a checkout: pip install -e '.[{name}]')"
            raise ConfigError(f"--log {name} needs the package {name}: {how}")


def open_loggers(names: Sequence[str], run: RunName, secrets: Sequence[str] = ()) -> list[MetricsLogger]:
    """One logger a name; nothing is started or written before its first number.

    `secrets`: environment variables that other people's packages do not get to see.
    """
    from multiserverrl.observe.aside import Aside
    from multiserverrl.observe.eventfile import TensorBoard

    return [TensorBoard(Path(run.directory)) if name == "tensorboard" else Aside(name, run, secrets) for name in names]
