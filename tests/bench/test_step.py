"""`python bench/step.py` as it is run; no figure is asserted, for a busy machine has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "step.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--starts", "1", "--seconds", "0.02", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def rows_of(printed: str) -> dict[str, str]:
    """What each row's line ends with, by the row's name: its verdict, or why it was left out."""
    lines = [line for line in printed.splitlines()[2:] if not line.startswith(" ")]  # without the points of curves
    return {line.split()[0]: "left out" if "left out: " in line else line.split()[-1] for line in lines}


def test_a_row_is_measured_against_its_reference() -> None:
    found = run("--rows", "W1s")
    assert found.returncode == 0, found.stderr
    assert rows_of(found.stdout) in ({"W1s": "ok"}, {"W1s": "short"})


def test_a_row_that_is_not_there_is_refused_with_those_that_are() -> None:
    found = run("--rows", "W9")
    assert found.returncode != 0
    assert "no row W9; there are W1, " in found.stderr


@pytest.mark.long
def test_every_row_can_be_measured_or_says_why_not() -> None:
    names = [line.split()[0] for line in run("--list").stdout.splitlines()]
    found = run()
    assert found.returncode == 0, found.stderr
    assert list(rows_of(found.stdout)) == names
    assert set(rows_of(found.stdout).values()) <= {"ok", "short", "left out", "-"}
