"""What a learner does to its process must not outlive its test: other tests run in the same one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _denormals_count_again() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)
