"""What a learner does to its process must not outlive its test: other tests run in the same one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from multiserverrl.observe.log import LOGGER


@pytest.fixture(autouse=True)
def _denormals_count_again() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Every line that is logged, at any level."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener, level = Listener(), LOGGER.level
    LOGGER.addHandler(listener)
    LOGGER.setLevel(logging.DEBUG)
    yield lines
    LOGGER.removeHandler(listener)
    LOGGER.setLevel(level)


@pytest.fixture
def cuda() -> torch.device:
    """The GPU; without one, the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    return torch.device("cuda")
