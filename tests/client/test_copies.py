"""A pickled virtual env opens a session of its own."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import multiserverrl as msr
from multiserverrl.client.api import describe
from multiserverrl.errors import ServerUnreachable
from multiserverrl.testing.contract import assert_same, trajectory
from multiserverrl.testing.envs import Scripted
from multiserverrl.testing.threaded import serving_from_thread


def loaded(pickled: bytes) -> Any:
    return pickle.loads(pickled)  # noqa: S301 - our own


def unpickled(env: Any) -> Any:
    return loaded(pickle.dumps(env))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_from_thread(Scripted, count=12, allow_arg="at_make") as served:
        yield served


@pytest.mark.parametrize("copied", [copy.deepcopy, unpickled], ids=["copy", "pickle"])
def test_the_copy_steps_an_env_of_its_own(url: str, copied: Callable[[Any], Any]) -> None:
    with msr.VirtualEnv(url, arguments={"at_make": ""}) as env, copied(env) as other:
        assert describe(url).free == 10
        env.reset(seed=4)
        env.step(1)
        first = trajectory(other, 9, seed=4)
        assert env.step(0)[4] == {"steps": 2}  # untouched by the other's steps
        assert_same(trajectory(env, 9, seed=4), first)
    assert describe(url).free == 12


def test_the_copy_renders_and_has_the_spec_of_its_origin(url: str) -> None:
    with gymnasium.make("multiserverrl:Virtual-v0", url=url) as env, unpickled(env.unwrapped) as other:
        assert other.spec == env.unwrapped.spec is not None
    with msr.VirtualEnv(url, render_mode="rgb_array") as env, unpickled(env) as other:
        other.reset(seed=0)
        assert other.render().shape == (4, 6, 3)


def test_a_copy_does_not_take_its_origins_session_over_as_owner(url: str) -> None:
    with msr.VirtualEnv(url, owner="a-key-of-my-own-") as env:
        env.reset(seed=0)
        with unpickled(env) as other:
            other.reset(seed=0)
        assert env.step(0)[4] == {"steps": 1}


def test_a_pickle_outlives_the_env_it_was_made_of(url: str) -> None:
    with msr.VirtualEnv(url) as env:
        kept = pickle.dumps(env)
    with loaded(kept) as other:
        other.reset(seed=0)


def test_where_no_server_is_a_pickle_is_refused_as_a_new_env_is() -> None:
    with serving_from_thread(Scripted) as url, msr.VirtualEnv(url) as env:
        kept = pickle.dumps(env)
    with pytest.raises(ServerUnreachable):
        loaded(kept)


def test_the_token_of_the_environment_is_not_in_the_pickle(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISERVERRL_TOKEN", "a-great-secret")
    with msr.VirtualEnv(url) as env:
        assert b"a-great-secret" not in pickle.dumps(env)
    with msr.VirtualEnv(url, token="given-by-hand") as env, unpickled(env) as other:
        assert b"given-by-hand" in pickle.dumps(other)


def test_a_vector_env_is_copied_with_its_mode_and_lanes(url: str) -> None:
    envs = msr.VirtualVectorEnv(url, num_envs=4, autoreset_mode="same_step", lanes=2, owner="a-key-of-my-own-")
    other = unpickled(envs)
    assert describe(url).free == 4
    assert other.num_envs == 4 and other.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert_same(envs.reset(seed=2), other.reset(seed=2))
    other.send(np.array([1, 0]), [0, 1])  # the lanes are those of its origin
    assert other.recv()[4]["env_id"].tolist() == [0, 1]
    assert_same(envs.reset(seed=2), other.reset(seed=2))
    envs.close()
    other.close()
    assert describe(url).free == 12
