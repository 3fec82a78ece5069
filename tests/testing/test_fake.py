"""The fake server is written from docs/protocol.md alone, and real clients cannot tell it from a real server."""

import ast
from pathlib import Path
from typing import Any

import pytest

import multiserverrl as msr
from multiserverrl.client.api import describe
from multiserverrl.errors import ServerFull, SessionLost, Unauthorized
from multiserverrl.testing import fake
from multiserverrl.testing.contract import ENV_CLAIMS, VECTOR_CLAIMS
from multiserverrl.testing.fake import FakeServer

FOLDER = Path(fake.__file__).parent


def test_it_knows_nothing_of_the_package_but_itself() -> None:
    found = set()
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    ours = {name for name in found if name.startswith("multiserverrl")}
    assert ours
    assert {name for name in ours if not name.startswith("multiserverrl.testing.fake")} == set()


@pytest.mark.parametrize("claim", ENV_CLAIMS, ids=lambda claim: claim.__name__)
def test_a_virtual_env_of_it_is_an_env(claim: Any) -> None:
    with FakeServer() as server:
        claim(lambda: msr.VirtualEnv(server.url), lambda: msr.VirtualEnv(server.url))


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("claim", VECTOR_CLAIMS, ids=lambda claim: claim.__name__)
def test_a_virtual_vector_env_of_it_is_a_vector_env(claim: Any, mode: str) -> None:
    with FakeServer() as server:

        def make() -> msr.VirtualVectorEnv:
            return msr.VirtualVectorEnv(server.url, autoreset_mode=mode)

        claim(make, make)


def test_its_one_env_is_had_by_one_and_free_again_after_close() -> None:
    with FakeServer() as server:
        env = msr.VirtualEnv(server.url)
        assert describe(server.url).free == 0
        with pytest.raises(ServerFull):
            msr.VirtualEnv(server.url)
        env.close()
        msr.VirtualEnv(server.url).close()


def test_it_wants_its_token() -> None:
    with FakeServer(token="abc") as server:
        assert describe(server.url, token="abc").env_ids == ["Walk-v0"]
        with pytest.raises(Unauthorized):
            describe(server.url)
        with pytest.raises(Unauthorized):
            msr.VirtualEnv(server.url, token="abcd")


def test_a_session_is_lost_with_its_server() -> None:
    with FakeServer() as server:
        env = msr.VirtualEnv(server.url)
        env.reset(seed=1)
        server.session = None
        for connection in server.connections:
            connection.stop()
        with pytest.raises(SessionLost):
            env.step(1)
        env.close()
