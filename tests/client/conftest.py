"""One server for all tests of the client that do not break it."""

from collections.abc import Iterator

import pytest

from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving

ENVS = "multiserverrl.testing.envs"
ENV_IDS = (
    "CartPole-v1", "FrozenLake-v1", "Blackjack-v1", "Pendulum-v1",
    f"{ENVS}:Scripted", f"{ENVS}:DictObs", f"{ENVS}:TextObs", f"{ENVS}:Pictures",
)  # fmt: skip


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with serving(*ENV_IDS, count=20, allow_attr="steps,setting,np_random_seed") as running:
        yield running


@pytest.fixture(scope="session")
def url(server: RunningServer) -> str:
    return server.url
