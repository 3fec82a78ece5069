"""What a run keeps on disk while it learns, where the disk may refuse it: that costs a file, never the run."""

from __future__ import annotations

import errno
import time
from pathlib import Path

from multiserverrl.train.channels import Counters
from multiserverrl.train.checkpoint import Checkpoint, save_checkpoint
from multiserverrl.train.policy import Policy, save_policy

__all__ = ["CheckpointWriter", "has_kept_policy"]


class CheckpointWriter:
    """Writes a checkpoint every so often; one that could not be written is tried again when the next is due."""

    def __init__(self, directory: Path, every_s: float, counters: Counters) -> None:
        self._directory, self._every_s, self._counters = directory, every_s, counters
        self._tried_at_s = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for the next."""
        return time.monotonic() - self._tried_at_s >= self._every_s

    def write(self, checkpoint: Checkpoint) -> None:
        """Write it. What keeps it from being written is in the counter `checkpoint_errno`, for the launcher to tell."""
        try:
            save_checkpoint(self._directory, checkpoint)
        except OSError as error:
            self._counters.set("checkpoint_errno", error.errno or errno.EIO)
        else:
            self._counters.set("checkpoint_errno", 0)
            self._counters.add("checkpoints", 1)
        self._tried_at_s = time.monotonic()


def has_kept_policy(path: Path, policy: Policy, counters: Counters) -> bool:
    """Write the policy; False, and why in the counter `policy_errno`, when that is impossible now."""
    try:
        save_policy(path, policy)
    except OSError as error:
        counters.set("policy_errno", error.errno or errno.EIO)
        return False
    counters.set("policy_errno", 0)
    return True
