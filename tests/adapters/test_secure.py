"""A server under TLS with a token, reached by what needs no trainer: CleanRL's envs, and Gymnasium's own makers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from multiserverrl.adapters.cleanrl import CleanRLEnvs
from multiserverrl.adapters.infos import warn_of_made_up
from multiserverrl.errors import SessionLost, UntrustedServer
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving
from tests.adapters.conftest import SCRIPTED, lose_sessions
from tests.certificates import Authority

TOKEN = "the-token-of-this-test"
VIRTUAL = "multiserverrl:Virtual-v0"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, dict[str, Any]]]:
    """The server, and by what a client gets in."""
    folder = tmp_path_factory.mktemp("secure")
    authority, token_file = Authority(folder), Path(folder) / "token"
    token_file.write_text(TOKEN)
    with serving(SCRIPTED, count=4, token_file=str(token_file), **authority.sign().settings()) as server:
        yield server, {"token": TOKEN, "ca_file": authority.ca_file}


def test_cleanrls_envs_get_in_by_the_token_and_the_ca(secure: tuple[RunningServer, dict[str, Any]]) -> None:
    server, ways_in = secure
    envs = CleanRLEnvs(server.url, SCRIPTED, 2, **ways_in)
    envs.reset(seed=1)
    assert envs.step(np.zeros(2, np.int64))[0][:, 0].tolist() == [1, 1]
    envs.close()
    with pytest.raises(UntrustedServer, match="ca_file="):
        CleanRLEnvs(server.url, SCRIPTED, 2, token=TOKEN)
    with pytest.raises(UntrustedServer, match="fingerprint"):
        CleanRLEnvs(server.url, SCRIPTED, 2, **ways_in, fingerprint="ab" * 32)


def test_so_do_gymnasiums_makers(secure: tuple[RunningServer, dict[str, Any]]) -> None:
    server, ways_in = secure
    env = gymnasium.make(VIRTUAL, url=server.url, **ways_in)
    envs = gymnasium.make_vec(VIRTUAL, 2, url=server.url, **ways_in)
    assert env.reset(seed=1)[0].shape == envs.reset(seed=1)[0][0].shape
    env.close()
    envs.close()
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(UntrustedServer, match="ca_file="):
            make(VIRTUAL, url=server.url, token=TOKEN)


def test_an_owner_key_closes_the_session_that_an_earlier_script_left(
    secure: tuple[RunningServer, dict[str, Any]],
) -> None:
    server, ways_in = secure
    ghost = CleanRLEnvs(server.url, SCRIPTED, 4, **ways_in, owner="a-key-of-my-own-")
    ghost.reset()
    envs = CleanRLEnvs(server.url, SCRIPTED, 4, **ways_in, owner="a-key-of-my-own-")
    envs.reset()
    envs.close()
    ghost.close()


def test_a_lost_session_ends_cleanrls_episodes_with_a_warning_where_that_was_asked() -> None:
    with serving(SCRIPTED, count=4, workers=1) as server:
        patient = CleanRLEnvs(server.url, SCRIPTED, 2, on_lost="truncate")
        other = CleanRLEnvs(server.url, SCRIPTED, 2)
        patient.reset(seed=1)
        other.reset(seed=1)
        lose_sessions(server)
        with pytest.raises(SessionLost):
            other.step(np.zeros(2, np.int64))
        with pytest.warns(RuntimeWarning, match="was lost with its session, its episode counts as truncated"):
            observations, _, _, truncated, infos = patient.step(np.zeros(2, np.int64))
        assert truncated.all() and infos["_final_info"].all() and observations[:, 0].tolist() == [0, 0]
        patient.close()
        other.close()


def test_only_what_no_env_said_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_made_up(0, {"lives": 3}, stacklevel=1)
    with pytest.warns(RuntimeWarning, match="env 1 failed, its episode counts as truncated: oh"):
        warn_of_made_up(1, {"multiserverrl": {"fault": "oh"}}, stacklevel=1)
