"""What an env worker prints: kept at its end, passed on within limits, and never waited for."""

import asyncio
import os
from collections.abc import Callable

import pytest

from multiserverrl.server.output import WorkerOutput


def heard(content: bytes, write: Callable[[bytes], bool]) -> str:
    """The end of `content`, as one kept it who read it from a pipe in an event loop."""

    async def run() -> str:
        reading, writing = os.pipe()
        output = WorkerOutput(3, os.fdopen(reading, "rb"), write)
        await asyncio.to_thread(_write_all, writing, content)
        return output.end()

    return asyncio.run(run())


def _write_all(fd: int, content: bytes) -> None:
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(content)


def test_everything_is_passed_on_in_order_and_the_end_kept() -> None:
    passed: list[bytes] = []
    lines = b"".join(b"line %d\n" % number for number in range(20_000))
    kept = heard(lines, lambda piece: passed.append(piece) is None)
    assert b"".join(passed) == lines
    assert kept.endswith("line 19999") and kept.startswith("line ") and 1000 < len(kept) <= 1 << 14


def test_what_nobody_takes_is_dropped_and_counted(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="multiserverrl"):
        assert heard(b"a word\n" * 1000, lambda piece: False).endswith("a word")
    assert "env_worker_output_dropped worker=3 size_bytes=7000" in caplog.text


def test_no_more_than_a_megabyte_a_second_is_passed_on() -> None:
    passed: list[int] = []
    kept = heard(b"x" * (5 << 20) + b"\nthe end", lambda piece: passed.append(len(piece)) is None)
    assert kept == "the end" and 1 << 20 <= sum(passed) < 4 << 20


def test_bytes_that_are_no_text_are_kept_as_far_as_they_are() -> None:
    assert heard(b"\xff\xfe end", lambda piece: True) == "\ufffd\ufffd end"
