"""A run directory is written whole, belongs to one run, and is never overwritten by another."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from multiserverrl.errors import CheckpointError, ConfigError
from multiserverrl.observe import rundir
from multiserverrl.observe.rundir import RunDir, default_path

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


@pytest.mark.parametrize("name", ["config.json", "run.lock", "checkpoints"])
def test_a_directory_that_cannot_be_written_to_is_refused_by_name_and_left_as_it_was(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    targets = {"config.json": (rundir, "replace_file"), "run.lock": (rundir, "_lock"), "checkpoints": (Path, "mkdir")}
    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(*targets[name], full)
        with pytest.raises(ConfigError, match=r"run cannot be written to: No space left on device"):
            RunDir.create(tmp_path / "run", {})
    RunDir.create(tmp_path / "run", {}).close()


def test_a_resume_that_cannot_write_its_settings_keeps_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path / "run", {"env_id": "CartPole-v1"})
    run.write_result({"solved": True})

    def full(path: Path, parts: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rundir, "replace_file", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        run.begin_again({"env_id": "Other-v0"})
    assert run.result() == {"solved": True}
    assert run.config()["env_id"] == "CartPole-v1"
    run.close()


def test_what_a_kill_left_unfinished_is_cleared_away_at_the_next_start(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", {})
    run.close()
    for directory in (run.path, run.checkpoints):
        (directory / ".writing-something").mkdir()
    RunDir.open(run.path)
    assert (run.path / ".writing-something").exists(), "who only reads removes nothing"
    RunDir.resume(run.path).close()
    assert not list(run.path.rglob(".writing-*"))


def test_the_default_directory_is_not_hidden(tmp_path: Path) -> None:
    assert default_path("../envs.py:Maze", 7, NOON_S, root=tmp_path).name.startswith("envs.py-Maze-2023111")


def test_the_default_directory_names_env_time_and_seed_and_is_never_taken(tmp_path: Path) -> None:
    first = default_path("path/to/envs.py:Maze", 7, NOON_S, root=tmp_path)
    assert first.parent == tmp_path
    assert first.name.startswith("path-to-envs.py-Maze-2023111")
    assert first.name.endswith("-7")
    first.mkdir()
    assert default_path("path/to/envs.py:Maze", 7, NOON_S, root=tmp_path).name == first.name + "-2"
