"""One numerical thread for the tests' own process, as every process of ours has: read when NumPy is first imported."""

from __future__ import annotations

import os

for setting in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(setting, "1")
