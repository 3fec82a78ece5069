"""Runs are listed and compared from what their directories say; what is broken or foreign is passed over by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from multiserverrl.cli import main
from multiserverrl.errors import ConfigError
from multiserverrl.observe import curves, disk
from multiserverrl.observe.rundir import RunDir
from multiserverrl.observe.runs import Run, find_runs
from multiserverrl.observe.runtables import differing_settings, runs_text

CURVE = [(100, 0.5, 20.0), (200, 1.0, 300.0), (300, 1.5, 250.0)]  # env steps, wall, mean


def begun(path: Path, begun_s: float = 0.0, env_id: str = "CartPole-v1", **train: Any) -> RunDir:
    """A run that runs: its lock is held."""
    config = {"env_id": env_id, "launch": {"count": 8}, "train": {"algorithm": "dqn", "seed": 3, **train}}
    run = RunDir.create(path, config)
    os.utime(path / "config.json", (begun_s, begun_s))
    return run


def evaluated(run: RunDir) -> RunDir:
    lines = [{"env_steps": n, "wall_s": s, "mean": mean, "ci95": 3.0, "version": 1} for n, s, mean in CURVE]
    run.evaluations.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"env_st')
    run.metrics.write_text('{"env_steps": 10, "wall_s": 0.1}\n{"env_steps": 350, "wall_s": 1.75}\n{"env_')
    return run


def ended(run: RunDir, **result: Any) -> RunDir:
    run.write_result({"solved": True, "env_steps": 200, "wall_s": 1.0, "eval_mean": 300.0, **result})
    run.close()
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Five runs, the last of them still runs; beside a file, a directory of something else, and a broken run."""
    root = tmp_path / "runs"
    root.mkdir()
    ended(evaluated(begun(root / "a", 5.0)))
    ended(begun(root / "b", 4.0, gamma=0.9), solved=False)
    evaluated(begun(root / "c", 3.0, seed=4)).close()
    begun(root / "d", 2.0, env_id="Acrobot-v1").close()
    (root / "thesis").mkdir()
    (root / "notes.txt").touch()
    (root / "torn").mkdir()
    (root / "torn" / "config.json").write_text('{"env_id": ')
    return root


def by_name(root: Path) -> Mapping[str, Run]:
    return {run.name: run for run in find_runs([root]).runs}


def test_runs_are_listed_the_newest_first_with_how_they_stand(runs: Path) -> None:
    live = begun(runs / "e", 1.0)
    found = find_runs([runs])
    assert [(run.name, run.status) for run in found.runs] == [
        ("a", "solved"),
        ("b", "ended"),
        ("c", "interrupted"),
        ("d", "interrupted"),
        ("e", "running"),
    ]
    live.close()
    assert by_name(runs)["e"].status == "interrupted"


def test_numbers_are_the_results_and_before_there_is_one_the_last_whole_lines(runs: Path) -> None:
    found = by_name(runs)
    told = {name: (run.env_steps, run.wall_s, run.best_eval) for name, run in found.items()}
    assert told == {
        "a": (200, 1.0, 300.0),
        "b": (200, 1.0, 300.0),
        "c": (350, 1.75, 300.0),
        "d": (None, None, None),
    }
    assert (found["c"].env_id, found["c"].algorithm, found["c"].seed) == ("CartPole-v1", "dqn", 4)


def test_the_curve_of_a_resumed_run_leaves_out_what_was_done_again(tmp_path: Path) -> None:
    run = evaluated(begun(tmp_path / "run"))
    run.close()
    whole = run.evaluations.read_text().rpartition("\n")[0]
    run.evaluations.write_text(whole + '\n{"env_steps": 150, "wall_s": 0.9, "mean": 100.0}\n')
    [found] = find_runs([tmp_path]).runs
    assert [(point.env_steps, point.mean) for point in found.curve] == [(100, 20.0), (150, 100.0)]
    assert found.best_eval == 300.0


def test_what_is_no_run_or_a_broken_one_is_passed_over_by_name(runs: Path) -> None:
    found = find_runs([runs])
    told = {Path(path).name: why for path, why in found.passed_over}
    assert set(told) == {"thesis", "torn"}
    assert "is not a run directory" in told["thesis"]
    assert "config.json cannot be read" in told["torn"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"env_id": 3, "launch": {}, "train": {}}'),
        ("config.json", '{"env_id": "a", "launch": {}, "train": {"seed": "one"}}'),
        ("config.json", "[]"),
        ("result.json", '{"env_steps": "many"}'),
        ("result.json", "\x00"),
        ("evaluations.jsonl", '{"mean": 1}\n'),
        ("evaluations.jsonl", "nonsense\n"),
        ("metrics.jsonl", "nonsense\n"),
        ("metrics.jsonl", "3\n"),
    ],
)
def test_whatever_its_files_hold_a_run_is_passed_over_in_one_line(tmp_path: Path, name: str, content: str) -> None:
    begun(tmp_path / "run").close()
    (tmp_path / "run" / name).write_text(content)
    found = find_runs([tmp_path])
    assert found.runs == []
    [(path, why)] = found.passed_over
    assert path == str(tmp_path / "run")
    assert "\n" not in why


def test_named_runs_stand_side_by_side_with_the_settings_that_differ(runs: Path) -> None:
    found = find_runs([runs / "b", runs / "a"])
    assert differing_settings(found.runs) == {"gamma": [0.9, None]}
    lines = [line.split() for line in runs_text(found).splitlines()]
    assert lines[0] == ["run", "b", "a"]
    assert ["status", "ended", "solved"] in lines
    assert lines[-1] == ["gamma", "0.9", "–"]


def test_the_list_is_a_line_a_run_under_its_heads(runs: Path) -> None:
    head, first, *rest = runs_text(find_runs([runs])).splitlines()
    assert head.split() == ["run", "env", "algorithm", "seed", "status", "env", "steps", "wall", "best", "evaluation"]
    assert first.split() == ["a", "CartPole-v1", "dqn", "3", "solved", "200", "1.0", "s", "300.0"]
    assert len(rest) == 3


def test_nothing_that_a_runs_files_hold_steers_the_terminal(tmp_path: Path) -> None:
    begun(tmp_path / "one", env_id="Evil\x1b]0;title\x07\nv1", note="\x1b[2J").close()
    begun(tmp_path / "two").close()
    for found in (find_runs([tmp_path]), find_runs([tmp_path / "one", tmp_path / "two"])):
        text = runs_text(found)
        assert "Evil" in text
        assert all(line.isprintable() for line in text.split("\n"))


def test_the_command_prints_runs_and_names_what_it_passes_over(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert [line.partition(" is passed over: ")[0] for line in err.splitlines()] == [
        f"multiserverrl: {runs / 'thesis'}",
        f"multiserverrl: {runs / 'torn'}",
    ]


def test_json_has_runs_differences_and_what_was_passed_over(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs / "a"), str(runs / "b"), str(runs / "thesis"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(run["name"], run["status"], run["evaluations"]) for run in told["runs"]] == [
        ("a", "solved", 3),
        ("b", "ended", 0),
    ]
    assert told["differing_settings"] == {"gamma": [None, 0.9]}
    assert [item["path"] for item in told["passed_over"]] == [str(runs / "thesis")]


def test_where_there_is_no_run_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 1
    assert "there is no run" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "absent")]) == 2
    assert "absent is no directory" in capsys.readouterr().err


def test_learning_curves_are_drawn_as_a_png(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "curves.png"
    assert main(["runs", str(runs), "--plot", str(target)]) == 0
    with Image.open(target) as picture:
        assert picture.format == "PNG"
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    assert (31, 119, 180) in colours  # the first curve's
    assert (255, 127, 14) in colours  # the second's; two runs were evaluated


@pytest.mark.parametrize(
    ("names", "target", "told"),
    [
        (["a"], "curves.jpg", r"curves\.jpg must end in \.png"),
        (["b", "d"], "curves.png", "none of these runs has an evaluation yet"),
        (["a"], "absent/curves.png", r"curves\.png cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str], names: list[str], target: str, told: str
) -> None:
    paths = [str(runs / name) for name in names]
    assert main(["runs", *paths, "--plot", str(runs / target)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(told, line)


def test_without_matplotlib_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--plot needs the package matplotlib: pip install .*\[plot\]"):
        curves.require_plot(Path("curves.png"))


def test_a_look_at_a_run_does_not_keep_it_from_going_on(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    assert run.is_running()
    run.close()
    assert not run.is_running()
    assert disk.remove_leftovers(tmp_path / "run") == []
    RunDir.resume(tmp_path / "run").close()
