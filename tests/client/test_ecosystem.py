"""What Gymnasium's own checker, wrappers and conventions ask of an env, asked of remote ones."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.testing.contract import assert_same, trajectory, vector_trajectory
from multiserverrl.testing.envs import DictObs, Scripted
from multiserverrl.testing.serving import serving

ENVS = "multiserverrl.testing.envs"
VIRTUAL = "multiserverrl:Virtual-v0"
CARTPOLE, LAKE, PENDULUM = "CartPole-v1", "FrozenLake-v1", "Pendulum-v1"
SCRIPTED, DICT, TEXT = f"{ENVS}:Scripted", f"{ENVS}:DictObs", f"{ENVS}:TextObs"
LOCAL: dict[str, Callable[..., Any]] = {SCRIPTED: Scripted, DICT: DictObs}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(CARTPOLE, LAKE, PENDULUM, "Blackjack-v1", "Taxi-v4", SCRIPTED, DICT, TEXT, workers=1) as server:
        yield server.url


def local_of(env_id: str, **settings: Any) -> Any:
    return LOCAL[env_id](**settings) if env_id in LOCAL else gymnasium.make(env_id, **settings)


# -- Gymnasium's checker -------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [CARTPOLE, LAKE, PENDULUM, "Blackjack-v1", "Taxi-v4", SCRIPTED, DICT, TEXT])
@pytest.mark.parametrize("make", [VirtualEnv, lambda url, env_id: gymnasium.make(VIRTUAL, url=url, env_id=env_id)])
def test_gymnasiums_checker_passes_with_every_render_mode(
    url: str, env_id: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with make(url, env_id) as env, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Box (observation|action) space m|.*For Box action spaces", UserWarning)
        warnings.filterwarnings("ignore", ".*HumanRendering wrapper is being applied", UserWarning)
        check_env(env.unwrapped)


def test_it_is_its_own_unwrapped(url: str) -> None:
    with VirtualEnv(url, CARTPOLE) as env, closing(VirtualVectorEnv(url, CARTPOLE, 2)) as envs:
        assert env.unwrapped is env and envs.unwrapped is envs


def test_a_seed_also_seeds_its_own_generator(url: str) -> None:
    with VirtualEnv(url, CARTPOLE) as env, gymnasium.make(CARTPOLE) as local:
        assert env._np_random is None
        for seed in (3, 4, 3):
            env.reset(seed=seed)
            local.reset(seed=seed)
            wanted = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
            assert env._np_random is not None and env._np_random_seed == env.np_random_seed == seed
            assert env._np_random.bit_generator.state == wanted.bit_generator.state
        state = env.np_random.bit_generator.state
        env.reset()
        assert env.np_random.bit_generator.state == state


@pytest.mark.parametrize("seed", [-1, "one", 1.5])
def test_a_seed_that_cannot_be_is_refused_as_gymnasium_does(url: str, seed: Any) -> None:
    with VirtualEnv(url, CARTPOLE) as env, gymnasium.make(CARTPOLE) as local:
        with pytest.raises(Exception, match=r".") as wanted:
            local.reset(seed=seed)
        with pytest.raises(wanted.type) as got:
            env.reset(seed=seed)
        assert str(got.value) == str(wanted.value)


@pytest.mark.parametrize("env_id", [CARTPOLE, LAKE, PENDULUM, "Taxi-v4", SCRIPTED, DICT, TEXT])
def test_rewards_are_floats_and_ends_bools_of_python(url: str, env_id: str) -> None:
    with VirtualEnv(url, env_id) as env:
        env.reset(seed=1)
        _, reward, is_terminated, is_truncated, info = env.step(env.action_space.sample())
        assert [type(one) for one in (reward, is_terminated, is_truncated, info)] == [float, bool, bool, dict]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_autoreset_mode_is_told_as_gymnasiums_vector_envs_do(url: str, mode: AutoresetMode) -> None:
    with closing(VirtualVectorEnv(url, CARTPOLE, 2, autoreset_mode=mode)) as envs:
        local = SyncVectorEnv([lambda: local_of(CARTPOLE)] * 2, autoreset_mode=mode)
        assert envs.autoreset_mode is mode is envs.metadata["autoreset_mode"]
        assert envs.metadata == local.metadata
        local.close()


@pytest.mark.parametrize(
    "mask",
    [
        [True, False],
        (True, False),
        True,
        np.array([True]),
        np.array([[True, False]]),
        np.array([1, 0]),
        np.array([1.0, 0.0]),
        np.array([False, False]),
    ],
    ids=str,
)
def test_a_wrong_reset_mask_is_refused_with_gymnasiums_own_words(url: str, mask: Any) -> None:
    local = SyncVectorEnv([Scripted] * 2)
    with closing(VirtualVectorEnv(url, SCRIPTED, 2)) as envs:
        for one in (envs, local):
            one.reset(seed=1)
        with pytest.raises((TypeError, ValueError)) as wanted:
            local.reset(options={"reset_mask": mask})
        with pytest.raises(wanted.type) as got:
            envs.reset(options={"reset_mask": mask})
        assert got.type is wanted.type and str(got.value) == str(wanted.value)
        actions = np.ones(2, np.int64)
        assert_same(envs.step(actions), local.step(actions))  # nothing was reset


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rgb_array", "ansi", "rgb_array_list", "ansi_list"])
@pytest.mark.parametrize("env_id", [SCRIPTED, LAKE])
def test_every_render_mode_shows_what_the_local_env_would(url: str, env_id: str, mode: str) -> None:
    local = local_of(env_id, render_mode=mode.removesuffix("_list"))
    if mode.endswith("_list"):
        local = wrappers.RenderCollection(local)
    made = gymnasium.make(VIRTUAL, url=url, env_id=env_id, render_mode=mode)
    with VirtualEnv(url, env_id, render_mode=mode) as env, made as made:
        assert env.render_mode == made.render_mode == local.render_mode == mode
        for one in (env, made, local):
            one.reset(seed=1)
        for _ in range(2):
            for one in (env, made, local):
                one.step(1)
                one.step(0)
            wanted = local.render()
            assert_same(env.render(), wanted)
            assert_same(made.render(), wanted)


@pytest.mark.parametrize("mode", ["rgb_array", "rgb_array_list", "ansi"])
def test_a_vector_env_renders_each_of_its_envs(url: str, mode: str) -> None:
    def make() -> Any:
        local = Scripted(mode.removesuffix("_list"))
        return wrappers.RenderCollection(local) if mode.endswith("_list") else local

    local = SyncVectorEnv([make] * 2)
    with closing(VirtualVectorEnv(url, SCRIPTED, 2, render_mode=mode)) as envs:
        for one in (envs, local):
            one.reset(seed=1)
            one.step(np.array([0, 1]))
        assert_same(envs.render(), local.render())


# -- Gymnasium's wrappers --------------------------------------------------------------------------


def twice(value: Any) -> Any:
    return 2 * value


AROUND: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "Autoreset": (CARTPOLE, wrappers.Autoreset),
    "OrderEnforcing": (CARTPOLE, wrappers.OrderEnforcing),
    "PassiveEnvChecker": (CARTPOLE, wrappers.PassiveEnvChecker),
    "RecordEpisodeStatistics": (SCRIPTED, wrappers.RecordEpisodeStatistics),
    "TimeLimit": (CARTPOLE, lambda env: wrappers.TimeLimit(env, 5)),
    "FrameStackObservation": (CARTPOLE, lambda env: wrappers.FrameStackObservation(env, 3)),
    "FrameStackObservation of dicts": (DICT, lambda env: wrappers.FrameStackObservation(env, 3)),
    "NormalizeObservation": (CARTPOLE, wrappers.NormalizeObservation),
    "NormalizeReward": (CARTPOLE, wrappers.NormalizeReward),
    "TransformReward": (CARTPOLE, lambda env: wrappers.TransformReward(env, twice)),
    "ClipReward": (PENDULUM, lambda env: wrappers.ClipReward(env, -1, 0)),
    "TransformObservation": (CARTPOLE, lambda env: wrappers.TransformObservation(env, twice, env.observation_space)),
    "DelayObservation": (CARTPOLE, lambda env: wrappers.DelayObservation(env, 2)),
    "DtypeObservation": (CARTPOLE, lambda env: wrappers.DtypeObservation(env, np.float64)),
    "FilterObservation": (DICT, lambda env: wrappers.FilterObservation(env, ["image"])),
    "FlattenObservation": (DICT, wrappers.FlattenObservation),
    "MaxAndSkipObservation": (CARTPOLE, lambda env: wrappers.MaxAndSkipObservation(env, 2)),
    "ReshapeObservation": (CARTPOLE, lambda env: wrappers.ReshapeObservation(env, (2, 2))),
    "RescaleObservation": (PENDULUM, lambda env: wrappers.RescaleObservation(env, np.float32(0), np.float32(1))),
    "TimeAwareObservation": (CARTPOLE, lambda env: wrappers.TimeAwareObservation(env, flatten=True)),
    "DiscretizeObservation": (PENDULUM, lambda env: wrappers.DiscretizeObservation(env, 5)),
    "ClipAction": (PENDULUM, wrappers.ClipAction),
    "RescaleAction": (PENDULUM, lambda env: wrappers.RescaleAction(env, np.float32(-1), np.float32(1))),
    "TransformAction": (
        PENDULUM,
        lambda env: wrappers.TransformAction(env, lambda action: action / 2, env.action_space),
    ),
    "DiscretizeAction": (PENDULUM, lambda env: wrappers.DiscretizeAction(env, 5)),
}


@pytest.mark.parametrize("name", AROUND)
def test_gymnasiums_wrapper_works_on_top(url: str, name: str) -> None:
    env_id, wrap = AROUND[name]
    with wrap(VirtualEnv(url, env_id)) as env, wrap(local_of(env_id)) as local:
        assert (env.observation_space, env.action_space) == (local.observation_space, local.action_space)
        assert_same(trajectory(env, 30), trajectory(local, 30))


def pixels(env: Any) -> Any:
    return wrappers.ResizeObservation(wrappers.GrayscaleObservation(wrappers.AddRenderObservation(env)), (20, 30))


@pytest.mark.parametrize("wrap", [wrappers.AddRenderObservation, pixels, wrappers.RenderCollection])
def test_gymnasiums_wrapper_of_frames_works_on_top(url: str, wrap: Any) -> None:
    remote, local = (
        VirtualEnv(url, CARTPOLE, render_mode="rgb_array"),
        gymnasium.make(CARTPOLE, render_mode="rgb_array"),
    )
    with wrap(remote) as env, wrap(local) as other:
        assert_same(trajectory(env, 12), trajectory(other, 12))
        assert_same(env.render(), other.render())


def test_a_wrapper_that_draws_from_np_random_repeats_itself_for_a_seed(url: str) -> None:
    with wrappers.StickyAction(VirtualEnv(url, CARTPOLE), 0.5) as env:
        assert_same(trajectory(env, 30), trajectory(env, 30))


AROUND_ALL: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "RecordEpisodeStatistics": (SCRIPTED, vector_wrappers.RecordEpisodeStatistics),
    "NormalizeObservation": (CARTPOLE, vector_wrappers.NormalizeObservation),
    "NormalizeReward": (CARTPOLE, vector_wrappers.NormalizeReward),
    "TransformReward": (CARTPOLE, lambda envs: vector_wrappers.TransformReward(envs, twice)),
    "ClipReward": (PENDULUM, lambda envs: vector_wrappers.ClipReward(envs, -1, 0)),
    "TransformObservation": (CARTPOLE, lambda envs: vector_wrappers.TransformObservation(envs, twice)),
    "FlattenObservation": (DICT, vector_wrappers.FlattenObservation),
    "FilterObservation": (DICT, lambda envs: vector_wrappers.FilterObservation(envs, ["image"])),
    "ReshapeObservation": (CARTPOLE, lambda envs: vector_wrappers.ReshapeObservation(envs, (2, 2))),
    "DtypeObservation": (CARTPOLE, lambda envs: vector_wrappers.DtypeObservation(envs, np.float64)),
    "ClipAction": (PENDULUM, vector_wrappers.ClipAction),
    "RescaleAction": (PENDULUM, lambda envs: vector_wrappers.RescaleAction(envs, np.float32(-1), np.float32(1))),
}


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("name", AROUND_ALL)
def test_gymnasiums_vector_wrapper_works_on_top(url: str, name: str, mode: AutoresetMode) -> None:
    env_id, wrap = AROUND_ALL[name]
    local = SyncVectorEnv([lambda: local_of(env_id)] * 3, autoreset_mode=mode)
    with closing(VirtualVectorEnv(url, env_id, 3, autoreset_mode=mode)) as envs, closing(local):
        try:
            wanted = vector_trajectory(wrap(local), 15)
        except ValueError as refusal:  # not in this mode
            with pytest.raises(ValueError, match=re.escape(str(refusal))):
                wrap(envs)
        else:
            assert_same(vector_trajectory(wrap(envs), 15), wanted)


def test_infos_may_be_taken_as_a_list(url: str) -> None:
    local = vector_wrappers.DictInfoToList(SyncVectorEnv([Scripted] * 2))
    with closing(vector_wrappers.DictInfoToList(VirtualVectorEnv(url, SCRIPTED, 2))) as envs:
        assert_same(envs.reset(seed=1), local.reset(seed=1))
        for _ in range(9):
            assert_same(envs.step(np.ones(2, np.int64)), local.step(np.ones(2, np.int64)))
