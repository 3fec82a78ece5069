"""Real processes that fall silent, one after the other in one run: each is named while it lasts, its end is told."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multiserverrl.errors import RunError
from multiserverrl.launch import local, watcher
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.status import Status
from multiserverrl.launch.training import train
from multiserverrl.launch.watch import Limits
from multiserverrl.observe.metrics import read_metrics
from multiserverrl.train.checkpoint import load_newest
from tests.launch.silent_envs import DIRECTORY
from tests.launch.test_training import TINY, Script, signal_child

REPOSITORY = Path(__file__).resolve().parents[2]
Part = tuple[Callable[[], None], Callable[[Status], bool]]


class Play(Script):
    """Does one thing after the other, each when the status is as the one before should have made it."""

    def __init__(self, parts: list[Part]) -> None:
        super().__init__()
        self._parts = parts

    def show(self, status: Status) -> None:
        if self._parts and self._parts[0][1](status):
            self._parts.pop(0)[0]()


def warned(of: str) -> Callable[[Status], bool]:
    return lambda status: of in status.warned.split(",")


def both(one: Callable[[Status], bool], other: Callable[[Status], bool]) -> Callable[[Status], bool]:
    return lambda status: one(status) and other(status)


def quiet(status: Status) -> bool:
    return status.warned == ""


def test_processes_that_fall_silent_are_named_while_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        DIRECTORY: str(tmp_path),
        "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(watcher, "LIMITS", Limits(silent_s=0.4, starved_s=0.4, finite_s=0.4))
    monkeypatch.setattr(local, "METRICS_EVERY_S", 0.05)
    broken, fifo = tmp_path / "broken", tmp_path / "hang"

    def let_go() -> None:
        fd = os.open(fifo, os.O_WRONLY)
        fifo.unlink()  # before its reader goes on: the next env would wait at it for ever
        os.close(fd)

    def said(pattern: str) -> Callable[[Status], bool]:
        return lambda status: re.search(pattern, "\n".join(play.lines)) is not None

    updates: list[int] = []

    def learns_on(status: Status) -> bool:
        if "absent:evaluator" in status.warned:
            updates.append(status.updates)
        return bool(updates) and status.updates > updates[0] + 50

    play = Play(
        [
            (lambda: signal_child("entries:evaluator", signal.SIGSTOP), lambda status: status.updates > 0),
            (lambda: signal_child("entries:evaluator", signal.SIGCONT), learns_on),
            (broken.touch, lambda status: status.updates > 0),
            (broken.unlink, warned("not_finite:explorer-0")),
            (lambda: os.mkfifo(fifo), quiet),
            (let_go, both(said("explorer-0 has sent nothing for .*its envs do not answer"), warned("starved:learner"))),
            (lambda: signal_child("entries:inference", signal.SIGSTOP), quiet),
            (lambda: signal_child("entries:inference", signal.SIGCONT), warned("silent:explorer-0")),
            (lambda: os.kill(os.getpid(), signal.SIGTERM), quiet),
        ]
    )
    run = tmp_path / "run"
    launch = LaunchConfig("tests.launch.silent_envs:Silent-v0", count=4, is_local=True, run_dir=str(run))
    train(launch, replace(TINY, stop_at_return=None), play)
    told = "\n".join(play.lines)
    for line in (
        r"warning: env \d of group \d gives a reward that is not finite: such steps are not learned from",
        r"all rewards and observations of the explorer-0 are finite again, after",
        r"warning: the explorer-0 has sent nothing for \d s: its envs do not answer",
        r"the explorer-0 goes on, after \d s",
        r"warning: the learner has had no steps for \d s: nothing comes from explorer-0",
        r"it waits for actions, and the inference server stands still",
    ):
        assert re.search(line, told), line
    metrics = read_metrics(run / "metrics.jsonl")
    assert {0, 1} <= {line["warnings"] for line in metrics}
    assert any("absent:inference" in line["warned"] for line in metrics)
    assert all(line["loss"] is not None for line in metrics), "nothing that is not finite was learned from"


HELD = """
import multiserverrl.train.acting as acting

newest = acting.Actor._newest
acting.Actor._newest = lambda actor: actor._snapshot or newest(actor)  # the first weights, for ever
"""


@pytest.mark.long
def test_an_inference_server_that_takes_no_newer_weights_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(watcher, "log", lambda event, **fields: logged.append(f"{event} {fields.get('warning')}"))
    (tmp_path / "sitecustomize.py").write_text(HELD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(watcher, "LIMITS", Limits(stale_s=0.4))
    play = Play([(lambda: os.kill(os.getpid(), signal.SIGTERM), warned("stale:inference"))])
    launch = LaunchConfig("CartPole-v1", count=4, is_local=True, run_dir=str(tmp_path / "run"))
    train(launch, replace(TINY, stop_at_return=None), play)
    assert re.search(r"warning: the inference acts with weights \d+: \d+ were there \d s ago", "\n".join(play.lines))
    assert "warning_begins stale" in logged


@pytest.mark.parametrize("backend", ["numpy", pytest.param("torch", marks=pytest.mark.long)])
def test_a_learner_whose_weights_are_no_numbers_any_more_ends_the_run_with_a_reason_and_a_checkpoint(
    tmp_path: Path, backend: str
) -> None:
    config = replace(TINY, backend=backend, learning_rate=1e30)
    play = Script()
    with pytest.raises(RunError, match=r"(the loss is (nan|inf)|numbers of '.*' are not finite).* after \d+ updates"):
        train(LaunchConfig("CartPole-v1", count=4, is_local=True, run_dir=str(tmp_path / "run")), config, play)
    assert "its last checkpoint is kept" in "\n".join(play.lines)
    checkpoint = load_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert all(np.isfinite(array).all() for name, array in checkpoint.arrays.items() if name.startswith("learner/"))
