from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.settings import add_flags, flag_name, from_flags
from multiserverrl.train.config import TrainConfig, config_from_json, config_to_json
from multiserverrl.train.recipes import recipe_for


def test_a_config_survives_json() -> None:
    config = TrainConfig(seed=3, hidden="64,32", episodes=5, stop_at_return=195.0)
    assert config_from_json(config_to_json(config)) == config


def test_flags_make_the_same_config_as_values() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, TrainConfig)
    given = parser.parse_args(["--n-step", "3", "--hidden", "16", "--gamma", "0.9", "--episodes", "7"])
    assert from_flags(TrainConfig, given) == TrainConfig(n_step=3, hidden="16", gamma=0.9, episodes=7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("explorers", 0),
        ("episodes", 0),
        ("n_step", 0),
        ("gamma", 1.5),
        ("epsilon_start", -0.1),
        ("replay_ratio", 0.0),
        ("learning_rate", float("nan")),
        ("reward_scale", float("inf")),
        ("seed", -1),
        ("hidden", "128,,64"),
        ("hidden", ""),
        ("algorithm", "magic"),
        ("frame_stack", 0),
        ("sequence_length", 1),
        ("priority_exponent", 1.1),
        ("importance_start", -0.1),
        ("importance_steps", 0),
        ("backend", "abacus"),
        ("device", "gpu"),
        ("network", "resnet"),
        ("image_channels", "middle"),
        ("stop_at_return", float("nan")),
        ("distributional", "c52"),
        ("v_max", float("inf")),
        ("max_grad_norm", -1.0),
        ("checkpoint_every_s", 0.0),
        ("rollout_steps", 0),
        ("td_lambda", 1.1),
        ("epochs", 0),
        ("minibatches", 0),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_flag(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=flag_name(name)):
        TrainConfig(**{name: value})  # type: ignore[arg-type]


def test_a_warm_up_that_the_buffer_can_never_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--warmup-steps.*--buffer-size"):
        TrainConfig(warmup_steps=1001, buffer_size=1000)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"device": "cuda", "backend": "numpy"}, "--device.*--backend torch"),
        ({"noisy": True, "backend": "numpy"}, "--noisy.*--backend torch"),
        ({"noisy": True, "exploration": "per-env"}, "--noisy.*--exploration per-env"),
        ({"distributional": "qr", "backend": "numpy"}, "--distributional.*--backend torch"),
        ({"distributional": "c51", "atoms": 1}, "--atoms.*--distributional c51"),
        ({"v_min": 2.0, "v_max": 2.0}, "--v-min.*--v-max"),
    ],
)
def test_settings_that_contradict_one_another_are_refused_by_both_flags(
    settings: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        TrainConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "setting",
    ["n_step", "batch_size", "target_update", "buffer_size", "warmup_steps", "replay_ratio", "publish_every"],
)
def test_pqn_refuses_what_only_a_replay_buffer_gives_a_meaning(setting: str) -> None:
    value = getattr(TrainConfig, setting) * 2
    with pytest.raises(ConfigError, match=f"{flag_name(setting)} is {value}: it has no meaning with --algorithm pqn"):
        TrainConfig(algorithm="pqn", **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"), [("rollout_steps", 8), ("td_lambda", 0.5), ("epochs", 2), ("minibatches", 2)]
)
def test_dqn_refuses_what_only_rollouts_give_a_meaning(setting: str, value: float) -> None:
    TrainConfig(algorithm="pqn", **{setting: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"{flag_name(setting)} is {value}: it has no meaning with --algorithm dqn"):
        TrainConfig(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("pqn", {"double": False}),
        ("pqn", {"clip_targets": False}),
        ("pqn", {"dueling": True}),
        ("pqn", {"head_hidden": 64}),
        ("pqn", {"noisy_sigma": 0.1}),
        ("pqn", {"atoms": 21}),
        ("pqn", {"v_max": 50.0}),
        ("pqn", {"adam_epsilon": 1e-4}),
        ("pqn", {"priority_exponent": 0.7}),
        ("pqn", {"importance_start": 0.6}),
        ("pqn", {"importance_steps": 10}),
        ("pqn", {"sequence_length": 8}),
        ("rainbow", {"sequence_length": 8}),
    ],
)
def test_no_algorithm_takes_a_setting_that_it_would_not_look_at(algorithm: str, settings: dict[str, Any]) -> None:
    [setting] = settings
    flag = flag_name(setting).removeprefix("--")  # of False it is --no-…
    parts = {"dueling": True} if algorithm == "rainbow" else {}
    with pytest.raises(ConfigError, match=f"{flag}( is .*)?: it has no meaning with --algorithm {algorithm}"):
        TrainConfig(algorithm=algorithm, **parts, **settings)


@pytest.mark.parametrize(
    ("beside", "settings", "where"),
    [
        ({"noisy": True}, {"epsilon_start": 1.0, "epsilon_end": 0.1, "epsilon_steps": 9}, "with --noisy"),
        (
            {"exploration": "per-env"},
            {"epsilon_start": 1.0, "epsilon_end": 0.1, "epsilon_steps": 9},
            "with --exploration per-env",
        ),
        ({}, {"epsilon_base": 0.5, "epsilon_spread": 2.0}, "without --exploration per-env"),
        ({}, {"noisy_sigma": 0.1}, "without --noisy"),
        ({}, {"atoms": 21}, "without --distributional"),
        ({"distributional": "qr"}, {"v_min": -1.0, "v_max": 1.0}, "without --distributional c51"),
        (
            {},
            {"priority_exponent": 0.7, "importance_start": 0.6, "importance_steps": 10},
            "without --prioritised",
        ),
        (
            {"inference": "explorer"},
            {"inference_batch": 8, "inference_deadline_s": 0.1},
            "with --inference explorer",
        ),
        ({}, {"barrier_steps": 100}, "without --deterministic"),
        (
            {"deterministic": True},
            {"eval_every_s": 9.0, "eval_share": 0.5, "checkpoint_every_s": 9.0},
            "with --deterministic",
        ),
        ({"backend": "numpy"}, {"torch_threads": 2}, "with --backend numpy"),
    ],
)
def test_what_has_no_meaning_beside_the_others_is_refused_by_its_flag(
    beside: dict[str, Any], settings: dict[str, Any], where: str
) -> None:
    for name, value in settings.items():
        with pytest.raises(
            ConfigError, match=f"{flag_name(name)} is {value}: it has no meaning {where}.*: leave it out"
        ):
            TrainConfig(**beside, **{name: value})
        assert TrainConfig(**beside, **{name: getattr(TrainConfig, name)}) == TrainConfig(**beside)


def test_clipped_targets_have_no_meaning_where_nothing_is_discounted() -> None:
    assert TrainConfig(gamma=1.0).clip_targets
    with pytest.raises(ConfigError, match=r"--no-clip-targets: it has no meaning with --gamma 1, "):
        TrainConfig(gamma=1.0, clip_targets=False)


def test_what_older_versions_let_pass_without_a_meaning_reads_as_if_it_were_not_there() -> None:
    assert config_from_json(b'{"atoms": 21, "noisy": true, "epsilon_start": 1.0}') == TrainConfig(noisy=True)


def test_rainbow_without_any_of_its_parts_is_refused_and_told_where_they_are() -> None:
    with pytest.raises(ConfigError, match=r"--algorithm rainbow has none of .*recipe_for\("):
        TrainConfig(algorithm="rainbow")
    config = TrainConfig(algorithm="rainbow", **recipe_for("rainbow", None).settings)
    assert (config.noisy, config.distributional, config.prioritised, config.dueling) == (True, "c51", True, True)


def test_json_with_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="lerning_rate"):
        config_from_json(b'{"lerning_rate": 1}')


def test_json_with_a_wrong_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_step"):
        config_from_json(b'{"n_step": "three"}')


def test_json_with_a_wrong_value_is_refused_by_its_flag() -> None:
    with pytest.raises(ConfigError, match="--n-step"):
        config_from_json(b'{"n_step": 0}')


def test_every_setting_is_checked() -> None:
    from multiserverrl.train import config as module

    checked = {*module._AT_LEAST_ONE, *module._SHARES, *module._POSITIVE, *module._NOT_NEGATIVE}
    checked |= {
        *module._CHOICES,
        "algorithm",
        "options",
        "episodes",
        "stop_at_return",
        "hidden",
        "sequence_length",
        "v_min",
        "v_max",
    }
    checked |= {"clip_targets", "deterministic", "double", "dueling", "noisy", "prioritised"}  # either will do
    assert checked == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--inference", {"inference": "everywhere"}),
        ("--exploration", {"exploration": "boltzmann"}),
        ("--explorers", {"explorers": 2, "deterministic": True}),
        ("--device", {"device": "cuda", "deterministic": True}),
        ("--barrier-steps", {"barrier_steps": 0}),
        ("--inference-deadline-s.*at most 30 s", {"inference_deadline_s": 31.0}),
        ("--epsilon-base", {"epsilon_base": 1.5}),
    ],
)
def test_ways_of_acting_that_cannot_be_are_refused_naming_the_flag(flag: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=flag):
        TrainConfig(**values)
