"""What git says of the working directory; nothing where there is no repository or no git."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from multiserverrl.observe import git
from multiserverrl.observe.git import GitQuestion

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def state_of(directory: Path) -> dict[str, object] | None:
    question = GitQuestion(directory)
    try:
        return question.state()
    finally:
        question.close()


def run_git(directory: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_and_branch_are_told_and_whether_a_tracked_file_was_changed(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "--quiet", "--initial-branch", "trunk")
    assert state_of(tmp_path) == {"commit": None, "branch": "trunk", "is_dirty": False}
    (tmp_path / "a.py").write_text("1")
    run_git(tmp_path, "add", "a.py")
    run_git(tmp_path, "commit", "--quiet", "--message", "one")
    commit = run_git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "run-1").write_text("untracked files do not count")
    assert state_of(tmp_path) == {"commit": commit, "branch": "trunk", "is_dirty": False}
    (tmp_path / "a.py").write_text("2")
    assert state_of(tmp_path) == {"commit": commit, "branch": "trunk", "is_dirty": True}


def test_outside_a_repository_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert state_of(tmp_path) is None


def test_without_git_or_directory_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_of(tmp_path / "absent") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state_of(tmp_path) is None


def test_a_git_that_takes_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec cat /dev/zero > /dev/null\n")
    slow.chmod(0o755)
    monkeypatch.setattr(git, "LONGEST_S", 0.01)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert state_of(tmp_path) is None
