"""`multiserverrl train` as a whole process with an env server of its own: interrupted, resumed, evaluated, killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from multiserverrl.train.checkpoint import load_newest

DEADLINE_S = 60.0
COMMAND = [sys.executable, "-m", "multiserverrl"]
TINY = ["--count", "2", "--hidden", "16", "--warmup-steps", "20", "--eval-episodes", "2", "--stop-at-return", "1e9"]


@contextmanager
def training(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A `train` process; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*COMMAND, "train", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.stdout.close()
        process.wait(DEADLINE_S)


def wait_for_updates(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Every process of the run, once it has learned something."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        words = line.split()
        if "updates/s" in words and float(words[words.index("updates/s") + 1]) > 0:
            return psutil.Process(process.pid).children(recursive=True)
    raise AssertionError("the run ended:\n" + "".join(said))


def test_a_run_that_nobody_reads_any_more_says_how_to_go_on_with_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*COMMAND, "train", "CartPole-v1", *TINY, "--run-dir", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        process.stdout.readline()
        process.stdout.close()  # as `head -1` does
        said = process.stderr.read()
        assert process.wait(DEADLINE_S) == 1
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        process.stderr.close()
    assert said.count("\n") == 1
    assert said.endswith(f"go on with: multiserverrl train --resume {run}\n")
    subprocess.run([*COMMAND, "train", "--resume", str(run), "--episodes", "3"], capture_output=True, check=True)


def test_ctrl_c_leaves_a_checkpoint_and_no_process_and_the_run_goes_on_from_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training("CartPole-v1", *TINY, "--run-dir", str(run)) as process:
        cast = wait_for_updates(process)
        assert len(cast) >= 6  # learner, explorer, inference server, evaluator, front, env worker
        process.send_signal(signal.SIGINT)
        said = process.stdout.read() if process.stdout else ""
        assert process.wait(DEADLINE_S) == 130
    assert f"multiserverrl train --resume {run}" in said
    assert "Traceback" not in said
    assert psutil.wait_procs(cast, DEADLINE_S)[1] == []
    first = load_newest(run / "checkpoints")
    assert first is not None
    assert first.state["updates"] > 0
    assert not (run / "result.json").exists()
    played = max(int(array.max()) for name, array in first.arrays.items() if name.startswith("played/"))

    with training("--resume", str(run), "--episodes", str(played + 3)) as process:
        said = process.stdout.read() if process.stdout else ""
        assert process.wait(DEADLINE_S) == 0, said
    assert "not solved: all episodes are used up" in said
    result = json.loads((run / "result.json").read_text())
    assert result["solved"] is False
    assert result["updates"] > first.state["updates"]

    ended = subprocess.run([*COMMAND, "eval", str(run), "--episodes", "5", "--json"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    score = json.loads(ended.stdout)
    assert score["n"] == 5
    assert score["mean"] > 0
    assert score["std"] >= 0


def test_a_killed_launcher_takes_every_process_of_its_run_along(tmp_path: Path) -> None:
    with training("CartPole-v1", *TINY, "--run-dir", str(tmp_path / "run")) as process:
        cast = wait_for_updates(process)
        process.kill()
        assert psutil.wait_procs(cast, DEADLINE_S)[1] == []


def test_options_of_a_plug_in_are_numbers_texts_and_truths() -> None:
    from multiserverrl.cli import _parser

    flags = ["--option", "features=400", "--option", "rate=0.5", "--option", "kind=rbf", "--option", "fast=true"]
    given = _parser().parse_args(["train", "CartPole-v1", *flags, "--option", "list=[1]"])
    assert given.options == {"features": 400, "rate": 0.5, "kind": "rbf", "fast": True, "list": "[1]"}


def test_the_help_of_train_has_its_flags_under_headings_of_a_dozen_at_most() -> None:
    from multiserverrl.cli import _parser

    train = _parser().parse_args(["train"]).parser
    flags = {group.title: [action.dest for action in group._group_actions] for group in train._action_groups}
    assert {title: len(names) for title, names in flags.items() if len(names) > 12} == {}
    assert flags["options"] == ["help", "config"]
    assert {"run_dir", "checkpoint_every_s"} <= set(flags["run directory and logs"])
    assert "options" in flags["algorithm"]


def test_an_option_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from multiserverrl.cli import main

    with pytest.raises(SystemExit):
        main(["train", "CartPole-v1", "--option", "features"])
    assert "NAME=VALUE" in capsys.readouterr().err
