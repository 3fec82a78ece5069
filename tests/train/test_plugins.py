from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.checks import require_algorithm
from multiserverrl.train.config import TrainConfig, config_from_json, config_to_json
from multiserverrl.train.task import Task
from tests.train.fakes import train_here
from tests.train.plugged import plug_in

TASK = Task(obs_shape=(4,), num_actions=2)


class Lame:
    """Lacks nearly everything."""

    storage = "nowhere"
    transition_fields = {"obs": "float32"}  # noqa: RUF012

    def __init__(self, config: TrainConfig, task: Task) -> None:
        if config.options.get("explode"):
            raise RuntimeError("boom")

    def act(self) -> None: ...


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linear_q_of_test.py").write_text(Path("examples/plugin_algorithm/linear_q.py").read_text())
    monkeypatch.delitem(sys.modules, "linear_q_of_test", raising=False)
    plug_in(
        monkeypatch, tmp_path, linear_q="linear_q_of_test:LinearQ", lame=f"{__name__}:Lame", absent="not_there:Thing",
        no_class=f"{__name__}:TASK",
    )  # fmt: skip


def test_an_algorithm_of_another_package_is_found_by_its_name() -> None:
    algorithm = algorithm_for(TrainConfig(algorithm="linear-q", options={"features": 10}), TASK)
    assert algorithm.weights_fields["q"] == ("float32", (10, 2))


def test_the_example_learns_cartpole_in_seconds(tmp_path: Path) -> None:
    config = TrainConfig(algorithm="linear-q", options={"features": 400}, stop_at_return=150.0, eval_episodes=10)
    assert train_here(config, lambda: gymnasium.make("CartPole-v1"), 32, tmp_path).best >= 150.0


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"--algorithm is 'magic': it must be one of: dqn,.* absent, lame, linear-q"):
        TrainConfig(algorithm="magic")


def test_a_plugin_that_does_not_import_is_refused_with_its_package_and_cause() -> None:
    with pytest.raises(ConfigError, match=r"--algorithm absent of the package plugged-in 1\.0.*No module named"):
        algorithm_for(TrainConfig(algorithm="absent"), TASK)


def test_a_plugin_that_is_no_class_or_raises_is_refused() -> None:
    with pytest.raises(ConfigError, match="no class"):
        algorithm_for(TrainConfig(algorithm="no-class"), TASK)
    with pytest.raises(ConfigError, match="RuntimeError: boom"):
        algorithm_for(TrainConfig(algorithm="lame", options={"explode": True}), TASK)


def test_all_that_a_plugin_lacks_of_the_protocol_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        algorithm_for(TrainConfig(algorithm="lame"), TASK)
    for part in (
        "no method prepare",
        "init",
        "'nowhere'",
        "weights_fields",
        "extras_fields",
        "transition_fields['obs']",
    ):
        assert part in str(refused.value)
    assert "no method act;" not in str(refused.value)


def test_extras_cannot_take_the_place_of_what_the_trainer_gives() -> None:
    algorithm = algorithm_for(TrainConfig(algorithm="linear-q"), TASK)
    require_algorithm(algorithm, "it")
    algorithm.extras_fields = {"value": ("float32", ()), "valid": ("bool", ()), "reward": ("float64", ())}
    with pytest.raises(ConfigError, match="extras_fields has reward, valid, which the trainer gives itself"):
        require_algorithm(algorithm, "it")


def test_a_plugins_own_refusal_is_its_own() -> None:
    with pytest.raises(ConfigError, match="features=N"):
        algorithm_for(TrainConfig(algorithm="linear-q", options={"feature": 3}), TASK)


def test_options_of_a_built_in_algorithm_are_refused() -> None:
    with pytest.raises(ConfigError, match="--option rate is for a plug-in"):
        TrainConfig(options={"rate": 3})


def test_options_keep_their_types_in_json_and_are_values() -> None:
    config = TrainConfig(algorithm="lame", options={"a": 1, "b": 1.0, "c": "x", "d": True})
    again = config_from_json(config_to_json(config))
    assert again == config
    assert [type(value) for value in again.options.values()] == [int, float, str, bool]
    with pytest.raises(ConfigError, match="--option a"):
        TrainConfig(algorithm="lame", options={"a": [1]})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="--option a is inf: it must be finite"):
        TrainConfig(algorithm="lame", options={"a": float("inf")})
