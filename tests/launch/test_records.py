"""What a run writes down is what a later part of it goes on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from multiserverrl.errors import CheckpointError, ConfigError
from multiserverrl.launch.asked import asked_settings
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.places import Place
from multiserverrl.launch.records import EarlierRun, begin_run, resumed_settings, run_name
from multiserverrl.launch.seats import Offer, Seats, take_seats
from multiserverrl.observe.rundir import RunDir
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

PLACE = Place("CartPole-v1", Task((4,), 2), 475.0, [Offer("http://a:1", 6), Offer("http://b:2", 6)], None, lambda: None)


def begun(path: Path) -> Seats:
    seats = take_seats(PLACE.offers, None, explorers=1, evaluation_envs=20)
    launch = LaunchConfig(host="a", port=1, servers=2, run_dir=str(path))
    run_dir, _ = begin_run(launch, TrainConfig(seed=3), PLACE, seats, None)
    run_dir.close()
    return seats


def test_settings_come_back_with_what_only_the_servers_could_tell(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    launch, config = resumed_settings(tmp_path / "run")
    assert launch == LaunchConfig("CartPole-v1", host="a", port=1, servers=2, count=12)
    assert config == TrainConfig(seed=3)


def test_config_toml_says_the_same_and_begins_the_same_run_again(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    again = asked_settings({}, str(tmp_path / "run" / "config.toml"))
    launch, config = resumed_settings(tmp_path / "run")
    assert (replace(again.launch, recipe=True), again.train, again.recipe) == (launch, config, "")


def test_what_the_earlier_part_held_is_claimed_on_each_server(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with EarlierRun.lock(tmp_path / "run") as earlier:
        assert earlier.claims() == {"http://a:1": 6, "http://b:2": 6}


def test_a_resumed_run_keeps_its_owner_key_and_writes_its_new_settings(tmp_path: Path) -> None:
    seats = begun(tmp_path / "run")
    with EarlierRun.lock(tmp_path / "run") as earlier:
        _, owner = begin_run(LaunchConfig(port=1), TrainConfig(seed=3, episodes=9), PLACE, seats, earlier)
        assert owner == earlier.owner
    assert resumed_settings(tmp_path / "run")[1].episodes == 9


def test_a_run_that_is_gone_on_with_is_locked(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with EarlierRun.lock(tmp_path / "run"), pytest.raises(ConfigError, match="still runs"):
        with EarlierRun.lock(tmp_path / "run"):
            pass


@pytest.mark.parametrize("content", [b"{}", b'{"env_id": 3}', b'{"launch": {"count": 0}}'])
def test_a_config_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    begun(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="does not hold the settings of a run"):
        resumed_settings(tmp_path / "run")


def test_a_setting_that_this_version_does_not_know_is_named_with_what_to_do(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_bytes())
    record["train"]["reopen_attempts"] = 10
    path.write_text(json.dumps(record))
    told = r"config\.json has settings .* not know \(reopen_attempts\): .* go on with that one, or begin a new run$"
    with pytest.raises(CheckpointError, match=told) as raised:
        resumed_settings(tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_the_state_of_git_and_a_name_for_loggers_are_kept_and_stay_when_the_run_goes_on(tmp_path: Path) -> None:
    seats = begun(tmp_path / "run")
    first = run_name(RunDir.open(tmp_path / "run"))
    assert first.name == "run"
    assert len(first.id) == 8
    with EarlierRun.lock(tmp_path / "run") as earlier:
        git = {"commit": "ab", "branch": "main", "is_dirty": True}
        run_dir, _ = begin_run(LaunchConfig(port=1), TrainConfig(), PLACE, seats, earlier, git)
        assert run_name(run_dir) == first
        assert run_dir.config()["git"] == git
