"""The spec of a virtual env makes another one, by way of JSON too, and holds no secret."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FrameStackObservation, TimeLimit

import multiserverrl as msr
from multiserverrl.testing.contract import assert_same, trajectory, vector_trajectory
from multiserverrl.testing.envs import Scripted
from multiserverrl.testing.serving import serving
from multiserverrl.testing.threaded import serving_from_thread

VIRTUAL = "multiserverrl:Virtual-v0"
SECRET = "a-great-secret"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(SECRET)
    with serving("CartPole-v1", token_file=str(token_file), allow_arg="max_episode_steps", workers=1) as server:
        yield server.url


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, where an env that is made of a spec finds it."""
    monkeypatch.setenv("MULTISERVERRL_TOKEN", SECRET)


def through_json(spec: EnvSpec | None) -> EnvSpec:
    assert spec is not None
    return EnvSpec.from_json(spec.to_json())


def made_directly(url: str, **settings: Any) -> Any:
    return msr.VirtualEnv(url, **settings)


def made_by_name(url: str, **settings: Any) -> Any:
    return gymnasium.make(VIRTUAL, url=url, **settings)


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("make", [made_directly, made_by_name])
def test_what_json_keeps_of_a_spec_makes_an_equal_env(url: str, make: Any) -> None:
    with make(url, arguments={"max_episode_steps": 9}) as env:
        told = through_json(env.spec)
        assert told == env.spec
        with gymnasium.make(told) as other:
            assert other.spec == env.spec
            assert_same(trajectory(other, 30), trajectory(env, 30))


@pytest.mark.usefixtures("token")
def test_wrappers_around_it_are_in_the_spec(url: str) -> None:
    with FrameStackObservation(made_by_name(url), 2) as env, gymnasium.make(through_json(env.spec)) as other:
        assert_same(trajectory(other, 30), trajectory(env, 30))


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_what_json_keeps_of_a_vector_envs_spec_makes_an_equal_one(url: str, mode: AutoresetMode) -> None:
    made = gymnasium.make_vec(VIRTUAL, num_envs=2, url=url, autoreset_mode=mode, lanes=(1, 1))
    direct = msr.VirtualVectorEnv(url, num_envs=2, autoreset_mode=mode, lanes=2)
    wanted = vector_trajectory(made, 30)
    for envs in (made, direct):
        other = gymnasium.make_vec(through_json(envs.spec))
        assert other.metadata["autoreset_mode"] is mode and other.num_envs == 2
        assert_same(vector_trajectory(other, 30), wanted)
        other.close()
        envs.close()


@pytest.mark.parametrize("make", [made_directly, made_by_name])
def test_the_token_is_in_no_spec(url: str, make: Any) -> None:
    with make(url, token=SECRET) as env:
        wrapped = TimeLimit(env, 3)
        for spec in (env.spec, env.unwrapped.spec, wrapped.spec):
            assert SECRET not in spec.to_json() and SECRET not in repr(spec)
        env.unwrapped.spec = EnvSpec("Other-v0", kwargs={"url": url, "token": SECRET})
        assert env.unwrapped.spec.kwargs == {"url": url}


def test_the_token_is_in_no_vector_envs_spec(url: str) -> None:
    made = gymnasium.make_vec(VIRTUAL, num_envs=2, url=url, token=SECRET)
    direct = msr.VirtualVectorEnv(url, num_envs=2, token=SECRET)
    for envs in (made, direct):
        assert envs.spec is not None
        assert SECRET not in envs.spec.to_json() and SECRET not in repr(envs.spec)
        envs.close()


@pytest.mark.usefixtures("token")
def test_what_is_made_of_a_spec_leaves_its_origins_session_alone(url: str) -> None:
    with made_by_name(url, owner="a-key-of-my-own-") as env:
        env.reset(seed=1)
        with gymnasium.make(env.spec) as other:
            other.reset(seed=1)
        assert len(env.step(0)) == 5


@pytest.mark.usefixtures("token")
def test_the_spec_says_what_the_server_says_of_the_env(url: str) -> None:
    local = gymnasium.spec("CartPole-v1")
    for make in (made_directly, made_by_name):
        with make(url) as env:
            assert (env.spec.reward_threshold, env.spec.max_episode_steps, env.spec.nondeterministic) == (
                local.reward_threshold,
                local.max_episode_steps,
                False,
            )


def test_an_env_that_is_not_deterministic_says_so_here_too() -> None:
    def make() -> Any:
        env = Scripted()
        env.spec = EnvSpec("Dice-v0", nondeterministic=True)
        return env

    with serving_from_thread(make) as url, made_by_name(url) as env:
        assert env.spec.nondeterministic


def limits_of(env: Any) -> int:
    """How many TimeLimits are around an env on this side."""
    count = 0
    while env is not env.unwrapped:
        count += isinstance(env, TimeLimit)
        env = env.env
    return count


def test_the_time_limit_is_applied_once_and_at_the_server() -> None:
    with serving_from_thread(lambda: gymnasium.make("MountainCar-v0")) as url:
        local = gymnasium.make("MountainCar-v0")
        wanted = trajectory(local, 450)
        with made_by_name(url) as env:
            assert limits_of(env) == 0
            assert_same(trajectory(env, 450), wanted)
            with gymnasium.make(env.spec) as other:  # it has the spec's own too, which ends the same steps
                assert_same(trajectory(other, 450), wanted)
        with made_by_name(url, max_episode_steps=20) as env:
            assert limits_of(env) == 1 and env.spec.max_episode_steps == 20
            assert [told[3] for told in trajectory(env, 25) if len(told) == 5].index(True) == 19
        local.close()


def test_a_spec_may_be_taken_away() -> None:
    with serving_from_thread(Scripted) as url, msr.VirtualEnv(url) as env:
        env.spec = None
        assert env.spec is None and str(env) == "<VirtualEnv instance>"
