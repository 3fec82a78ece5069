"""One server for all tests of the server that do not break it."""

from collections.abc import Iterator

import pytest

from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving

ENVS = "multiserverrl.testing.envs"
ENV_IDS = (
    "CartPole-v1", "FrozenLake-v1", "Blackjack-v1", "Pendulum-v1",
    f"{ENVS}:Scripted", f"{ENVS}:DictObs", f"{ENVS}:TextObs",
)  # fmt: skip


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with serving(*ENV_IDS, count=20, allow_attr="steps,setting,np_random_seed") as running:
        yield running


@pytest.fixture(scope="session")
def url(server: RunningServer) -> str:
    return server.url


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants the token "secret"."""
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text("secret\n")
    with serving("CartPole-v1", count=2, workers=1, token_file=str(token_file)) as running:
        yield running.url


@pytest.fixture(scope="session")
def small() -> Iterator[str]:
    """A server that takes no message beyond 4 KiB."""
    with serving("CartPole-v1", count=2, workers=1, max_message_bytes=4096) as running:
        yield running.url
