"""The Makefile says what is missing on a bare machine, by name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make_with(python: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(ROOT), f"PYTHON={python}", f"VENV={folder}/venv", "train"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def stand_in(folder: Path, script: str) -> str:
    """A `python` that answers as the case statement says."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{script}\nesac\n', "utf-8")
    path.chmod(0o755)
    return str(path)


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    done = make_with("python-that-is-not-there", tmp_path)
    assert done.returncode != 0
    assert "missing: python-that-is-not-there" in done.stdout


def test_an_old_python_is_named_with_its_version(tmp_path: Path) -> None:
    done = make_with(stand_in(tmp_path, "*version_info*) exit 1;;\n*) echo Python 3.9.2;;"), tmp_path)
    assert done.returncode != 0
    assert "missing: Python 3.11 or newer" in done.stdout
    assert "Python 3.9.2" in done.stdout


def test_a_missing_venv_module_is_named_with_its_package(tmp_path: Path) -> None:
    done = make_with(stand_in(tmp_path, "*ensurepip*) exit 1;;\n*) exit 0;;"), tmp_path)
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stdout
    assert not (tmp_path / "venv").exists()
