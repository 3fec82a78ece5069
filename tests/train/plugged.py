"""Packages with an entry point for algorithms, put where Python finds them: no pip, no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def plug_in(monkeypatch: pytest.MonkeyPatch, directory: Path, **algorithms: str) -> None:
    """Install a package with these algorithms, name → "module:Class", for this process and its children."""
    about = directory / "plugged_in-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-in\nVersion: 1.0\n")
    lines = [f"{name.replace('_', '-')} = {where}" for name, where in algorithms.items()]
    (about / "entry_points.txt").write_text("\n".join(["[multiserverrl.algorithms]", *lines, ""]))
    see(monkeypatch, directory)


def see(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Let this process and its children find what is in `directory`, and our tests."""
    monkeypatch.syspath_prepend(str(directory))
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(directory), str(REPOSITORY), inherited])))
