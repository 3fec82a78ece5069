"""Spreading envs over servers and lanes, before anything is opened."""

import gc

import gymnasium
import pytest
from gymnasium.vector import SyncVectorEnv

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.spread import lane_sizes, spread
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ConfigError, ServerFull, SessionLost
from multiserverrl.testing.contract import assert_same, vector_trajectory
from multiserverrl.testing.serving import serving


def test_lanes_are_of_nearly_the_same_size() -> None:
    assert lane_sizes(7, 3) == [3, 2, 2]


def test_there_are_no_more_lanes_than_envs() -> None:
    assert lane_sizes(2, 5) == [1, 1]


def test_sizes_may_be_given() -> None:
    assert lane_sizes(5, [4, 1]) == [4, 1]


@pytest.mark.parametrize("lanes", [0, [2, 2], [5, 0], []])
def test_lanes_that_do_not_fit_the_envs_are_refused(lanes: int | list[int]) -> None:
    with pytest.raises(ConfigError, match="lanes"):
        lane_sizes(5, lanes)


def test_each_server_gets_the_same_share_of_what_it_has_free() -> None:
    with serving("CartPole-v1", count=6, workers=1) as large, serving("CartPole-v1", count=3, workers=1) as small:
        urls = [small.url, large.url]
        assert spread(urls, 9, None) == [3, 6]
        assert spread(urls, 3, None) == [1, 2]
        assert spread(urls, 1, None) == [0, 1]
        with pytest.raises(ServerFull, match=r"10 environments.*9 are free \(3 at .*, 6 at "):
            spread(urls, 10, None)


def test_a_server_that_is_named_twice_holds_two_sessions_with_a_connection_each() -> None:
    with serving("CartPole-v1", count=5, workers=2) as server:
        envs = VirtualVectorEnv([server.url, server.url], num_envs=5)
        assert [remote.lanes[0].num_envs for remote in envs._remotes] == [3, 2]
        local = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 5)
        assert_same(vector_trajectory(envs, 40), vector_trajectory(local, 40))
        envs.close()


def test_envs_that_are_dropped_without_a_close_are_free_at_once() -> None:
    with serving("CartPole-v1", count=3, workers=1, time_to_live_s=600.0) as server:
        single, envs = VirtualEnv(server.url), VirtualVectorEnv(server.url, num_envs=2)
        single.reset()
        envs.reset()
        del single, envs
        gc.collect()
        others = VirtualVectorEnv(server.url, num_envs=3, wait_s=20.0)
        others.close()


def test_a_server_that_is_gone_is_said_to_be_gone_at_each_step() -> None:
    with serving("CartPole-v1", count=2, workers=1) as lasting:
        with serving("CartPole-v1", count=2, workers=1) as leaving:
            envs = VirtualVectorEnv([lasting.url, leaving.url], num_envs=4)
            envs.reset(seed=1)
        for _ in range(2):
            with pytest.raises(SessionLost):
                envs.step([0, 0, 0, 0])
        envs.close()
