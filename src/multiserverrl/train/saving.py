"""What a run keeps on disk while it learns, where the disk may refuse it: that costs a file, never the run."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

from multiserverrl.train.channels import Counters
from multiserverrl.train.checkpoint import Checkpoint, save_checkpoint
from multiserverrl.train.policy import Policy, save_policy

__all__ = ["CheckpointWriter", "has_kept_policy"]

LEAST_REST = 9.0  # times as long as the last checkpoint took


class CheckpointWriter:
    """Writes a checkpoint every so often; one that could not be written is tried again when the next is due.

    While one is written nothing is learned, and a large replay buffer takes long: that is a tenth of the time at most.
    """

    def __init__(
        self, directory: Path, every_s: float, counters: Counters, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory, self._every_s, self._counters, self._clock = directory, every_s, counters, clock
        self._due_at_s = clock() + every_s

    def is_due(self) -> bool:
        """Whether it is time for the next."""
        return self._clock() >= self._due_at_s

    def write(self, checkpoint: Callable[[], Checkpoint]) -> None:
        """Make it and write it. What keeps it from being written is in the counter `checkpoint_errno`, for the
        launcher to tell.
        """
        began_s = self._clock()
        made = checkpoint()
        try:
            save_checkpoint(self._directory, made)
        except OSError as error:
            self._counters.set("checkpoint_errno", error.errno or errno.EIO)
        else:
            self._counters.set("checkpoint_errno", 0)
            self._counters.add("checkpoints", 1)
        ended_s = self._clock()
        self._due_at_s = ended_s + max(self._every_s, LEAST_REST * (ended_s - began_s))


def has_kept_policy(path: Path, policy: Policy, counters: Counters) -> bool:
    """Write the policy; False, and why in the counter `policy_errno`, when that is impossible now."""
    try:
        save_policy(path, policy)
    except OSError as error:
        counters.set("policy_errno", error.errno or errno.EIO)
        return False
    counters.set("policy_errno", 0)
    return True
