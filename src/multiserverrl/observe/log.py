"""What happened, for the operator: one line an event, `env_worker_restarted worker=3 cause="signal SIGKILL"`.

Lines go through the standard logger "multiserverrl"; only a process's entry point gives it a
handler (`log_to_stderr`), never an import. Nothing is logged per step, and never a token.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from typing import TextIO

__all__ = ["LEVEL_VARIABLE", "LOGGER", "line_of", "log", "log_to_stderr"]

LOGGER = logging.getLogger("multiserverrl")
_MOST_CHARACTERS = 900  # of a line; at most 4 bytes each: what a pipe takes whole that takes anything
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
    handler = _Patient(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    LOGGER.addHandler(handler)
    LOGGER.propagate = False


class _Patient(logging.StreamHandler[TextIO]):
    """Leaves out, and counts, the lines that nobody takes: a process that waits for a reader serves nobody else."""

    _num_left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not _takes_more(self.stream):
                self._num_left_out += 1
                return
            if self._num_left_out:
                told = line_of("log_lines_left_out", lines=self._num_left_out)
                self._num_left_out = 0
                super().emit(logging.makeLogRecord({**record.__dict__, "msg": told, "args": ()}))
        except (OSError, ValueError):
            pass  # not a file of the system's, or a closed one
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record)[:_MOST_CHARACTERS]


def _takes_more(stream: TextIO) -> bool:
    """Whether a line can be written to it without waiting."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return poll.poll(0) == [(stream.fileno(), select.POLLOUT)]


def _plain(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    needs_quotes = not text or any(letter.isspace() or letter in '"=' or not letter.isprintable() for letter in text)
    return json.dumps(text, ensure_ascii=False) if needs_quotes else text
