"""`train` in a terminal that a test plays: a panel in place, a terminal that becomes narrower, a Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEADLINE_S = 60.0
ESCAPES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")
TINY = ["--count", "2", "--hidden", "16", "--warmup-steps", "20", "--eval-episodes", "2", "--stop-at-return", "1e9"]


class Terminal:
    """One end of a pseudo-terminal; a process has the other."""

    def __init__(self) -> None:
        self._fd, self.other = pty.openpty()
        self.text = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def read_until(self, pattern: str) -> str:
        """What came since the last call, up to where the pattern is in it."""
        text, until_s = "", time.monotonic() + DEADLINE_S
        while not re.search(pattern, ESCAPES.sub("", text)):
            left_s = until_s - time.monotonic()
            assert left_s > 0, text
            if select.select([self._fd], [], [], left_s)[0]:
                text += os.read(self._fd, 65536).decode(errors="replace")
        return text

    def close(self) -> None:
        for fd in (self._fd, self.other):
            os.close(fd)


@contextmanager
def training(terminal: Terminal, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    ends = {"stdin": terminal.other, "stdout": terminal.other, "stderr": terminal.other}
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    command = [sys.executable, "-m", "multiserverrl", "train", *arguments]
    process = subprocess.Popen(command, **ends, env={**variables, "TERM": "xterm-256color"})  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_S)


@pytest.mark.long
def test_a_run_in_a_terminal_is_a_panel_that_follows_its_width(tmp_path: Path) -> None:
    terminal = Terminal()
    try:
        terminal.resize(80)
        with training(terminal, "CartPole-v1", *TINY, "--run-dir", str(tmp_path / "run")) as process:
            wide = terminal.read_until(r"╭─ training .*─{20}╮(.|\n)*evaluation .*goal 1e\+09(.|\n)*╯(.|\n)*╯")
            assert "\x1b[1A" in wide, "it is drawn over"
            terminal.resize(40)
            narrow = terminal.read_until(r"╭─ training [^╮]{10,30}╮(.|\n)*╯")
            assert re.search(r"\x1b\[\d+A\r\x1b\[J", narrow), "what the terminal wrapped is gone"
            process.send_signal(signal.SIGINT)
            told = terminal.read_until("go on with")
            assert "\x1b[?25h" in told, "the cursor is back"
            assert "Traceback" not in told
            assert process.wait(DEADLINE_S) == 130
    finally:
        terminal.close()
