"""Wrappers that the operator lists go around every env at the server, and settings may come from a file."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation, TimeLimit

import multiserverrl as msr
from multiserverrl.cli import main
from multiserverrl.client.api import describe
from multiserverrl.errors import ConfigError, EnvFault
from multiserverrl.server.config import ServerConfig, WrapperConfig
from multiserverrl.server.configfile import read_config_file, wrappers_of
from multiserverrl.testing.contract import assert_same, trajectory
from multiserverrl.testing.envs import Scripted
from multiserverrl.testing.serving import serving
from multiserverrl.testing.threaded import serving_from_thread

LIMIT = WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 3})
STACK = WrapperConfig("gymnasium.wrappers:FrameStackObservation", {"stack_size": 2})


def test_they_are_applied_in_order_to_every_env_of_every_worker() -> None:
    with serving("CartPole-v1", count=3, workers=2, wrappers=(LIMIT, STACK)) as server:
        assert describe(server.url).envs[0].max_episode_steps == 3
        local = FrameStackObservation(TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 3), 2)
        with msr.VirtualEnv(server.url) as env:
            assert env.observation_space.shape == (2, 4)
            assert_same(trajectory(env, 9, seed=5), trajectory(local, 9, seed=5))
        envs = msr.VirtualVectorEnv(server.url, num_envs=3)
        observations, _ = envs.reset(seed=5)
        envs.close()
        assert np.array_equal(observations, np.stack([local.reset(seed=5 + index)[0] for index in range(3)]))
        local.close()


def test_the_operators_arguments_go_to_every_env_and_a_clients_win_where_it_may_set_them() -> None:
    settings: dict[str, Any] = {"env_arguments": {"max_episode_steps": 3}, "allow_arg": "max_episode_steps"}
    with serving("CartPole-v1", "Acrobot-v1", workers=1, **settings) as server:
        assert [env.max_episode_steps for env in describe(server.url).envs] == [3, 3]
        for given, limit in (({}, 3), ({"max_episode_steps": 2}, 2)):
            with msr.VirtualEnv(server.url, "CartPole-v1", arguments=given) as env:
                env.reset(seed=1)
                assert [env.step(0)[3] for _ in range(limit)] == [False] * (limit - 1) + [True]


def test_an_env_that_is_made_anew_after_a_fault_is_wrapped_again() -> None:
    with serving_from_thread(Scripted, wrappers=(LIMIT,)) as url, msr.VirtualEnv(url) as env:
        env.reset(options={"how": "raise", "at": 1})
        with pytest.raises(EnvFault):
            env.step(0)
        env.reset()
        assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [
        (WrapperConfig("nowhere_at_all:Wrapper"), "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        (WrapperConfig("gymnasium.wrappers:TimeLimits"), "AttributeError: .*TimeLimits"),
        (WrapperConfig("gymnasium.wrappers:TimeLimit", {"steps": 3}), "TypeError: .*steps"),
        (WrapperConfig("builtins:str"), "TypeError: it gave a str, which is no Env"),
    ],
    ids=["module", "class", "argument", "result"],
)
def test_a_wrapper_that_cannot_be_is_refused_at_start_by_name(wrapper: WrapperConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=f"--wrapper {wrapper.name} cannot be put around Env: {words}"):
        with serving_from_thread(Scripted, wrappers=(wrapper,)):
            raise AssertionError("it was served")


def test_an_argument_belongs_to_the_wrapper_before_it_and_is_json_where_it_parses() -> None:
    flags = [
        *[("--wrapper", "a:A"), ("--wrapper-arg", "n=3"), ("--wrapper-arg", "shape=[84, 84]")],
        *[("--wrapper", "b:B"), ("--wrapper-arg", "name=red=blue"), ("--wrapper-arg", "on=true")],
        ("--wrapper", "a:A"),
    ]
    assert wrappers_of(flags) == (
        WrapperConfig("a:A", {"n": 3, "shape": [84, 84]}),
        WrapperConfig("b:B", {"name": "red=blue", "on": True}),
        WrapperConfig("a:A"),
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--wrapper-arg", "n=3"], "--wrapper-arg n=3 belongs to the --wrapper before it"),
        (["--wrapper", "a:A", "--wrapper-arg", "n"], "--wrapper-arg is given as key=value, not 'n'"),
        (["--env-arg", "n"], "--env-arg is given as key=value, not 'n'"),
        (["--wrapper", "TimeLimit"], "--wrapper is given as module:Class, not 'TimeLimit'"),
    ],
    ids=["alone", "no value", "no value of the env's", "no module"],
)
def test_wrapper_flags_that_cannot_be_are_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["serve", "CartPole-v1", *flags]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def settings_given(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ServerConfig:
    """What `serve` would serve with."""
    seen: list[ServerConfig] = []
    monkeypatch.setattr("multiserverrl.server.run.serve", lambda config: seen.append(config) or 0)
    assert main(["serve", *arguments]) == 0
    return seen[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "serve.toml"
    path.write_text(
        'env_ids = ["CartPole-v1", "Pendulum-v1"]\nenv_arguments = { max_episode_steps = 9 }\n'
        'count = 5\nstep-deadline-s = 2\nallow_arg = "gravity"\n'
        '[[wrapper]]\nname = "gymnasium.wrappers:TimeLimit"\narguments = { max_episode_steps = 3 }\n'
        '[[wrapper]]\nname = "gymnasium.wrappers:FrameStackObservation"\n[wrapper.arguments]\nstack_size = 2\n'
    )
    return path


def test_a_file_has_the_settings_of_the_flags(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_given(monkeypatch, "--config", str(file)) == ServerConfig(
        env_ids=("CartPole-v1", "Pendulum-v1"),
        env_arguments={"max_episode_steps": 9},
        count=5,
        step_deadline_s=2.0,
        allow_arg="gravity",
        wrappers=(LIMIT, STACK),
    )


def test_flags_win_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [
        "--count",
        "2",
        "--env-arg",
        "size=3",
        "--env-arg",
        "name=x",
        "--config",
        str(file),
        "--wrapper",
        "a:A",
        "--wrapper-arg",
        "n=1",
        "Acrobot-v1",
    ]
    assert settings_given(monkeypatch, *flags) == ServerConfig(
        env_ids=("Acrobot-v1",),
        env_arguments={"size": 3, "name": "x"},
        count=2,
        step_deadline_s=2.0,
        allow_arg="gravity",
        wrappers=(WrapperConfig("a:A", {"n": 1}),),
    )


def test_what_the_file_says_is_served(file: Path) -> None:
    settings: dict[str, Any] = read_config_file(str(file))
    env_ids = settings.pop("env_ids")
    with serving(*env_ids, **settings) as server, msr.VirtualEnv(server.url, "CartPole-v1") as env:
        assert env.observation_space.shape == (2, 4) and describe(server.url).capacity == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cuont = 3", "'cuont' is no setting of serve; did you mean count?"),
        ("count = 'many'", "count: Expected `int`, got `str`"),
        ("count = 0", "--count must be at least 1, not 0"),
        ("count = ", "is not TOML"),
        ("[[wrapper]]\nclass = 'a:A'", "'class' is no key of [[wrapper]]; it has name and arguments"),
        ("[[wrapper]]\nname = 'A'", "--wrapper is given as module:Class, not 'A'"),
        ("[[wrapper]]\narguments = {}", "[[wrapper]]: Object missing required field `name`"),
        ("env_arguments = 3", "env_arguments: Expected `object`, got `int`"),
        ("port = 0", "name at least one environment"),
    ],
)
def test_a_file_that_cannot_be_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "serve.toml").write_text(content)
    assert main(["serve", "--config", str(tmp_path / "serve.toml")]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 2
    assert f"--config {tmp_path / 'none.toml'} cannot be read" in capsys.readouterr().err
