"""`python -m multiserverrl`."""

from __future__ import annotations

import sys

from multiserverrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
