"""The git commit that a run was started in: asked of git itself, aside, so that a large repository holds up nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multiserverrl.processes import Question

__all__ = ["GitQuestion"]

LONGEST_S = 1.0  # from the answer's being wanted; the question was asked before

# no lock is taken and no hook is run: it only looks
_COMMAND = (
    *("git", "--no-optional-locks", "-c", "core.fsmonitor=false"),
    *("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules"),
)


class GitQuestion:
    """Asked when it is made; `state` waits for the answer. Whoever makes it calls `close`."""

    def __init__(self, directory: Path) -> None:
        self._question = Question(_COMMAND, directory)

    def state(self) -> dict[str, Any] | None:
        """Commit (None before the first), branch, and whether a tracked file differs from it.

        None outside a repository, without git, and where git takes too long.
        """
        answer = self._question.answer(LONGEST_S)
        if answer is None:
            return None
        lines = answer.decode("utf-8", "replace").splitlines()
        told = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
        commit = told.get("branch.oid", "(initial)")
        return {
            "commit": None if commit == "(initial)" else commit,
            "branch": told.get("branch.head"),
            "is_dirty": any(not line.startswith("# ") for line in lines),
        }

    def close(self) -> None:
        """Nothing more is wanted of git."""
        self._question.close()
