"""A served EnvPool, with the real library: its envs step as they do in this process, with Gymnasium's seeds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import multiserverrl as msr
from multiserverrl.client.api import describe
from multiserverrl.errors import ConfigError, EnvFault, UnknownEnvError
from multiserverrl.server.envpool import EnvPoolVectorEnv, find_pool
from multiserverrl.testing.serving import serving
from multiserverrl.testing.threaded import serving_from_thread

envpool = pytest.importorskip("envpool")  # of the extra `dev`
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # the local pools' own


def pool(task_id: str = "CartPole-v1", **arguments: Any) -> Any:
    return envpool.make_gymnasium(task_id, num_threads=1, **arguments)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("envpool:CartPole-v1", count=64, workers=2, allow_arg="max_episode_steps,seed") as server:
        yield server.url


@pytest.fixture
def envs(url: str) -> Iterator[msr.VirtualVectorEnv]:
    envs = msr.VirtualVectorEnv(url, num_envs=8)
    yield envs
    envs.close()


def assert_steps_alike(remote: Any, local: Any, actions: Any) -> int:
    """How many episodes ended meanwhile."""
    ends = 0
    for action in actions:
        told, wanted = remote.step(action), local.step(action)
        for got, own in zip(told[:4], wanted[:4], strict=True):
            assert np.array_equal(got, own)
        ends += int((told[2] | told[3]).sum())
    return ends


def test_one_session_gets_it_whole_and_every_step_is_its_own(url: str) -> None:
    remote, local = msr.VirtualVectorEnv(url, num_envs=64), pool(num_envs=64, seed=3)
    assert remote.single_observation_space == local.observation_space
    assert remote.single_action_space == local.action_space
    assert remote.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert np.array_equal(remote.reset(seed=3)[0], local.reset()[0])
    assert assert_steps_alike(remote, local, np.random.default_rng(0).integers(0, 2, (60, 64))) > 50
    remote.close()


def test_it_tells_its_own_limit_and_threshold_and_ends_episodes_by_them(url: str) -> None:
    remote = msr.VirtualVectorEnv(url, num_envs=2, arguments={"max_episode_steps": 3})
    remote.reset(seed=0)
    ends = [remote.step(np.array([0, 1]))[3].tolist() for _ in range(5)]
    assert ends == [[False] * 2, [False] * 2, [True] * 2, [False] * 2, [False] * 2]
    remote.close()
    assert describe(url).envs[0].max_episode_steps == 500
    assert describe(url).envs[0].reward_threshold == 475.0


def test_the_step_after_an_end_is_the_reset_with_reward_0(url: str) -> None:
    remote = msr.VirtualVectorEnv(url, num_envs=1, arguments={"max_episode_steps": 2})
    remote.reset(seed=0)
    told = [remote.step(np.array([0])) for _ in range(3)]
    assert [step[1][0] for step in told] == [1.0, 1.0, 0.0]
    assert np.abs(told[2][0]).max() <= 0.05
    remote.close()


def test_a_seed_begins_the_same_episodes_again_and_none_goes_on(envs: msr.VirtualVectorEnv) -> None:
    first, after = envs.reset(seed=5)[0], envs.reset()[0]
    assert not np.array_equal(first, after)
    assert np.array_equal(envs.reset(seed=5)[0], first) and np.array_equal(envs.reset()[0], after)
    listed = [7, 5, 6, 5, 5, 5, 5, 5]
    assert np.array_equal(envs.reset(seed=listed)[0], first[[2, 0, 1, 0, 0, 0, 0, 0]])


def test_sessions_that_give_no_seed_have_other_episodes(url: str) -> None:
    firsts = []
    for _ in range(2):
        envs = msr.VirtualVectorEnv(url, num_envs=2)
        firsts.append(envs.reset()[0])
        envs.close()
    assert not np.array_equal(*firsts)


def test_a_mask_resets_some_and_leaves_the_others(envs: msr.VirtualVectorEnv) -> None:
    local = pool(num_envs=8, seed=1)
    envs.reset(seed=1)
    local.reset()
    assert_steps_alike(envs, local, np.ones((4, 8), int))
    before = envs.step(np.ones(8, int))[0]
    local.step(np.ones(8, int))
    mask = np.arange(8) % 3 == 0
    observations = envs.reset(options={"reset_mask": mask})[0]
    assert np.array_equal(observations[mask], local.reset(np.flatnonzero(mask))[0])
    assert np.array_equal(observations[~mask], before[~mask])
    assert assert_steps_alike(envs, local, np.ones((20, 8), int)) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": 2**31}, "whole numbers of 32 bits, one an env, not 2147483648"),
        ({"seed": [1, None, 3, 4, 5, 6, 7, 8]}, "one an env, not None"),
        ({"seed": 1, "options": {"reset_mask": np.arange(8) > 3}}, "seeded as a whole"),
        ({"options": {"length": 3}}, "no options but reset_mask, not length"),
    ],
    ids=["beyond", "some", "mask", "options"],
)
def test_what_its_reset_cannot_do_is_said_and_the_next_reset_works(
    envs: msr.VirtualVectorEnv, arguments: dict[str, Any], words: str
) -> None:
    envs.reset(seed=1)
    with pytest.raises(EnvFault, match=words):
        envs.reset(**arguments)
    envs.reset(seed=1)
    envs.step(np.zeros(8, int))


@pytest.mark.parametrize("mode", ["same_step", "disabled"])
def test_a_mode_that_it_lacks_is_refused_naming_the_one_it_has(url: str, mode: str) -> None:
    with pytest.raises(ConfigError, match=f"with the autoreset_mode next_step; it cannot be had as '{mode}'"):
        msr.VirtualVectorEnv(url, num_envs=2, autoreset_mode=mode)


def test_a_function_in_a_file_may_make_the_pool(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import envpool\n"
        "def make(num_envs):\n"
        "    return envpool.make_gymnasium('Pendulum-v1', num_envs=num_envs, num_threads=1, max_episode_steps=5)\n"
    )
    with serving(f"{tmp_path}/mine.py:make", vector=True, workers=1) as server:
        remote, local = msr.VirtualVectorEnv(server.url, num_envs=3), pool("Pendulum-v1", num_envs=3, seed=9)
        assert np.array_equal(remote.reset(seed=9)[0], local.reset()[0])
        assert assert_steps_alike(remote, local, np.random.default_rng(1).uniform(-2, 2, (4, 3, 1))) == 0
        assert remote.step(np.zeros((3, 1), np.float32))[3].all()
        remote.close()


def test_what_else_it_tells_of_its_envs_stands_in_the_infos_with_masks() -> None:
    actions = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 2, 17))
    task = next(name for name in ("Humanoid-v4", "Ant-v4") if name in envpool.list_all_envs())
    with serving_from_thread(find_pool(task), vector=True) as url:
        remote, local = msr.VirtualVectorEnv(url, num_envs=2), pool(task, num_envs=2, seed=4)
        local.reset()
        remote.reset(seed=4)
        for action in actions:
            infos, own = remote.step(action)[4], local.step(action)[4]
        assert set(infos) >= {"reward_alive", "_reward_alive", "x_position"}
        assert not set(infos) & {"env_id", "elapsed_step", "players"}
        for key in own.keys() - {"env_id", "elapsed_step", "players"}:
            assert np.array_equal(infos[key], own[key]) and infos[f"_{key}"].all()
        infos = remote.reset(options={"reset_mask": np.array([False, True])})[1]
        assert infos["_x_position"].tolist() == [False, True] and infos["x_position"][0] == 0
        remote.close()


def test_it_renders_a_frame_an_env_and_still_does_with_a_seed() -> None:
    with serving_from_thread(find_pool("CartPole-v1"), vector=True) as url:
        envs = msr.VirtualVectorEnv(url, num_envs=2, render_mode="rgb_array")
        envs.reset(seed=0)
        frames = envs.render()
        assert frames is not None and [frame.shape for frame in frames] == [(400, 600, 3)] * 2
        envs.close()


@pytest.mark.parametrize(
    ("task_id", "words"),
    [("CartPole-v9", "EnvPool has no CartPole-v9; did you mean CartPole-v"), ("Zzz", "EnvPool has no Zzz$")],
)
def test_a_task_that_it_does_not_know_is_refused_at_start(task_id: str, words: str) -> None:
    with pytest.raises(UnknownEnvError, match=words), serving(f"envpool:{task_id}"):
        raise AssertionError("it was served")


def test_a_pool_that_answers_for_some_of_its_envs_at_a_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size must be num_envs and max_num_players 1, not 2 of 4 and 1"):
        EnvPoolVectorEnv(pool(num_envs=4, batch_size=2))


def test_a_pool_is_not_served_as_one_env() -> None:
    with pytest.raises(ConfigError, match="is many envs: serve with --vector"), serving_from_thread(pool):
        raise AssertionError("it was served")
