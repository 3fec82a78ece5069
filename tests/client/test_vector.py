"""VirtualVectorEnv against real servers: as Gymnasium's SyncVectorEnv, in each autoreset mode."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ActionError, ConfigError, NotAllowedError, SessionLost
from multiserverrl.testing.contract import VECTOR_CLAIMS, assert_same, vector_trajectory
from multiserverrl.testing.envs import DictObs, Scripted, TextObs
from tests.client.conftest import ENVS

MODES = {mode.name.lower(): mode for mode in AutoresetMode}
LOCAL: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "CartPole-v1": lambda: gymnasium.make("CartPole-v1"),
    "FrozenLake-v1": lambda: gymnasium.make("FrozenLake-v1"),
    "Blackjack-v1": lambda: gymnasium.make("Blackjack-v1"),
    "Pendulum-v1": lambda: gymnasium.make("Pendulum-v1"),
    f"{ENVS}:DictObs": DictObs,
    f"{ENVS}:TextObs": TextObs,
    f"{ENVS}:Scripted": Scripted,
}
SCRIPTED = f"{ENVS}:Scripted"


def local_of(env_id: str, mode: str, num_envs: int = 3) -> SyncVectorEnv:
    return SyncVectorEnv([LOCAL[env_id]] * num_envs, autoreset_mode=MODES[mode])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", LOCAL)
def test_it_moves_as_a_sync_vector_env(url: str, env_id: str, mode: str) -> None:
    claim = VECTOR_CLAIMS[0]
    claim(lambda: VirtualVectorEnv(url, env_id, 3, autoreset_mode=mode), lambda: local_of(env_id, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("claim", VECTOR_CLAIMS[1:], ids=lambda claim: claim.__name__)
def test_it_keeps_the_contract(url: str, claim: Any, mode: str) -> None:
    claim(lambda: VirtualVectorEnv(url, SCRIPTED, 3, autoreset_mode=mode), lambda: local_of(SCRIPTED, mode))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, "same_step", "SameStep"])
def test_the_mode_may_be_said_in_either_spelling(url: str, mode: Any) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2, autoreset_mode=mode)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    envs.close()


def test_gymnasium_makes_it_by_name(url: str) -> None:
    envs = gymnasium.make_vec("multiserverrl:Virtual-v0", num_envs=3, url=url, env_id="CartPole-v1")
    local = local_of("CartPole-v1", "next_step")
    assert isinstance(envs.unwrapped, VirtualVectorEnv)
    assert_same(vector_trajectory(envs, 30), vector_trajectory(local, 30))
    envs.close()


def test_gymnasiums_vector_wrappers_go_around_it(url: str) -> None:
    envs = RecordEpisodeStatistics(VirtualVectorEnv(url, SCRIPTED, 3))
    local = RecordEpisodeStatistics(local_of(SCRIPTED, "next_step"))
    assert_same(vector_trajectory(envs, 10), vector_trajectory(local, 10))
    envs.close()


def test_a_step_may_be_sent_now_and_taken_later(url: str) -> None:
    envs, local = VirtualVectorEnv(url, SCRIPTED, 3), local_of(SCRIPTED, "next_step")
    envs.reset(seed=1)
    local.reset(seed=1)
    actions = np.array([0, 1, 0])
    envs.step_async(actions)
    assert_same(envs.step_wait(), local.step(actions))
    envs.close()


def test_a_reset_with_a_step_on_its_way_drops_the_step(url: str) -> None:
    envs, local = VirtualVectorEnv(url, SCRIPTED, 2), local_of(SCRIPTED, "next_step", 2)
    envs.reset(seed=1)
    envs.step_async(np.array([0, 1]))
    assert_same(vector_trajectory(envs, 5), vector_trajectory(local, 5))
    envs.close()


def test_close_with_a_step_on_its_way_frees_the_envs(url: str) -> None:
    for _ in range(2):
        envs = VirtualVectorEnv(url, SCRIPTED, 16)
        envs.reset()
        envs.step_async(np.zeros(16, np.int64))
        envs.close()


def test_step_before_reset_is_refused(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2)
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros(2, np.int64))
    envs.close()


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False], TypeError),
        (np.array([True]), ValueError),
        (np.array([1, 0]), TypeError),
        (np.array([False, False]), ValueError),
    ],
)
def test_a_wrong_reset_mask_is_refused_as_gymnasium_does(url: str, mask: Any, error: type[Exception]) -> None:
    envs, local = VirtualVectorEnv(url, SCRIPTED, 2), local_of(SCRIPTED, "next_step", 2)
    for one in (envs, local):
        one.reset(seed=1)
        with pytest.raises(error):
            one.reset(options={"reset_mask": mask})
    envs.close()


def test_disabled_wants_ended_envs_to_be_reset(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2, autoreset_mode="disabled")
    envs.reset(seed=1, options={"length": 1})
    envs.step(np.zeros(2, np.int64))
    with pytest.raises(Exception, match="has ended"):
        envs.step(np.zeros(2, np.int64))
    envs.reset(options={"reset_mask": np.array([True, True])})
    assert envs.step(np.zeros(2, np.int64))[0][:, 0].tolist() == [1, 1]
    envs.close()


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (np.zeros(3, np.int64), "shape"),
        (np.zeros((2, 1), np.int64), "shape"),
        (np.array([0.0, 1.0]), "float64"),
        (np.array([0, 2]), "env 1: action is 2, which is not a member"),
        ([0, None], "object"),
    ],
)
def test_wrong_actions_step_no_env(url: str, actions: Any, words: str) -> None:
    envs, local = VirtualVectorEnv(url, SCRIPTED, 2), local_of(SCRIPTED, "next_step", 2)
    envs.reset(seed=1)
    local.reset(seed=1)
    with pytest.raises(ActionError, match=words):
        envs.step(actions)
    good = np.array([1, 0])
    assert_same(envs.step(good), local.step(good))
    envs.close()


def test_render_gives_one_frame_an_env(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 3, render_mode="rgb_array")
    envs.reset()
    envs.step(np.zeros(3, np.int64))
    frames = envs.render()
    assert frames is not None and [frame.tolist()[0][0] for frame in frames] == [[1, 1, 1]] * 3
    envs.close()


def test_attributes_that_the_operator_allows_are_got_and_set(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 3)
    envs.reset()
    envs.step(np.zeros(3, np.int64))
    assert envs.get_attr("steps") == (1, 1, 1)
    envs.set_attr("setting", [1, 2, 3])
    assert envs.get_attr("setting") == envs.call("setting") == (1, 2, 3)
    with pytest.raises(NotAllowedError, match="--allow-attr"):
        envs.get_attr("options")
    with pytest.raises(ValueError, match="length equal"):
        envs.set_attr("setting", [1])
    envs.close()


def test_it_may_be_closed_before_it_was_reset_and_is_then_closed(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2)
    envs.close()
    with pytest.raises(SessionLost, match="closed"):
        envs.reset()


@pytest.mark.parametrize("settings", [{"num_envs": 0}, {"autoreset_mode": "never"}, {"on_fault": "ignore"}])
def test_settings_that_cannot_be_are_refused(url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        VirtualVectorEnv(url, SCRIPTED, **settings)


@pytest.mark.parametrize("num_envs", [1, 3, 17])
def test_arrays_are_aligned_writable_and_the_callers_own(url: str, num_envs: int) -> None:
    envs = VirtualVectorEnv(url, "CartPole-v1", num_envs, autoreset_mode="same_step")
    told: list[Any] = [envs.reset(seed=1)[0]]
    for _ in range(30):
        told += envs.step(np.ones(num_envs, int))[:4]
    for array in told:
        assert array.flags.aligned
        assert array.flags.writeable
    assert len({array.__array_interface__["data"][0] for array in told}) == len(told)
    envs.close()
