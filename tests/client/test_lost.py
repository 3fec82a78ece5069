"""`on_lost="truncate"`: a session that the server no longer knows ends its episodes, and nothing else."""

import os
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.envs import RemoteEnvs
from multiserverrl.client.link import Link
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ServerFull, ServerUnreachable, SessionLost, SessionTaken
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.contract import assert_same
from multiserverrl.testing.envs import DictObs, Scripted, TextObs, count_of
from multiserverrl.testing.relay import Relay
from multiserverrl.testing.serving import serving
from tests.client.conftest import ENVS

SCRIPTED = f"{ENVS}:Scripted"
LOCAL: dict[str, Callable[[], Any]] = {SCRIPTED: Scripted, f"{ENVS}:DictObs": DictObs, f"{ENVS}:TextObs": TextObs}
MODES = ["next_step", "same_step", "disabled"]


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    with Relay(url) as running:
        yield running


def end_at_server(url: str, remote: RemoteEnvs) -> None:
    """The server forgets the session, as it does one whose time is over."""
    opened = remote.link.opened
    request = urllib.request.Request(
        f"{url}/v1/sessions/{opened.session}", method="DELETE", headers={"Session-Secret": opened.secret}
    )
    urllib.request.urlopen(request, timeout=10).close()


def lose(relay: Relay, url: str, remote: RemoteEnvs) -> None:
    end_at_server(url, remote)
    relay.cut_now()


def actions_of(envs: Any, number: int) -> Any:
    envs.action_space.seed(number)
    return envs.action_space.sample()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", LOCAL)
def test_every_running_episode_of_a_lost_session_is_truncated_and_the_next_begin(
    relay: Relay, url: str, env_id: str, mode: str
) -> None:
    envs = VirtualVectorEnv(relay.url, env_id, 3, autoreset_mode=mode, on_lost="truncate")
    twin = SyncVectorEnv([LOCAL[env_id]] * 3, autoreset_mode=AutoresetMode[mode.upper()])
    assert_same(envs.reset(seed=5), twin.reset(seed=5))
    for number in range(2):
        told, wanted = (one.step(actions_of(twin, number)) for one in (envs, twin))
        assert_same(told, wanted)
    last = wanted[0]
    lose(relay, url, envs._remotes[0])
    obs, rewards, terminated, truncated, infos = envs.step(actions_of(twin, 9))
    assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([0.0] * 3, [False] * 3, [True] * 3)
    assert infos["multiserverrl"]["_lost"].tolist() == [True] * 3
    assert "not known here" in infos["multiserverrl"]["lost"][0]
    if mode == "same_step":
        assert_same(rows_of(infos["final_obs"]), rows_of(last))
        assert infos["_final_obs"].tolist() == [True] * 3
    else:
        assert_same(rows_of(obs), rows_of(last))
    if mode == "next_step":
        told = envs.step(actions_of(twin, 10))
        assert (told[1].tolist(), told[3].tolist()) == ([0.0] * 3, [False] * 3)
    if mode == "disabled":
        for row in range(3):  # one by one, as a caller may
            envs.reset(options={"reset_mask": np.arange(3) == row})
    told = [envs.step(actions_of(twin, 20 + number)) for number in range(3)]
    assert not told[-1][2].any() and not told[-1][3].any()
    if env_id == SCRIPTED:
        assert told[-1][0][:, 0].tolist() == [3.0] * 3  # a whole new episode
    assert_same(envs.reset(seed=6), twin.reset(seed=6))
    assert_same(envs.step(actions_of(twin, 3)), twin.step(actions_of(twin, 3)))
    assert envs._remotes[0].link.reopens == 1  # type: ignore[attr-defined]
    envs.close(), twin.close()


def rows_of(batch: Any) -> list[Any]:
    if isinstance(batch, dict):
        columns = {key: rows_of(part) for key, part in batch.items()}
        return [{key: column[row] for key, column in columns.items()} for row in range(3)]
    if isinstance(batch, tuple) and not isinstance(batch[0], str):
        return [tuple(row) for row in zip(*map(rows_of, batch), strict=True)]
    return list(batch)


def test_a_single_envs_episode_is_truncated_and_reset_begins_the_next(relay: Relay, url: str) -> None:
    env, local = VirtualEnv(relay.url, SCRIPTED, on_lost="truncate"), Scripted()
    env.reset(seed=1), local.reset(seed=1)
    last = env.step(1)[0]
    lose(relay, url, env._remote)
    obs, reward, terminated, truncated, info = env.step(0)
    assert (obs.tolist(), reward, terminated, truncated) == (last.tolist(), 0.0, False, True)
    assert "not known here" in info["multiserverrl"]["lost"]
    obs[:] = 7  # the caller's own
    assert_same(env.reset(seed=2), local.reset(seed=2))
    assert_same(env.step(1), local.step(np.int64(1)))
    env.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_loss_that_the_server_tells_in_its_answer_is_one_too(url: str, mode: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2, autoreset_mode=mode, on_lost="truncate")
    envs.reset(seed=1)
    envs.step(np.zeros(2, np.int64))
    end_at_server(url, envs._remotes[0])
    assert envs.step(np.zeros(2, np.int64))[3].tolist() == [True, True]
    envs.close()


@pytest.mark.parametrize("mode", MODES)
def test_lanes_hear_of_the_loss_each_at_its_own_step_and_answers_that_came_in_time_stay_true(
    relay: Relay, url: str, mode: str
) -> None:
    envs = VirtualVectorEnv(relay.url, SCRIPTED, 3, autoreset_mode=mode, lanes=3, on_lost="truncate")
    envs.reset(seed=1, options={"length": 100})
    envs.step(np.zeros(3, np.int64))
    envs.send(np.zeros(2, np.int64), [0, 1])
    one = envs.recv(2)
    assert one[0][:, 0].tolist() == [2.0, 2.0]
    lose(relay, url, envs._remotes[0])
    envs.send(np.zeros(1, np.int64), [1])
    told = envs.recv()
    assert (told[4]["env_id"].tolist(), told[3].tolist()) == ([1], [True])
    envs.send(np.zeros(2, np.int64), [0, 2])
    told = envs.recv(2)
    assert (told[4]["env_id"].tolist(), told[3].tolist(), told[1].tolist()) == ([0, 2], [True, True], [0.0, 0.0])
    if mode != "same_step":
        assert told[0][:, 0].tolist() == [2.0, 1.0]  # where each stood
    if mode == "next_step":
        assert envs.step(np.zeros(3, np.int64))[0][:, 0].tolist() == [0.0] * 3
    assert envs.step(np.zeros(3, np.int64))[0][:, 0].tolist() == [1.0] * 3
    envs.close()


def test_servers_that_live_on_are_not_touched_by_anothers_loss(relay: Relay, url: str) -> None:
    envs = VirtualVectorEnv([relay.url, url], SCRIPTED, 4, autoreset_mode="same_step", on_lost="truncate")
    envs.reset(seed=1, options={"length": 100})
    envs.step(np.zeros(4, np.int64))
    lose(relay, url, envs._remotes[0])
    obs, _, _, truncated, infos = envs.step(np.zeros(4, np.int64))
    lost = envs._rows[0].stop
    assert truncated.tolist() == [True] * lost + [False] * (4 - lost)
    assert obs[:, 0].tolist() == [0.0] * lost + [2.0] * (4 - lost)
    assert infos["multiserverrl"]["_lost"].tolist() == truncated.tolist()
    envs.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_second_loss_before_anybody_stepped_is_told_no_second_time(relay: Relay, url: str, mode: str) -> None:
    envs = VirtualVectorEnv(relay.url, SCRIPTED, 1, autoreset_mode=mode, on_lost="truncate")
    envs.reset(seed=1)
    lose(relay, url, envs._remotes[0])
    assert envs.step(np.zeros(1, np.int64))[3].tolist() == [True]
    lose(relay, url, envs._remotes[0])
    told = envs.step(np.zeros(1, np.int64))
    if mode == "next_step":  # it was the reset, of a session that nobody asked anything of since
        assert (told[0][0, 0], told[3].tolist()) == (0.0, [False])
        told = envs.step(np.zeros(1, np.int64))
    assert told[3].tolist() == [True]
    envs.close()


def test_each_step_happens_once_whatever_was_lost(relay: Relay, url: str, tmp_path: Path) -> None:
    path = tmp_path / "steps"
    env = VirtualEnv(relay.url, SCRIPTED, on_lost="truncate")
    for _ in range(3):
        env.reset(options={"path": str(path), "length": 100})
        assert [env.step(0)[3] for _ in range(4)] == [False] * 4
        lose(relay, url, env._remote)
        assert env.step(0)[3]
    assert count_of(path) == 12
    env.close()


def test_a_front_that_was_killed_ends_episodes_and_no_program() -> None:
    with serving(SCRIPTED, count=2) as server:
        envs = VirtualVectorEnv(server.url, num_envs=2, autoreset_mode="same_step", on_lost="truncate")
        envs.reset(seed=1)
        envs.step(np.zeros(2, np.int64))
        os.kill(server.pids()[0], signal.SIGKILL)
        before = server.pids()
        while server.pids() == before:
            server.poll()
        assert envs.step(np.zeros(2, np.int64))[3].tolist() == [True, True]
        assert envs.step(np.zeros(2, np.int64))[0][:, 0].tolist() == [1.0, 1.0]
        envs.close()


def test_a_server_that_stays_away_is_said_and_the_next_step_tries_again(
    relay: Relay, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = VirtualEnv(relay.url, SCRIPTED, on_lost="truncate", timeout_s=0.3)
    env.reset(seed=1)
    end_at_server(server.url, env._remote)
    monkeypatch.setattr(env._remote.link, "opened", with_time_to_live(env._remote.link, 0.2))
    relay.refusing = True
    relay.cut_now()
    with pytest.raises(ServerUnreachable):
        env.step(0)
    relay.refusing = False
    assert env.step(0)[3]
    env.reset(seed=1)
    env.close()


def with_time_to_live(link: Link, time_to_live_s: float) -> Any:
    return type(link.opened)(
        *(
            time_to_live_s if name == "time_to_live_s" else getattr(link.opened, name)
            for name in link.opened.__struct_fields__
        )
    )


def test_a_full_server_is_waited_for_and_said(relay: Relay) -> None:
    with serving(SCRIPTED, count=1) as server, Relay(server.url) as way:
        env = VirtualEnv(way.url, on_lost="truncate", timeout_s=0.3)
        env.reset(seed=1)
        lose(way, server.url, env._remote)
        other = VirtualEnv(server.url)
        with pytest.raises(ServerFull):
            env.step(0)
        other.close()
        assert env.step(0)[3]
        env.close()


def test_a_session_that_was_closed_or_taken_over_is_not_opened_again(url: str) -> None:
    env = VirtualEnv(url, SCRIPTED, on_lost="truncate", owner="a-key-of-my-own-")
    env.reset(seed=1)
    newer = VirtualEnv(url, SCRIPTED, owner="a-key-of-my-own-")
    with pytest.raises(SessionTaken):
        env.step(0)
    env.close()
    newer.close()
    closed = VirtualVectorEnv(url, SCRIPTED, 1, on_lost="truncate")
    closed.reset(seed=1)
    closed.close()
    with pytest.raises(SessionLost, match="closed"):
        closed.step(np.zeros(1, np.int64))


def test_by_default_a_lost_session_is_an_error(relay: Relay, url: str) -> None:
    env = VirtualEnv(relay.url, SCRIPTED)
    env.reset(seed=1)
    lose(relay, url, env._remote)
    with pytest.raises(SessionLost, match="not known here"):
        env.step(0)
    env.close()
