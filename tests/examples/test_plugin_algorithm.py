"""The plug-in of docs/plugins.md, installed as anyone would, and trained with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.plugged import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "plugin_algorithm"


def test_the_page_shows_the_files_as_they_are() -> None:
    page = (REPOSITORY / "docs" / "plugins.md").read_text("utf-8")
    assert f"```python\n{(EXAMPLE / 'linear_q.py').read_text('utf-8')}```" in page
    assert f"```toml\n{(EXAMPLE / 'pyproject.toml').read_text('utf-8')}```" in page


def test_it_has_sixty_lines() -> None:
    lines = (EXAMPLE / "linear_q.py").read_text("utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 60


@pytest.mark.long
def test_it_is_installed_and_learns_cartpole_in_seconds(tmp_path: Path) -> None:
    source, target, run_dir = tmp_path / "source", tmp_path / "site", tmp_path / "run"
    source.mkdir()
    for name in ("linear_q.py", "pyproject.toml"):  # pip builds beside them
        (source / name).write_bytes((EXAMPLE / name).read_bytes())
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)], {})
    flags = ["--algorithm", "linear-q", "--option", "features=400", "--stop-at-return", "150", "--seed", "1"]
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "multiserverrl", "train", "CartPole-v1", "--run-dir", str(run_dir), *flags]
    run(command, {"PYTHONPATH": path})
    assert json.loads((run_dir / "result.json").read_text())["eval_mean"] >= 150
    assert json.loads((run_dir / "config.json").read_text())["train"]["options"] == {"features": 400}


def run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
