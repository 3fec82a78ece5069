"""A run directory is written whole, belongs to one run, and is never overwritten by another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multiserverrl.errors import CheckpointError, ConfigError
from multiserverrl.observe.rundir import RunDir, default_path, write_atomically

NOON_S = 1_700_000_000.0


def test_a_new_run_has_its_config_its_versions_and_a_place_for_checkpoints(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", {"env_id": "CartPole-v1"})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["env_id"] == "CartPole-v1"
    assert {"python", "multiserverrl", "numpy", "gymnasium"} <= set(config["versions"])
    assert run.checkpoints.is_dir()
    run.close()


def test_a_directory_that_holds_a_run_is_refused_by_naming_resume(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run", {}).close()
    with pytest.raises(ConfigError, match="--resume"):
        RunDir.create(tmp_path / "run", {})


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty directory"):
        RunDir.create(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_still_runs_cannot_be_resumed_by_another(tmp_path: Path) -> None:
    first = RunDir.create(tmp_path / "run", {})
    with pytest.raises(ConfigError, match="still runs"):
        RunDir.resume(tmp_path / "run")
    first.close()
    RunDir.resume(tmp_path / "run").close()


def test_what_is_no_run_directory_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        RunDir.resume(tmp_path)


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        RunDir.resume(tmp_path)


def test_a_result_is_absent_until_it_is_written(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", {})
    assert run.result() is None
    run.write_result({"solved": True})
    assert RunDir.open(tmp_path / "run").result() == {"solved": True}
    run.begin_again({"env_id": "CartPole-v1"})
    assert run.result() is None
    assert run.config()["env_id"] == "CartPole-v1"
    run.close()


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_default_directory_names_env_time_and_seed_and_is_never_taken(tmp_path: Path) -> None:
    first = default_path("path/to/envs.py:Maze", 7, NOON_S, root=tmp_path)
    assert first.parent == tmp_path
    assert first.name.startswith("path-to-envs.py-Maze-2023111")
    assert first.name.endswith("-7")
    first.mkdir()
    assert default_path("path/to/envs.py:Maze", 7, NOON_S, root=tmp_path).name == first.name + "-2"
