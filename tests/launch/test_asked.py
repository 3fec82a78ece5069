"""Defaults < recipe < file < flags; a resumed run's own settings stand in the place of the first two."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.launch.asked import (
    Asked,
    all_settings,
    asked_settings,
    config_text,
    differences,
    settings_of_run,
)
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.observe.rundir import RunDir
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.run import start_server
from multiserverrl.train import recipes
from multiserverrl.train.config import TrainConfig

RECIPES: dict[tuple[str, str | None], dict[str, Any]] = {
    ("dqn", None): {"gamma": 0.9, "n_step": 2, "batch_size": 7},
    ("dqn", "Acrobot-v1"): {"gamma": 0.8, "count": 5},
}


@pytest.fixture(autouse=True)
def _known_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "RECIPES", RECIPES)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server of one env, which has a recipe."""
    server = start_server(ServerConfig(env_ids=("Acrobot-v1",), port=0, count=2, workers=1))
    yield int(server.url.rpartition(":")[2])
    server.stop()


def file_with(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_no_name_means_two_things() -> None:
    names = [field.name for config in (LaunchConfig, TrainConfig) for field in fields(config)]
    assert len(set(names)) == len(names)


def test_flags_stand_above_the_file_and_the_file_above_the_recipe(tmp_path: Path) -> None:
    file = file_with(tmp_path, 'env_id = "Acrobot-v1"\nn_step = 3\nbatch_size = 9\ncount = 4')
    asked = asked_settings({"batch_size": 11}, file)
    assert asked.recipe == "dqn on Acrobot-v1"
    assert asked.launch == LaunchConfig("Acrobot-v1", count=4)
    assert asked.train == TrainConfig(gamma=0.8, n_step=3, batch_size=11)


def test_a_recipe_gives_the_count_of_an_embedded_server_alone(port: int) -> None:
    assert asked_settings({"env_id": "Acrobot-v1"}).launch.count == 5
    assert asked_settings({"env_id": "Acrobot-v1", "port": port}).launch.count is None


def test_the_recipe_is_of_the_env_that_is_trained_on_also_where_only_the_server_knows_it(port: int) -> None:
    assert asked_settings({}).recipe == "dqn"
    assert asked_settings({"port": port}).recipe == "dqn on Acrobot-v1"


def test_without_recipe_the_defaults_count(tmp_path: Path) -> None:
    asked = asked_settings({"env_id": "Acrobot-v1", "recipe": False})
    assert asked == Asked(LaunchConfig("Acrobot-v1", recipe=False), TrainConfig(), "")
    assert asked_settings({"env_id": "Acrobot-v1"}, file_with(tmp_path, "recipe = false")) == asked


def test_rainbow_without_recipe_is_rainbow() -> None:
    config = asked_settings({"algorithm": "rainbow", "recipe": False, "noisy": False}).train
    parts = config.double, config.dueling, config.prioritised, config.distributional, config.n_step, config.noisy
    assert parts == (True, True, True, "c51", 3, False), "but for what a flag takes away"
    assert config.adam_epsilon == TrainConfig.adam_epsilon


def test_a_recipes_value_that_the_flags_leave_without_a_meaning_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"distributional": "c51", "v_max": 50.0, "epsilon_start": 1.0, "n_step": 2}
    monkeypatch.setitem(RECIPES, ("dqn", "Acrobot-v1"), recipe)
    asked = {"env_id": "Acrobot-v1", "distributional": "qr", "exploration": "per-env"}
    expected = TrainConfig(gamma=0.9, batch_size=7, n_step=2, distributional="qr", exploration="per-env")
    assert asked_settings(asked).train == expected
    with pytest.raises(ConfigError, match=r"--v-max is 20\.0: it has no meaning without --distributional c51"):
        asked_settings({**asked, "v_max": 20.0})


def test_a_files_value_is_left_out_where_a_flag_takes_its_meaning_and_refused_where_it_never_had_one(
    tmp_path: Path,
) -> None:
    whole = TrainConfig(noisy=True, noisy_sigma=0.3)
    file = file_with(tmp_path, config_text(LaunchConfig("Acrobot-v1"), whole))
    assert asked_settings({}, file).train == whole
    assert asked_settings({"noisy": False}, file).train == TrainConfig()
    with pytest.raises(ConfigError, match=r"mine\.toml: --noisy-sigma is 0\.3: it has no meaning without --noisy"):
        asked_settings({}, file_with(tmp_path, "noisy_sigma = 0.3"))


def test_a_resumed_run_may_turn_off_what_its_own_settings_were_for(tmp_path: Path) -> None:
    seats = {"groups": [], "evaluation_url": "", "evaluation_envs": 1, "is_borrowed": False}
    train = dataclasses.asdict(TrainConfig(inference_batch=17))
    record = {"env_id": "Acrobot-v1", "launch": {"env_id": "Acrobot-v1"}, "train": train}
    RunDir.create(tmp_path / "run", {**record, "seats": seats, "owner": "x"}).close()
    resume = {"resume": str(tmp_path / "run")}
    assert asked_settings(resume).train.inference_batch == 17
    assert asked_settings({**resume, "inference": "explorer"}).train == TrainConfig(inference="explorer")


def test_a_value_of_the_file_that_cannot_work_is_refused_by_flag_and_file(tmp_path: Path) -> None:
    file = file_with(tmp_path, "gamma = 1.5")
    with pytest.raises(ConfigError, match=r"^.*mine\.toml: --gamma is 1\.5"):
        asked_settings({}, file)
    with pytest.raises(ConfigError, match=r"^--gamma is 1\.7"):
        asked_settings({"gamma": 1.7}, file)
    assert asked_settings({"gamma": 0.5}, file).train.gamma == 0.5


def test_a_list_of_a_file_is_what_stands_with_commas_in_a_flag(tmp_path: Path) -> None:
    asked = asked_settings({}, file_with(tmp_path, 'recipe = false\nhidden = [64, 32]\nlog = ["tensorboard"]'))
    assert (asked.train.hidden, asked.launch.log) == ("64,32", "tensorboard")
    for wrong, why in (("[]", "--hidden is ''"), ("[64, -1]", "--hidden is '64,-1'"), ("[6.5]", "hidden: Expected")):
        with pytest.raises(ConfigError, match=f"mine.toml: {why}"):
            asked_settings({}, file_with(tmp_path, f"hidden = {wrong}"))


@pytest.mark.parametrize("key", ["is_local", "env_ids"])
def test_what_is_no_setting_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"mine.toml: '{key}' is no setting of train"):
        asked_settings({}, file_with(tmp_path, f"{key} = true"))


def test_a_resumed_run_goes_on_with_its_own_settings_and_those_that_are_given_now(tmp_path: Path) -> None:
    seats = {"groups": [], "evaluation_url": "", "evaluation_envs": 1, "is_borrowed": False}
    record = {
        "env_id": "Acrobot-v1",
        "launch": {"env_id": "Acrobot-v1", "count": 3},
        "train": {"gamma": 0.7, "n_step": 6},
    }
    RunDir.create(tmp_path / "run", {**record, "seats": seats, "owner": "x"}).close()
    file = file_with(tmp_path, "n_step = 5\neval_episodes = 2")
    asked = asked_settings({"resume": str(tmp_path / "run"), "eval_episodes": 3}, file)
    assert asked.launch == LaunchConfig("Acrobot-v1", count=3, resume=str(tmp_path / "run"))
    assert asked.train == TrainConfig(gamma=0.7, n_step=5, eval_episodes=3)
    assert asked.recipe == ""


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("hidden", "32", "--hidden 16,8, not --hidden 32"),
        ("dueling", True, "--no-dueling, not --dueling"),
        ("distributional", "qr", "--distributional none, not --distributional qr"),
        ("buffer_size", 1000, "--buffer-size 50000, not --buffer-size 1000"),
        ("prioritised", True, "--no-prioritised, not --prioritised"),
    ],
)
def test_a_resumed_run_keeps_what_its_checkpoints_are_made_for(
    tmp_path: Path, setting: str, value: object, told: str
) -> None:
    seats = {"groups": [], "evaluation_url": "", "evaluation_envs": 1, "is_borrowed": False}
    record = {"env_id": "Acrobot-v1", "launch": {"env_id": "Acrobot-v1"}, "train": {"hidden": "16,8"}}
    RunDir.create(tmp_path / "run", {**record, "seats": seats, "owner": "x"}).close()
    resume = {"resume": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match=f"--resume .*run goes on with {told}"):
        asked_settings({**resume, setting: value})
    assert asked_settings({**resume, "hidden": "16, 8", "gamma": 0.9}).train.gamma == 0.9


def test_a_resumed_run_keeps_its_algorithm(tmp_path: Path) -> None:
    seats = {"groups": [], "evaluation_url": "", "evaluation_envs": 1, "is_borrowed": False}
    record = {"env_id": "Acrobot-v1", "launch": {"env_id": "Acrobot-v1"}, "train": {"n_step": 6}}
    RunDir.create(tmp_path / "run", {**record, "seats": seats, "owner": "x"}).close()
    with pytest.raises(ConfigError, match=r"--resume .*run goes on with dqn, not pqn"):
        asked_settings({"resume": str(tmp_path / "run"), "algorithm": "pqn"})
    assert asked_settings({"resume": str(tmp_path / "run"), "algorithm": "dqn"}).train.n_step == 6


def test_the_text_of_any_settings_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    launch = LaunchConfig("Acrobot-v1", host="::1", port=7, count=9, ca_file='C:\\a "b"\n')
    train = TrainConfig(seed=3, learning_rate=1e-6, stop_at_return=1e9, hidden="7")
    again = asked_settings({}, file_with(tmp_path, config_text(launch, train)))
    assert again == Asked(replace(launch, recipe=False), train)


def test_people_are_told_every_setting() -> None:
    launch, train = LaunchConfig("Acrobot-v1", count=3), TrainConfig(hidden="7,8", algorithm="pqn")
    lines = all_settings(launch, train)
    told = dict(one.split(" ", 1) for one in " ".join(lines).split(", "))
    assert told == {name: str(value) for name, value in settings_of_run(launch, train).items()}
    assert max(map(len, lines)) <= 110


def test_people_are_told_what_differs_from_the_defaults() -> None:
    assert differences(LaunchConfig("Acrobot-v1", run_dir="a"), TrainConfig()) == ""
    assert differences(LaunchConfig(count=3), TrainConfig(hidden="16", seed=1)) == "count 3, seed 1, hidden 16"
