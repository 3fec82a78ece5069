"""A training run on a server, whose learner is stopped for a while: what came of its sessions and its episodes."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from bench_envs import DIARY_PACE
from diary import read_diary
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.run import RunningServer, start_server
from multiserverrl.train.checkpoint import load_newest
from run_process import TrainingRun, training
from scene import environment, stderr_to

ENV_ID, COUNT, N_STEP, GAMMA = "bench_envs:Diary-v0", 8, 4, 0.5
BENCH = pathlib.Path(__file__).resolve().parents[1]
FLAGS = {
    "hidden": 16, "n-step": N_STEP, "gamma": GAMMA, "reward-scale": 1.0, "warmup-steps": 200, "batch-size": 32,
    "buffer-size": 2**18, "replay-ratio": 0.05, "stop-at-return": 1e9, "eval-episodes": 2,
}  # fmt: skip


class Aftermath(NamedTuple):
    """`reopened` counts sessions that were closed or opened meanwhile; `amiss` transitions that no env gave so."""

    reopened: int
    amiss: int
    episodes: int  # that ended after the learner went on
    updates: int

    @property
    def holds(self) -> bool:
        return self.reopened == self.amiss == 0 and self.episodes > 0 and self.updates > 0


class StoppedLearner:
    """`stop`, wait for as long as you like, `go_on`: what it gives is read when the run has been ended."""

    def __init__(self, run: TrainingRun, folder: pathlib.Path) -> None:
        self._run, self._folder, self._before = run, folder, 0

    def stop(self) -> None:
        """Stop the learner, in the midst of learning."""
        self._run.wait_until(lambda: self._metric("updates") > 20 and self._metric("eval_version") > 0, "it learns")
        (self._pid,) = self._run.pids(["entries:learner"])
        self._before = self._sessions()
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> Aftermath:
        """Let it go on, see it learn from new episodes, end the run."""
        begun = {name: self._metric(name) for name in ("episodes", "updates")}
        os.kill(self._pid, signal.SIGCONT)
        self._run.wait_until(lambda: self._metric("updates") > begun["updates"] + 20, "it learns again")
        self._run.wait_until(lambda: self._metric("episodes") > begun["episodes"] + COUNT, "episodes end again")
        reopened = self._sessions() - self._before
        gained = {name: int(self._metric(name) - begun[name]) for name in begun}
        self._run.end()
        checkpoint = load_newest(self._folder / "run" / "checkpoints")
        assert checkpoint is not None
        arrays = {name.removeprefix("replay/"): np.asarray(array) for name, array in checkpoint.arrays.items()}
        reading = read_diary(arrays, N_STEP, GAMMA)
        amiss = reading.wrong + reading.twice + reading.missing + reading.cut
        return Aftermath(reopened, amiss, gained["episodes"], gained["updates"])

    def _sessions(self) -> int:
        """Sessions that the server has opened and closed so far."""
        return len(re.findall("session_(?:opened|closed)", (self._folder / "served").read_text()))

    def _metric(self, name: str) -> float:
        path = self._folder / "run" / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        told: dict[str, Any] = json.loads(whole[-1]) if whole else {}
        return float(told.get(name) or 0)


@contextmanager
def learner_to_stop(folder: pathlib.Path, **settings: Any) -> Iterator[StoppedLearner]:
    """`train` on a server of its own, which takes these settings; both are gone afterwards."""
    folder.mkdir()
    (folder / "pace").touch()  # steps take 4 ms: the buffer is never full
    path = os.pathsep.join([str(BENCH), os.environ.get("PYTHONPATH", "")])
    with environment(PYTHONPATH=path, **{DIARY_PACE: str(folder / "pace")}):
        server = _served(folder / "served", settings)
        try:
            flags = [part for name, value in FLAGS.items() for part in (f"--{name}", value)]
            where = ["--host", "127.0.0.1", "--port", server.url.rpartition(":")[2], "--count", COUNT]
            with training(*where, *flags, "--run-dir", folder / "run") as run:
                yield StoppedLearner(run, folder)
        finally:
            server.stop()


def _served(log: pathlib.Path, settings: dict[str, Any]) -> RunningServer:
    with stderr_to(log):
        return start_server(
            ServerConfig(host="127.0.0.1", port=0, count=COUNT + 2, workers=2, env_ids=(ENV_ID,), **settings)
        )
