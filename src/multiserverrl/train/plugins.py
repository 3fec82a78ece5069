"""Algorithms of other packages: found by their entry point, loaded where one is used.

[project.entry-points."multiserverrl.algorithms"]
linear-q = "linear_q:LinearQ"      # what --algorithm says = a class(config, task) that keeps `Algorithm`
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from multiserverrl.errors import ConfigError

__all__ = ["load_plugin", "plugin_names"]

GROUP = "multiserverrl.algorithms"


def plugin_names() -> list[str]:
    """What `--algorithm` may say because it is installed, in order."""
    return sorted(_installed(tuple(sys.path)))


def load_plugin(name: str) -> tuple[Callable[[Any, Any], Any], str]:
    """What makes the algorithm of a config and a task, and who it is in words. ConfigError when it does not load."""
    entry = _installed(tuple(sys.path)).get(name)
    if entry is None:
        raise ConfigError(f"--algorithm {name} is not installed; there are: {', '.join(plugin_names()) or 'none'}")
    return _loaded(entry), _who(entry)


@functools.lru_cache(maxsize=8)
def _installed(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """By name; what is installed is looked for once (7 ms)."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _loaded(entry: EntryPoint) -> Callable[[Any, Any], Any]:
    try:
        loaded = entry.load()
    except Exception as error:
        raise ConfigError(f"{_who(entry)} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise ConfigError(f"{_who(entry)} is {entry.value}, which is no class")
    made: Callable[[Any, Any], Any] = loaded
    return made


def _who(entry: EntryPoint) -> str:
    by = f" of the package {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
    return f"--algorithm {entry.name}{by}"
