"""Whose memory is summed."""

from __future__ import annotations

import os
import subprocess
import sys

from footprint import descendants, pss_bytes

CHILD = "import sys; print('up', flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_the_children_of_children_count() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"up\n"  # from the grandchild
        found = descendants(process.pid)
        assert len(found) == 2
        assert found[0] == process.pid
        assert os.getpid() not in found
        assert all(pss_bytes(pid) > 100_000 for pid in found)
        process.stdin.close()
