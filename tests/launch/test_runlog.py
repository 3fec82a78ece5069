"""A run's numbers reach its files and loggers by stable names; a logger that fails costs its own lines alone."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from multiserverrl.launch.runlog import RunLog
from multiserverrl.launch.status import Status
from multiserverrl.observe.metrics import read_metrics
from multiserverrl.observe.rundir import RunDir
from multiserverrl.train.channels import Evaluation

STATUS = Status(1.0, 2.0, 3, None, 40, 5.0, 6, 7.0, 0.25, 8, 0.1, 0.01, 9, 0, eval_mean=3.0, eval_version=1)
EVALUATION = Evaluation(7, 123.0, 10.0, 26, [], 55.0, 640, 10)


class Notes:
    """A logger that keeps what it is told, and fails when asked to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[tuple[int, dict[str, float]]] = []
        self.settings: dict[str, Any] = {}
        self.is_broken = False

    def begin(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    def write(self, numbers: Mapping[str, float], env_steps: int) -> None:
        if self.is_broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.told.append((env_steps, dict(numbers)))

    def close(self) -> None:
        if self.is_broken:
            raise OSError(errno.EIO, "it hangs")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_an_evaluation_has_its_own_file_and_tags_at_the_steps_when_its_weights_were_published(run_dir: RunDir) -> None:
    notes = Notes("notes")
    log = RunLog(run_dir, [notes], say=lambda line: None)
    log.begin({"seed": 3})
    log.evaluation(EVALUATION, wall_s=1.5)
    log.close()
    numbers = {
        "version": 7,
        "mean": 123.0,
        "ci95": pytest.approx(4.119, abs=1e-3),
        "std": 10.0,
        "episodes": 26,
        "wall_s": 1.5,
        "updates": 10,
    }
    [line] = read_metrics(run_dir.evaluations)
    assert line.pop("unix_s") > 0
    assert line == {"env_steps": 640, **numbers}
    assert notes.settings == {"seed": 3}
    assert notes.told == [(640, {f"eval/{name}": value for name, value in numbers.items()})]


def test_a_status_is_told_by_env_steps_without_what_is_unknown_or_told_elsewhere(run_dir: RunDir) -> None:
    notes = Notes("notes")
    log = RunLog(run_dir, [notes], say=lambda line: None)
    log.status(STATUS)
    log.close()
    assert read_metrics(run_dir.metrics) == [STATUS.numbers()]
    [(env_steps, numbers)] = notes.told
    assert env_steps == 40
    named = {f"train/{name}": value for name, value in STATUS.numbers().items()}
    unknown = {"mean_return", "batch_rows", "batch_wait_us", "batch_wait_99_us", "batch_rows_to", "batch_wait_us_to"}
    elsewhere = {"unix_s", "env_steps", "eval_mean", "eval_ci95", "eval_version"}
    assert set(named) - set(numbers) == {f"train/{name}" for name in (*unknown, *elsewhere, "warned")}
    assert numbers.items() <= named.items()


def test_a_logger_that_fails_costs_its_own_lines_and_is_told_of_once(run_dir: RunDir) -> None:
    lines: list[str] = []
    sick, sound = Notes("sick"), Notes("sound")
    log = RunLog(run_dir, [sick, sound], lines.append)
    for is_broken in (False, True, True, False, True):
        sick.is_broken = is_broken
        log.status(STATUS)
    log.close()
    assert (len(sick.told), len(sound.told), len(read_metrics(run_dir.metrics))) == (2, 5, 5)
    outage = "sick cannot be written: No space left on device; training goes on, and tries again"
    assert lines == [outage, "sick can be written again, after 0 s", outage]


def test_a_failure_at_the_end_is_told_and_an_end_that_is_well_mends_no_outage(run_dir: RunDir) -> None:
    lines: list[str] = []
    sick, lost = Notes("sick"), Notes("lost")
    log = RunLog(run_dir, [sick, lost], lines.append)
    lost.is_broken = True
    log.status(STATUS)
    sick.is_broken, lost.is_broken = True, False
    log.close()
    assert [line.partition(";")[0] for line in lines] == [
        "lost cannot be written: No space left on device",
        "sick cannot be written: it hangs",
    ]
