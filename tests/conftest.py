"""One numerical thread for the tests' own process, as every process of ours has: read when NumPy is first imported.

And how hypothesis looks: the same way each time, so that a commit passes or it does not.
`pytest tests/wire --hypothesis-profile=wide` looks further, each time elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

for setting in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(setting, "1")

with contextlib.suppress(ModuleNotFoundError):  # the venv of `make trainers` has none
    from hypothesis import HealthCheck, settings

    CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # a busy machine is no fault of the code
    settings.register_profile("calm", derandomize=True, stateful_step_count=40, **CALM)
    settings.register_profile("wide", max_examples=2000, stateful_step_count=80, **CALM)
    settings.load_profile("calm")


@pytest.fixture(autouse=True)
def log_level_stays_here() -> Iterator[None]:
    """A command line that runs in a test tells its children by the environment how much to log: not later tests'."""
    before = os.environ.get("MULTISERVERRL_LOG")
    yield
    if before is None:
        os.environ.pop("MULTISERVERRL_LOG", None)
    else:
        os.environ["MULTISERVERRL_LOG"] = before
