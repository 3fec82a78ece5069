"""VirtualVectorEnv over several lanes and several servers: one env batch to look at, independent groups to step."""

from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ActionError, ConfigError, EnvFault, SeqError, SpaceError, WireError
from multiserverrl.testing.contract import VECTOR_CLAIMS, assert_same
from multiserverrl.testing.envs import DictObs, Scripted, TextObs, count_of
from multiserverrl.testing.relay import Flip, Relay
from multiserverrl.testing.serving import serving
from multiserverrl.wire.trees import pack_tree
from tests.client.conftest import ENVS

SCRIPTED = f"{ENVS}:Scripted"
LOCAL = {
    "CartPole-v1": lambda: gymnasium.make("CartPole-v1"),
    SCRIPTED: Scripted,
    f"{ENVS}:DictObs": DictObs,
    f"{ENVS}:TextObs": TextObs,
}


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    """Two servers of different size."""
    with serving(*LOCAL, count=6) as large, serving(*LOCAL, count=3, workers=1) as small:
        yield [large.url, small.url]


@pytest.mark.parametrize("mode", [mode.name.lower() for mode in AutoresetMode])
@pytest.mark.parametrize("env_id", LOCAL)
def test_lanes_move_as_one_sync_vector_env(url: str, env_id: str, mode: str) -> None:
    for claim in VECTOR_CLAIMS:
        claim(
            lambda: VirtualVectorEnv(url, env_id, 5, autoreset_mode=mode, lanes=[2, 1, 2]),
            lambda: SyncVectorEnv([LOCAL[env_id]] * 5, autoreset_mode=AutoresetMode[mode.upper()]),
        )


@pytest.mark.parametrize("mode", [mode.name.lower() for mode in AutoresetMode])
@pytest.mark.parametrize("env_id", LOCAL)
def test_servers_move_as_one_sync_vector_env(urls: list[str], env_id: str, mode: str) -> None:
    claim = VECTOR_CLAIMS[0]
    claim(
        lambda: VirtualVectorEnv(urls, env_id, 6, autoreset_mode=mode, lanes=2),
        lambda: SyncVectorEnv([LOCAL[env_id]] * 6, autoreset_mode=AutoresetMode[mode.upper()]),
    )


def test_servers_that_serve_different_envs_are_refused_and_nothing_stays_open() -> None:
    with serving("CartPole-v1", count=2) as one, serving("FrozenLake-v1", count=2) as other:
        with pytest.raises(SpaceError, match="do not serve the same env"):
            VirtualVectorEnv([one.url, other.url], num_envs=4)
        VirtualVectorEnv(one.url, num_envs=2, wait_s=5.0).close()  # both are free


def test_what_is_sent_to_some_lanes_is_received_from_them(url: str) -> None:
    envs = VirtualVectorEnv(url, "CartPole-v1", 4, lanes=2)
    twin = SyncVectorEnv([LOCAL["CartPole-v1"]] * 4)
    envs.reset(seed=3), twin.reset(seed=3)
    envs.send(np.array([0, 1]), [3, 2])  # in the caller's own order
    obs, rewards, terminated, truncated, infos = envs.recv()
    assert infos.pop("env_id").tolist() == [2, 3]
    envs.send(np.array([1, 0]), [0, 1])
    first = envs.recv(2)
    wanted = twin.step(np.array([1, 0, 1, 0]))
    assert_same((obs, rewards, terminated, truncated, infos), (*(part[2:] for part in wanted[:4]), {}), "lane 1")
    assert first[4]["env_id"].tolist() == [0, 1]
    assert_same(first[0], wanted[0][:2], "lane 0")
    envs.close(), twin.close()


def test_a_slow_lane_does_not_hold_up_the_others(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2, lanes=2)
    envs.reset(seed=0, options={"how": "sleep", "sleep_s": 1.0, "at": 1, "seed": 0})
    envs.send(np.array([0, 0]))
    for step in range(1, 4):
        obs, _, _, _, infos = envs.recv()
        assert infos["env_id"].tolist() == [1] and obs[0, 0] == step
        envs.send(np.array([0]), [1])
    told = envs.recv(2)
    assert told[4]["env_id"].tolist() == [0, 1]
    assert told[0][:, 0].tolist() == [1, 4]
    envs.close()


def test_an_answer_is_never_taken_for_another_steps(url: str, tmp_path: Path) -> None:
    """Gymnasium's AsyncVectorEnv returns the late answer of an abandoned step as the next step's."""
    envs = VirtualVectorEnv(url, SCRIPTED, 3, lanes=3)
    envs.reset(
        seed=0, options={"how": "sleep", "sleep_s": 0.3, "at": 2, "length": 100, "path": str(tmp_path / "steps")}
    )
    envs.step(np.zeros(3, int))
    envs.send(np.zeros(1, int), [1])  # nobody takes this answer: a reset drops it
    obs, _ = envs.reset(seed=0)
    assert obs[:, 0].tolist() == [0, 0, 0]
    assert envs.step(np.zeros(3, int))[0][:, 0].tolist() == [1, 1, 1]
    assert count_of(tmp_path / "steps") == 7
    envs.close()


def test_sends_that_cannot_be_are_refused_and_step_nothing(url: str, tmp_path: Path) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 4, lanes=2)
    envs.reset(seed=0, options={"path": str(tmp_path / "steps")})
    with pytest.raises(ConfigError, match="whole lanes"):
        envs.send(np.zeros(1, int), [1])
    with pytest.raises(ConfigError, match="each env once"):
        envs.send(np.zeros(3, int), [0, 1, 1])
    with pytest.raises(ActionError, match=r"not a member|is 2"):
        envs.step(np.array([0, 0, 0, 2]))
    with pytest.raises(ActionError):
        envs.step(np.zeros(5, int))
    with pytest.raises(NoAsyncCallError):
        envs.recv()
    assert count_of(tmp_path / "steps") == 0
    envs.send(np.zeros(2, int), [0, 1])
    with pytest.raises(AlreadyPendingCallError):
        envs.send(np.zeros(2, int), [0, 1])
    with pytest.raises(AlreadyPendingCallError):
        envs.step(np.zeros(4, int))
    with pytest.raises(NoAsyncCallError):
        envs.recv(3)
    assert envs.recv(2)[0][:, 0].tolist() == [1, 1]
    envs.close()


def test_lanes_go_on_over_a_new_connection(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 4, lanes=2)
    envs.reset(seed=0)
    for step in range(1, 6):
        envs.send(np.zeros(4, int))
        envs._remotes[0].link._drop()
        assert envs.recv(4)[0][:, 0].tolist() == [step] * 4
    envs.close()


def test_a_message_too_large_on_one_lane_takes_nothing_from_another(tmp_path: Path) -> None:
    with serving(SCRIPTED, count=2, workers=2, max_message_bytes=4096) as server:
        envs = VirtualVectorEnv(server.url, num_envs=2, lanes=2)
        slow = {"length": 100, "path": str(tmp_path / "steps"), "seed": 1, "how": "sleep", "at": 1, "sleep_s": 0.2}
        envs.reset(seed=1, options=slow)
        first, second = envs._lanes
        first.send_step(np.zeros(1, np.int64))
        second.send_reset(None, pack_tree({"large": np.zeros(5000)}), None)
        assert first.take().observations[0, 0] == 1
        with pytest.raises(WireError, match="too large"):
            second.take()
        first.send_step(np.zeros(1, np.int64))
        assert first.take().observations[0, 0] == 2
        assert count_of(tmp_path / "steps") == 2
        envs.close()


def test_a_request_does_not_pass_an_answer_that_waits(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2, lanes=2, render_mode="rgb_array")
    envs.reset(seed=1)
    envs.send(np.zeros(2, int))
    link = envs._remotes[0].link
    while not (link.has_answer(0) and link.has_answer(1)):
        link._receive_one()
    with pytest.raises(SeqError, match="not taken yet"):
        envs.render()
    assert envs.recv(2)[0][:, 0].tolist() == [1, 1]
    envs.close()


def test_a_lane_that_fails_leaves_the_others_answers(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2, lanes=2)
    envs.reset(seed=5, options={"how": "raise", "at": 1, "seed": 6})
    envs.send(np.zeros(2, int))
    with pytest.raises(EnvFault, match="env 1 ended"):
        envs.recv(2)
    obs, _, _, _, infos = envs.recv()
    assert (obs[0, 0], infos["env_id"].tolist()) == (1, [0])
    envs.close()


def test_lanes_whose_answer_never_comes_are_asked_again_after_the_time_out(url: str) -> None:
    with Relay(url) as relay:
        envs = VirtualVectorEnv(relay.url, SCRIPTED, 2, lanes=2, timeout_s=0.3)
        envs.reset(seed=1)
        relay.flip(Flip("request", 7))  # the message never ends
        envs.send(np.zeros(1, np.int64), env_ids=[1])
        assert envs.recv()[0][:, 0].tolist() == [1]
        assert relay.connections == 2
        envs.close()
