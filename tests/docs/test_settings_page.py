"""docs/settings.md says what the config dataclasses say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_settings_page_is_in_step() -> None:
    command = [sys.executable, str(DOCS / "generate_settings.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
