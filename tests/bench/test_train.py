"""`python bench/train.py` as it is run, and what it makes of a run's files; no figure is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import train
from claims import seeds_of
from train import ROWS, of_peer
from train_runs import at_steps, column_at, how_far, numbers_of

SCRIPT = Path(train.__file__)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", ROWS)
def test_a_rows_claims_are_of_its_columns_and_its_seeds_are_several(name: str) -> None:
    row = ROWS[name]
    assert len(seeds_of(row.seeds)) >= 3
    assert {claim.column for claim in row.claims} <= set(row.columns)


def test_a_row_that_is_not_there_is_refused_with_those_that_are() -> None:
    found = run("--rows", "cartpole-dqn,chess")
    assert found.returncode == 2
    assert "no row chess; there are cartpole-dqn, " in found.stderr


def test_a_seed_that_does_not_solve_the_task_makes_the_row_short() -> None:
    found = run("--row", "cartpole-pqn", "--seeds", "3", "--markdown", "--", "--episodes", "1")
    assert found.returncode == 1, found.stderr
    assert "cartpole-pqn: SHORT" in found.stdout
    assert "| cartpole-pqn | 1 | solved | 0 (0–0) | least >= 1 | SHORT |" in found.stdout


def test_a_solved_runs_times_are_counted_from_the_shell() -> None:
    result = {
        "solved": True, "wall_s": 1.5, "env_steps": 9000, "updates": 2000, "eval_mean": 480.0,
        "first_step_unix_s": 101.25,
    }  # fmt: skip
    found = numbers_of(result, began_s=100.0, process_s=3.0)
    assert found == {
        "solved": 1.0, "wall_s": 1.5, "env_steps": 9000.0, "updates": 2000.0, "start_s": 1.25, "process_s": 3.0,
        "eval_mean": 480.0,
    }  # fmt: skip
    assert "wall_s" not in numbers_of({**result, "solved": False}, began_s=100.0, process_s=3.0)


def test_a_run_that_took_too_long_says_how_far_it_came(tmp_path: Path) -> None:
    assert how_far(tmp_path) == {}
    lines = [{"env_steps": 100, "updates": 0, "eval_mean": None}, {"env_steps": 900, "updates": 50, "eval_mean": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert how_far(tmp_path) == {"env_steps": 900.0, "updates": 50.0}


def test_a_curve_is_read_at_the_first_point_that_is_far_enough() -> None:
    points = [(90, None), (150_000, 1.0), (200_100, 2.0), (350_000, 3.0), (410_000, 4.0)]
    assert at_steps(points, (200_000, 400_000, 600_000)) == {"at_200k": 2.0, "at_400k": 4.0}


def test_the_peers_medians_are_asked_of_every_point(tmp_path: Path) -> None:
    file = tmp_path / "curves.json"
    at = (100_000, 200_000)
    assert not any(claim.holds([{claim.column: 1e9}]) for claim in of_peer(file, at)), "of a peer that was not measured"
    runs = [{"curve": [[100_000, mean], [200_000, 2 * mean]]} for mean in (1.0, 5.0, 3.0)]
    file.write_text(json.dumps({"runs": runs}))
    assert [(claim.column, claim.limit, claim.is_at_most) for claim in of_peer(file, at)] == [
        (column_at(100_000), 3.0, False),
        (column_at(200_000), 6.0, False),
    ]
