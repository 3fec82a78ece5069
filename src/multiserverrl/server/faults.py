"""What is told of an env that raised, and what stands in its place until it can be made anew."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import gymnasium

from multiserverrl.errors import EnvFault, MultiServerRLError
from multiserverrl.server.commands import Failed
from multiserverrl.wire.trees import carriable

__all__ = ["ENV_ERRORS", "FAULT_KEY", "Absent", "as_unicode", "env_fault", "failed_by", "fault_info", "kept_of"]

Env = gymnasium.Env[Any, Any]
FAULT_KEY = "multiserverrl"
ENV_ERRORS = (Exception, SystemExit, KeyboardInterrupt)  # an env that calls sys.exit() has failed, no more
_MOST_MESSAGE, _MOST_TRACEBACK = 1 << 12, 1 << 15  # characters of them that travel


class Absent(gymnasium.Env[Any, Any]):
    """In the place of an env that could not be made, or reset, after a fault: makes it when it is reset."""

    def __init__(self, error: BaseException, make_again: Callable[[], Env]) -> None:
        self.error, self._make_again = error, make_again

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._make_again().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise RuntimeError("this env could not be made anew after a fault") from self.error


def fault_info(error: BaseException) -> dict[str, str]:
    """What a caller is told of an env that raised."""
    try:
        message = str(error)
    except ENV_ERRORS:
        message = "(its message could not be had)"
    return {
        "fault": as_unicode(_shortened(f"{type(error).__name__}: {message}", _MOST_MESSAGE)),
        "traceback": as_unicode(_shortened("".join(traceback.format_exception(error)), _MOST_TRACEBACK)),
    }


def _shortened(text: str, most: int) -> str:
    """Without its middle, where it is too long."""
    return text if len(text) <= most else f"{text[: most // 2]}\n…\n{text[-most // 2 :]}"


def failed_by(error: BaseException) -> Failed:
    """What the client is told of an operation that raised."""
    if isinstance(error, EnvFault):
        return Failed(error.code, as_unicode(error.args[0]), as_unicode(error.remote_traceback))
    if isinstance(error, MultiServerRLError):
        return Failed(error.code, as_unicode(str(error)))
    told = fault_info(error)
    return Failed(EnvFault.code, told["fault"], told["traceback"])


def as_unicode(text: str) -> str:
    """A text that can be carried, whatever an env put into it (a file name may hold lone surrogates)."""
    return text.encode(errors="replace").decode()


def env_fault(error: BaseException, row: int) -> EnvFault:
    """The error of a reset that raised."""
    told = fault_info(error)
    return EnvFault(f"env {row} raised {told['fault']}", told["traceback"])


def kept_of(info: dict[Any, Any]) -> dict[Any, Any]:
    """An info without the values that cannot be carried, which are named."""
    kept, dropped = carriable(info)
    return {**kept, FAULT_KEY: {**kept.get(FAULT_KEY, {}), "not_carried": ", ".join(dropped)}} if dropped else kept
