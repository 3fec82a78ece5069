"""These tests run real trainers, which an ordinary venv does not have: they are collected only when asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving

SCRIPTED = "multiserverrl.testing.envs:Scripted"
SWITCHES = f"{Path(__file__).with_name('envs.py')}:Switches"
TRAINERS = {f"test_{name}.py" for name in ("sb3", "torchrl", "tianshou", "cleanrl", "rllib")}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without `-m trainers` nothing here is even imported; with it, a library that is missing is an error."""
    is_asked_for = config.option.markexpr == "trainers"
    is_of_a_trainer = collection_path.name in TRAINERS
    return True if is_of_a_trainer and not is_asked_for else None


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    env_ids = ("CartPole-v1", "Pendulum-v1", "FrozenLake-v1", SCRIPTED, SWITCHES)
    with serving(*env_ids, count=24, allow_attr="steps,setting") as running:
        yield running


@pytest.fixture(scope="session")
def url(server: RunningServer) -> str:
    return server.url


def lose_sessions(server: RunningServer) -> None:
    """kill -9 the server's front, and have another."""
    before = server.pids()
    os.kill(before[0], signal.SIGKILL)
    while server.pids() == before:
        server.poll()
