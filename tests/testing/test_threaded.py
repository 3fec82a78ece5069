"""An env server in a thread of this process: any function that makes an env is served."""

import os
import threading
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import multiserverrl as msr
from multiserverrl.client.api import describe
from multiserverrl.errors import ConfigError, EnvFault
from multiserverrl.testing.contract import ENV_CLAIMS
from multiserverrl.testing.envs import CustomSpace, DictObs, Scripted, TextObs
from multiserverrl.testing.serving import children_of
from multiserverrl.testing.threaded import serving_from_thread


@pytest.mark.parametrize("claim", ENV_CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("make", [DictObs, lambda: TextObs()], ids=["dict", "text"])
def test_every_claim_holds_for_an_env_from_a_lambda(make: Any, claim: Any) -> None:
    with serving_from_thread(make) as url:
        claim(lambda: msr.VirtualEnv(url), make)


def test_no_process_and_no_thread_is_left_and_none_was_started() -> None:
    threads, children = set(threading.enumerate()), children_of(os.getpid())
    with serving_from_thread(Scripted) as url:
        with msr.VirtualEnv(url) as env:
            env.reset(seed=0)
        assert children_of(os.getpid()) == children
    assert set(threading.enumerate()) == threads


def test_the_env_is_the_callables_own_and_its_id_can_be_chosen() -> None:
    made: list[Scripted] = []

    def make(render_mode: str | None = None) -> Scripted:
        made.append(Scripted(render_mode))
        return made[-1]

    with serving_from_thread(make, env_id="Mine-v3", count=3) as url:
        told = describe(url)
        with msr.VirtualEnv(url, "Mine-v3", render_mode="rgb_array") as env:
            env.reset(seed=1)
            env.step(0)
            assert made[-1].steps == 1 and env.render().shape == (4, 6, 3)
    assert told.env_ids == ["Mine-v3"] and told.capacity == 3


def test_several_envs_and_worker_threads_are_a_vector_env() -> None:
    with serving_from_thread(Scripted, workers=2) as url:
        envs = msr.VirtualVectorEnv(url, num_envs=4)
        observations, _ = envs.reset(seed=3)
        local = [Scripted().reset(seed=3 + index)[0] for index in range(4)]
        envs.close()
    assert np.array_equal(observations, np.stack(local))


def test_gymnasiums_checker_is_content() -> None:
    with serving_from_thread(lambda: gymnasium.make("CartPole-v1")) as url, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has opinions on CartPole's bounds
        env = msr.VirtualEnv(url)
        check_env(env, skip_render_check=True)
        env.close()


def test_an_env_that_raises_is_an_env_fault_that_names_the_line() -> None:
    with serving_from_thread(Scripted) as url, msr.VirtualEnv(url) as env:
        env.reset(options={"how": "raise", "at": 1})
        with pytest.raises(EnvFault, match="fail") as raised:
            env.step(0)
        assert "envs.py" in raised.value.remote_traceback
        env.reset()


def test_an_env_that_ends_its_thread_is_a_fault_and_a_new_worker_goes_on() -> None:
    class Leaves(Scripted):
        def step(self, action: np.int64) -> Any:
            raise SystemExit(3)

    with serving_from_thread(Leaves) as url, msr.VirtualEnv(url) as env:
        env.reset(seed=0)
        with pytest.raises(EnvFault):
            env.step(0)
        env.reset(seed=0)


def test_an_env_that_hangs_is_a_fault_at_its_deadline_though_its_thread_cannot_be_killed() -> None:
    may_return = threading.Event()

    class Hangs(Scripted):
        def step(self, action: np.int64) -> Any:
            may_return.wait(60)
            return super().step(action)

    threads = set(threading.enumerate())
    with serving_from_thread(Hangs, step_deadline_s=0.2) as url, msr.VirtualEnv(url) as env:
        env.reset(seed=0)
        with pytest.raises(EnvFault, match="step deadline"):
            env.step(0)
        may_return.set()
        env.reset(seed=0)
        assert env.step(0)[4] == {"steps": 1}
    for thread in set(threading.enumerate()) - threads:
        thread.join(20)
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (CustomSpace, ValueError, "the observation space"),
        (lambda: Scripted(at_make="raise"), EnvFault, "fail at make"),
        (lambda: "no env", ConfigError, "str is an environment of the old `gym`"),
    ],
    ids=["space", "raises", "no env"],
)
def test_what_cannot_be_served_is_refused_at_once(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words), serving_from_thread(make):
        raise AssertionError("it was served")


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="--count"), serving_from_thread(Scripted, count=0):
        raise AssertionError("it was served")
