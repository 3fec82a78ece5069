"""An outage is told once when it begins and once when it is over."""

from __future__ import annotations

import errno

from multiserverrl.launch.outages import Outages


def test_each_outage_is_told_once_and_so_is_its_end() -> None:
    lines: list[str] = []
    outages = Outages(lines.append)
    for number in (0, errno.ENOSPC, errno.ENOSPC, errno.EIO, 0, 0, errno.EROFS):
        outages.tell("checkpoints", number)
        outages.tell("metrics.jsonl", 0)
    assert lines == [
        "checkpoints cannot be written: No space left on device; training goes on, and tries again",
        "checkpoints can be written again, after 0 s",
        "checkpoints cannot be written: Read-only file system; training goes on, and tries again",
    ]
