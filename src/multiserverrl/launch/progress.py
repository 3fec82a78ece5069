"""What a person sees of a run: a live panel on a terminal, about a line a second elsewhere."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from multiserverrl.launch.panel import WIDEST, History, panel_of, with_interval
from multiserverrl.launch.status import Status
from multiserverrl.observe.log import log

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["LiveProgress", "PlainProgress", "Progress", "Silence", "progress_for"]


class Progress(Protocol):
    """Told of the run; `every_s` is how often it wants a status."""

    every_s: float

    def say(self, line: str) -> None:
        """A line that stays."""

    def show(self, status: Status) -> None:
        """The newest status."""

    def close(self) -> None:
        """Nothing more comes but lines."""


class Silence:
    """Shows nothing."""

    every_s = 1.0

    def say(self, line: str) -> None:
        """See `Progress`."""

    def show(self, status: Status) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """See `Progress`."""


class PlainProgress:
    """Lines, for a pipe or a file; those that a full disk has no room for are lost, and counted."""

    every_s = 1.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def say(self, line: str) -> None:
        """See `Progress`. BrokenPipeError when nobody reads any more."""
        missing = f"({self._lost} lines are missing here: the disk was full)\n" if self._lost else ""
        try:
            self._stream.write(f"{missing}{line}\n")
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            if not self._lost:
                log("not_written", level=logging.WARNING, what="progress", why=error.strerror)
            self._lost += 1
        else:
            self._lost = 0

    def show(self, status: Status) -> None:
        """See `Progress`."""
        self.say("  ".join(f"{name} {value}" for name, value in rows_of(status)))

    def close(self) -> None:
        """See `Progress`."""


class LiveProgress:
    """A panel that is drawn again in place, as wide as the terminal is at the moment."""

    every_s = 0.25

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._is_utf8 = self._console.encoding.lower().startswith("utf")
        self._history = History()
        self._live: Live | None = None
        self._drawn = 0, 0  # the panel's width and height

    def say(self, line: str) -> None:
        """See `Progress`."""
        self._console.print(line, markup=False, soft_wrap=True)

    def show(self, status: Status) -> None:
        """See `Progress`."""
        from rich.live import Live

        self._history.add(status)
        width = self._console.width
        panel = panel_of(status, self._history, width, self._is_utf8)
        if self._live is not None and width < self._drawn[0]:
            self._wipe(width)
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        self._live.update(panel, refresh=True)
        self._drawn = min(width, WIDEST), len(self._console.render_lines(panel, pad=False))

    def close(self) -> None:
        """See `Progress`."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _wipe(self, width: int) -> None:
        """The terminal has become narrower than the panel and has wrapped its lines: take them all away."""
        drawn_width, height = self._drawn
        wrapped = height * math.ceil(drawn_width / width)
        # to its first line, all away, and down to where rich left the cursor: at the last line of what it drew
        self._console.file.write(f"\x1b[{wrapped - 1}A\r\x1b[J" + "\n" * (height - 1))


def progress_for(stream: TextIO | None = None) -> Progress:
    """A panel where the stream is a terminal that can draw one, lines where it is not."""
    stream = stream or sys.stdout
    is_capable = stream.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")
    return LiveProgress(stream) if is_capable else PlainProgress(_unbuffered(stream))


def _unbuffered(stream: TextIO) -> TextIO:
    """The same file, without a buffer that would hold on to what a full disk has refused."""
    try:
        file = io.FileIO(stream.fileno(), "w", closefd=False)
    except io.UnsupportedOperation:  # it is no file
        return stream
    stream.flush()
    return io.TextIOWrapper(file, encoding=stream.encoding, errors="replace", write_through=True)


def rows_of(status: Status) -> list[tuple[str, str]]:
    """Names and values as people read them."""
    evaluation = "–" if status.eval_mean is None else f"{with_interval(status)} (weights {status.eval_version})"
    return [
        ("time", f"{status.wall_s:.1f} s"),
        ("episodes", f"{status.episodes}"),
        ("mean return", "–" if status.mean_return is None else f"{status.mean_return:.1f}"),
        ("env steps", f"{status.env_steps}"),
        ("env steps/s", f"{status.env_steps_per_s:.0f}"),
        ("updates/s", f"{status.updates_per_s:.0f}"),
        ("replay ratio", f"{status.replay_ratio:.3f}" if status.replay_ratio else "–"),
        ("ε", f"{status.epsilon:.3f}" if status.goals.has_epsilon else "–"),
        ("evaluation", evaluation),
        *([("confirming", f"{status.confirming} episodes more")] if status.confirming else []),
        *([("faults", f"{status.faults}")] if status.faults else []),
        *([("warnings", status.warned)] if status.warnings else []),
    ]
