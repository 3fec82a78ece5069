"""Equal to local, to the bit: every id of Gymnasium's classic control, toy text and Box2D, an Atari game, and more.

A time limit ends the episodes soon, so that a few steps see several of them; the slow tests leave the ids' own limits
(`pytest -m slow tests/client/test_equal.py`).
"""

import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.testing.contract import assert_same
from multiserverrl.testing.envs import DictObs, TextObs
from multiserverrl.testing.serving import serving

with warnings.catch_warnings():  # SWIG's own, of which an error in mid-import crashes the process
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("Box2D")
gymnasium.register_envs(ale_py)
SETS = re.compile(r"gymnasium\.envs\.(classic_control|toy_text|box2d)[.:]")
OURS: dict[str, Callable[[], Any]] = {
    "multiserverrl.testing.envs:DictObs": DictObs,
    "multiserverrl.testing.envs:TextObs": TextObs,
}
REGISTERED = {env_id: env_id for env_id, spec in gymnasium.registry.items() if SETS.match(str(spec.entry_point))}
SERVED_AS = {**REGISTERED, "ALE/Pong-v5": "ale_py:ALE/Pong-v5", **{env_id: env_id for env_id in OURS}}
NUM_ENVS, SEED = 3, 5  # 3 envs on 2 env workers
SHORT, FEW_STEPS, MOST_STEPS = 6, 20, 1000
SLOW_TO_DRAW = {"CarRacing-v3": 150}  # 6 ms a step
WHOLE = [pytest.param(env_id, marks=pytest.mark.long if env_id in SLOW_TO_DRAW else ()) for env_id in SERVED_AS]

pytestmark = pytest.mark.filterwarnings("ignore:.*The environment CartPole-v0 is out of date:DeprecationWarning")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(*SERVED_AS.values(), allow_arg="max_episode_steps") as server:
        yield server.url


@dataclass
class Twins:
    """A served env and the same one made here; `limit`, where it is no None, ends its episodes earlier."""

    url: str
    env_id: str
    limit: int | None = None

    def arguments(self) -> dict[str, Any]:
        return {} if self.limit is None or self.env_id in OURS else {"max_episode_steps": self.limit}

    def remote(self) -> VirtualEnv:
        return VirtualEnv(self.url, SERVED_AS[self.env_id], arguments=self.arguments())

    def local(self) -> Any:
        return OURS[self.env_id]() if self.env_id in OURS else gymnasium.make(self.env_id, **self.arguments())

    def remotes(self, mode: AutoresetMode) -> VirtualVectorEnv:
        served = SERVED_AS[self.env_id]
        return VirtualVectorEnv(self.url, served, NUM_ENVS, autoreset_mode=mode, arguments=self.arguments())

    def locals(self, mode: AutoresetMode) -> SyncVectorEnv:
        return SyncVectorEnv([self.local] * NUM_ENVS, autoreset_mode=mode)


def told_by(env: Any, num_steps: int) -> Iterator[Any]:
    """What reset and steps with seeded actions give, one at a time; resets where an episode ended."""
    env.action_space.seed(SEED)
    yield env.reset(seed=SEED)
    for _ in range(num_steps):
        obs, reward, is_terminated, is_truncated, info = env.step(env.action_space.sample())
        yield obs, float(reward), bool(is_terminated), bool(is_truncated), info
        if is_terminated or is_truncated:
            yield env.reset()


def told_by_all(envs: Any, num_steps: int) -> Iterator[Any]:
    """The same of a vector env; where the mode is DISABLED, envs that ended are reset by `reset_mask`."""
    envs.action_space.seed(SEED)
    yield envs.reset(seed=SEED)
    for _ in range(num_steps):
        step = envs.step(envs.action_space.sample())
        yield step
        ended = step[2] | step[3]
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            yield envs.reset(options={"reset_mask": ended.copy()})


def num_ends_of_equals(make_remote: Any, make_local: Any, told: Any, num_steps: int) -> int:
    """Step both; AssertionError at the first difference. How many steps ended an episode."""
    ends = 0
    with closing(make_remote()) as remote, closing(make_local()) as local:
        assert (remote.observation_space, remote.action_space) == (local.observation_space, local.action_space)
        for index, (got, wanted) in enumerate(zip(told(remote, num_steps), told(local, num_steps), strict=True)):
            assert_same(got, wanted, f"answer {index}")
            ends += len(got) == 5 and bool(np.any(got[2]) or np.any(got[3]))
    return ends


def test_no_id_is_forgotten() -> None:
    assert {"CartPole-v0", "Acrobot-v1", "MountainCarContinuous-v0", "Taxi-v4", "CliffWalkingSlippery-v1"} < set(
        REGISTERED
    )
    assert {"LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalkerHardcore-v3", "CarRacing-v3"} < set(REGISTERED)
    assert len(REGISTERED) >= 17


@pytest.mark.parametrize("env_id", SERVED_AS)
def test_a_remote_env_is_equal_to_the_local_one(url: str, env_id: str) -> None:
    twins = Twins(url, env_id, SHORT)
    assert num_ends_of_equals(twins.remote, twins.local, told_by, FEW_STEPS) >= 3


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("env_id", SERVED_AS)
def test_remote_envs_are_equal_to_a_sync_vector_env(url: str, env_id: str, mode: AutoresetMode) -> None:
    twins = Twins(url, env_id, SHORT)
    assert num_ends_of_equals(partial(twins.remotes, mode), partial(twins.locals, mode), told_by_all, FEW_STEPS) >= 2


def steps_of_an_episode(env_id: str) -> int:
    limit = None if env_id in OURS else gymnasium.spec(env_id).max_episode_steps
    return (limit or MOST_STEPS) + 10


@pytest.mark.slow
@pytest.mark.parametrize("env_id", WHOLE)
def test_a_remote_env_is_equal_for_a_whole_episode(url: str, env_id: str) -> None:
    twins, num_steps = Twins(url, env_id), steps_of_an_episode(env_id)
    num_ends = num_ends_of_equals(twins.remote, twins.local, told_by, num_steps)
    assert num_ends or env_id.startswith("CliffWalking")  # nothing limits its episodes


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("env_id", WHOLE)
def test_remote_envs_are_equal_for_a_whole_episode(url: str, env_id: str, mode: AutoresetMode) -> None:
    twins, num_steps = Twins(url, env_id), SLOW_TO_DRAW.get(env_id, steps_of_an_episode(env_id))
    num_ends_of_equals(partial(twins.remotes, mode), partial(twins.locals, mode), told_by_all, num_steps)
