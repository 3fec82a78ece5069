"""What happened, for the operator: one line an event, `env_worker_restarted worker=3 cause="signal SIGKILL"`.

Lines go through the standard logger "multiserverrl"; only a process's entry point gives it a
handler (`log_to_stderr`), never an import. Nothing is logged per step, and never a token.
"""

from __future__ import annotations

import json
import logging
import os
import sys

__all__ = ["LEVEL_VARIABLE", "LOGGER", "line_of", "log", "log_to_stderr"]

LOGGER = logging.getLogger("multiserverrl")
LEVEL_VARIABLE = "MULTISERVERRL_LOG"  # "debug", "info" or "warning"; children inherit it


def log(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log `event key=value …`; values with spaces or quotes are quoted, so that a line stays one line."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "%s", line_of(event, **fields))


def line_of(event: str, **fields: object) -> str:
    """The line that `log` writes, without the time."""
    return " ".join([event, *(f"{name}={_plain(value)}" for name, value in fields.items())])


def log_to_stderr(level: int | None = None) -> None:
    """Send this process's events to stderr; the level (None: what the environment says, or INFO) and above."""
    named = logging.getLevelNamesMapping().get(os.environ.get(LEVEL_VARIABLE, "").upper(), logging.INFO)
    LOGGER.setLevel(named if level is None else level)
    if LOGGER.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    LOGGER.addHandler(handler)
    LOGGER.propagate = False


def _plain(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    needs_quotes = not text or any(letter.isspace() or letter in '"=' or not letter.isprintable() for letter in text)
    return json.dumps(text, ensure_ascii=False) if needs_quotes else text
