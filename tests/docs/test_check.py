"""./check and .ci/run: what failed is named, and pytest's own last line closes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(folder: Path, failing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ./check from elsewhere with a `python` that prints its arguments and fails at those that match."""
    python = folder / "python"
    script = f'#!/bin/sh\ncase "$*" in\n*"{failing}"*) echo "7 failed in 0.01s"; exit 1;;\nesac\necho "$* 9 passed"\n'
    python.write_text(script, "utf-8")
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    return subprocess.run(
        [str(ROOT / "check"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("failing", "name"),
    [
        ("ruff format --check", "format"),
        ("ruff check", "lint"),
        ("mypy --strict src", "types"),
        ("tests/test_layers.py", "walls, layers, documents"),
        ("pytest -n 2", "tests"),
    ],
)
def test_what_failed_is_named_and_fails_the_whole(tmp_path: Path, failing: str, name: str) -> None:
    done = check(tmp_path, failing)
    assert done.returncode == 1
    *_, said, last = done.stdout.splitlines()
    assert said == f"failed: {name}"
    assert last.endswith("7 failed in 0.01s" if name == "tests" else "9 passed")


def test_all_well_ends_with_pytests_last_line(tmp_path: Path) -> None:
    done = check(tmp_path, "nothing fails")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "-m pytest -n 2 -q -m not trainers and not root and not long 9 passed"


def test_quick_leaves_out_the_slow_tests(tmp_path: Path) -> None:
    assert "-m not slow and not trainers" in check(tmp_path, "nothing fails", "--quick").stdout.splitlines()[-1]


@pytest.mark.parametrize("failing", ["audit", "faults", "test", "nothing"])
def test_ci_runs_all_of_its_steps_and_the_tests_last_whatever_fails(tmp_path: Path, failing: str) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "made $*"\ntest "$1" != {failing}\n', "utf-8")
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(ROOT / ".ci" / "run"), "VENV=elsewhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.stdout.splitlines() == [f"made {step} VENV=elsewhere" for step in ("audit", "faults", "test")]
    assert done.returncode == (failing != "nothing")
