from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multiserverrl.train.checkpoint import Checkpoint, load_newest
from multiserverrl.train.saving import CheckpointWriter
from tests.train.fakes import FakeCounters


class Clock:
    """Stands still, but for what is asked of it."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("took_s", "pause_s"), [(0.0, 10.0), (1.0, 10.0), (4.0, 36.0)], ids=["at once", "quick", "slow"]
)
def test_the_next_checkpoint_is_due_after_its_time_but_nine_times_as_late_as_the_last_took(
    tmp_path: Path, took_s: float, pause_s: float
) -> None:
    clock, counters = Clock(), FakeCounters()
    writer = CheckpointWriter(tmp_path, 10.0, counters.row("l"), clock)

    def slowly() -> Checkpoint:
        clock.now_s += took_s
        return Checkpoint({"a": np.zeros(2)}, {})

    for at_s, is_due in ((109.0, False), (110.0, True)):
        clock.now_s = at_s
        assert writer.is_due() is is_due
    writer.write(slowly)
    written_s = clock.now_s
    for after_s, is_due in ((0.0, False), (pause_s - 0.5, False), (pause_s, True)):
        clock.now_s = written_s + after_s
        assert writer.is_due() is is_due
    assert counters.get("checkpoints") == 1
    assert load_newest(tmp_path) is not None
