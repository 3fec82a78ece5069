"""Faults of a trainer's and a server's processes while a run learns.

The run learns from Diary-v0, whose observations say what they are of: at its end the replay buffer is read, and
says whether any transition is wrong, is there twice, or is missing.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from bench_envs import DIARY_HOLD, DIARY_PACE
from diary import Reading, read_diary
from killer import KILLS, Fault, Killer, steps_again
from matrix import Effort, FaultRow, Seen, at_most
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.training import Outcome, train
from multiserverrl.server.config import ServerConfig
from multiserverrl.train.checkpoint import load_newest
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.recipes import recipe_for
from scene import command_of, descendants_of, environment, leftovers, percentile, stderr_to
from twins import wait_until

BENCH = pathlib.Path(__file__).resolve().parents[1]
ENV_ID, COUNT = "bench_envs:Diary-v0", 8
SESSIONS = {"explorer": 2, "evaluator": 1}  # that each holds, which its next birth needs back
TIME_TO_LIVE_S = ServerConfig.time_to_live_s
N_STEP, GAMMA = 4, 0.5
SLOWLY_S = 0.01  # a step, where few episodes must outlast all faults on a machine where each takes long to heal


def kill_roles(effort: Effort) -> Seen:
    """Row 9: each process of a run, again and again."""
    kinds, times = list(KILLS), effort.times(2, 12)
    killer = Killer(plan=kinds * times, pause_s=effort.times(0, 1) + 0.2, apart_s=effort.times(0, 11))
    with diary_run(killer, effort) as run:
        outcome = run.train(LaunchConfig(ENV_ID, count=COUNT), episodes=effort.times(80, 900))
    reading, logged = run.reading(), run.logged()
    updates_lost = [int(lost) for lost in re.findall(r"updates_lost=(\d+)", logged)]
    worth_s = max(updates_lost, default=0) / (outcome["updates"] / outcome["wall_s"])
    steps_lost = outcome["env_steps"] - reading.transitions
    most_lost = times * COUNT  # what an explorer had counted and not sent when it died: one step of one group
    solved = solve_meanwhile(effort)
    # the embedded server has not one env more than the run uses, and keeps a lost session for 120 s
    taken_over = len(re.findall("its owner opened another", logged))
    wanted = sum(count * killer.count(role) for role, count in SESSIONS.items())
    holds = (
        reading.is_faultless
        and taken_over >= wanted
        and max(killer.heals_s["explorer"], default=TIME_TO_LIVE_S) < TIME_TO_LIVE_S / 2
        and killer.count() == len(kinds) * times
        and 0 <= steps_lost <= most_lost
        and outcome["why"] == "episodes used up"
        and abs(outcome["episodes"] - COUNT * run.episodes) <= steps_lost
        and solved.is_solved
        and not run.left
    )
    what = (
        f"heals (p50/p95): {killer.figures()}; transitions lost {steps_lost} of {outcome['env_steps']}, wrong "
        f"{reading.wrong}, twice {reading.twice}, missing {reading.missing}; updates lost {sum(updates_lost)} in "
        f"{len(updates_lost)} deaths (at most {worth_s:.1f} s worth); sessions taken over by their owner's key "
        f"{taken_over} of {wanted} that were left, no env to spare; left behind {run.left}; "
        f"CartPole-v1 {solved.text}"
    )
    return Seen(
        f"{killer.count()} kills in one run, {solved.kills} while CartPole-v1 was learned",
        what,
        holds,
        (at_most(10, "s", "updates lost, worth", worth_s),),
    )


class Solved:
    """A run on CartPole-v1 whose processes were killed while it learned."""

    def __init__(self, killer: Killer, result: dict[str, Any]) -> None:
        self.kills = killer.count()
        self.is_solved = bool(result["solved"]) and {"learner", "explorer"} <= killer.heals_s.keys()
        word = "solved" if result["solved"] else "not solved"
        self.text = f"{word} (mean {result['eval_mean']:.0f}) in {result['env_steps']} steps, {result['wall_s']:.1f} s"


def solve_meanwhile(effort: Effort) -> Solved:
    """CartPole-v1 with the settings known to work for it; a run that learns nothing ends by its episodes."""
    killer = Killer(plan=list(KILLS) * effort.times(1, 3), pause_s=0.1, begins=lambda status: status.updates > 0)
    recipe, every_s = recipe_for("dqn", "CartPole-v1").settings, 10.0 if effort.is_whole else 0.5
    with tempfile.TemporaryDirectory() as directory, stderr_to(pathlib.Path(directory) / "log"):
        outcome = train(
            LaunchConfig("CartPole-v1", run_dir=f"{directory}/run"),
            TrainConfig(**{**recipe, "episodes": 3000, "eval_every_s": 0.5, "checkpoint_every_s": every_s}),
            killer,
        )
    return Solved(killer, result_of(outcome))


def kill_server(effort: Effort) -> Seen:
    """Row 5: the front of the trainer's env server, then its parent, which somebody starts again."""
    before, outage_s = leftovers(), effort.times(1, 30)
    killer = Killer(plan=[], pause_s=effort.times(0, 5) + 0.5)
    with diary_run(killer, effort) as run, served_diary(run.pace) as server:
        server.outages_s = [float(outage_s)] + [2.0] * effort.times(0, 2)
        fronts = [Fault("front", server.kill_front, steps_again)] * effort.times(3, 20)
        killer.plan = [*fronts, *[Fault("parent", server.kill_parent, server.has_come_back)] * len(server.outages_s)]
        where = LaunchConfig(ENV_ID, host="127.0.0.1", port=server.port, count=COUNT)
        outcome = run.train(where, episodes=effort.times(70, 800))
        server.stop()
    reading, left = run.reading(), leftovers().more_than(before)
    fronts_s, parents_s = killer.heals_s["front"], server.back_s
    lost = outcome["env_steps"] - reading.transitions
    holds = (
        reading.is_faultless
        and lost == 0
        and not killer.plan
        and outcome["why"] == "episodes used up"
        and server.survivors == 0
        and server.kills_within == len(fronts_s[::2]) + len(parents_s)
        and not (left or run.left)
        and run.grown <= 0
    )
    what = (
        f"front: first new step {percentile(fronts_s, 0.5):.2f}/{percentile(fronts_s, 0.95):.2f} s (p50/p95) after the "
        f"kill; parent: {percentile(parents_s, 0.5):.2f}/{percentile(parents_s, 1.0):.2f} s (p50/most) after the new "
        f"server was up (away {outage_s} s at most); {reading.transitions} transitions: wrong {reading.wrong}, twice "
        f"{reading.twice}, missing {reading.missing}, cut {reading.cut}, sent and not learned from {lost}; processes "
        f"of dead servers left {server.survivors}; left behind {left}; {run.grown} descriptors more in the run"
    )
    done = f"{len(fronts_s)} kills of the front, {len(parents_s)} of the parent, in one run"
    return Seen(
        f"{done}; {server.kills_within} while an env said that it was within a step",
        what,
        holds,
        (at_most(2, "s", "front: first new step p95", percentile(fronts_s, 0.95)),),
    )


class DiaryRun:
    """A run on Diary-v0 in this process, and what it leaves."""

    def __init__(self, killer: Killer, directory: pathlib.Path, pause_s: float | None) -> None:
        self.episodes, self.grown, self.left = 0, 0, leftovers()
        self._killer, self._directory, self.pace = killer, directory, directory / "pace"
        self.pace.write_text(str(pause_s or ""))
        self._killer.at_end = self._speed_up
        self._held = 0
        begins = killer.begins
        killer.begins = lambda status: begins(status) and bool(self._count_held())

    def train(self, launch: LaunchConfig, episodes: int) -> dict[str, Any]:
        """Train until all envs have played so many episodes; the faults are done before that."""
        self.episodes = episodes
        config = TrainConfig(
            hidden="16", n_step=N_STEP, gamma=GAMMA, reward_scale=1.0, warmup_steps=200, batch_size=32, publish_every=1,
            buffer_size=2**18, replay_ratio=0.05, episodes=episodes, stop_at_return=1e9, eval_episodes=2,
        )  # fmt: skip
        before = leftovers()
        variables = {"PYTHONPATH": python_path(), DIARY_PACE: str(self.pace), "MULTISERVERRL_LOG": "info"}
        launch = LaunchConfig(**{**vars(launch), "run_dir": str(self._directory / "run")})
        with environment(**variables), stderr_to(self._directory / "log"):
            outcome = train(launch, config, self._killer)
        self.left = leftovers().more_than(before)
        return result_of(outcome)

    def reading(self) -> Reading:
        """What is in the replay buffer at the end."""
        return self._reading

    def keep(self) -> None:
        """Read what is to be known of the directory."""
        checkpoint = load_newest(self._directory / "run" / "checkpoints")
        assert checkpoint is not None
        arrays = {name.removeprefix("replay/"): array for name, array in checkpoint.arrays.items()}
        self._reading = read_diary({name: np.asarray(array) for name, array in arrays.items()}, N_STEP, GAMMA)
        self._logged = (self._directory / "log").read_text()

    def logged(self) -> str:
        """What the processes of the run logged."""
        return self._logged

    def _count_held(self) -> int:
        self._held = descriptors_of("entries:")
        return self._held

    def _speed_up(self) -> None:
        wait_until(lambda: descriptors_of("entries:") <= self._held)  # connections that are made just now
        self.grown = descriptors_of("entries:") - self._held
        self.pace.unlink()


@contextmanager
def diary_run(killer: Killer, effort: Effort) -> Iterator[DiaryRun]:
    """A directory for a run, read when it has ended."""
    with tempfile.TemporaryDirectory() as directory:
        run = DiaryRun(killer, pathlib.Path(directory), None if effort.is_whole else SLOWLY_S)
        yield run
        run.keep()


class ServedDiary:
    """`serve` as a process of its own, which is killed and started again on the same port."""

    def __init__(self, pace: pathlib.Path) -> None:
        self.port, self.survivors, self.kills_within, self._pace = 0, 0, 0, pace
        self._hold = pathlib.Path(f"{pace}{DIARY_HOLD}")
        self.outages_s: list[float] = []
        self.back_s: list[float] = []  # from "serving" to the first new step
        self._up_at_s: float | None = 0.0
        self._start_at_s = 0.0
        self._dying: list[int] = []
        self._is_within = False  # whether the last kill of the front was
        self._start()
        self._announced()

    def kill_front(self) -> None:
        """kill -9, every second time in mid-step; its workers must end, its parent must start another."""
        self._note_survivors()
        (front,) = [pid for pid in descendants_of(self._process.pid) if "run_front" in command_of(pid)]
        self._dying = [front, *descendants_of(front)]
        with self._envs_within(held := not self._is_within):
            os.kill(front, signal.SIGKILL)
        self._is_within = held

    def kill_parent(self) -> None:
        """kill -9 in mid-step; all its processes must end. `has_come_back` starts the next after a while."""
        self._note_survivors()
        self._dying = descendants_of(self._process.pid)
        with self._envs_within():
            self._process.kill()
        self._process.communicate()
        self._start_at_s, self._up_at_s = time.monotonic() + self.outages_s.pop(0), None

    def has_come_back(self, after: Any, now: Any) -> bool:
        """Env steps again, once there is a server again."""
        if self._start_at_s and time.monotonic() > self._start_at_s:
            self._start_at_s = 0.0
            self._note_survivors()
            with socket.socket() as free:  # the port is nobody's
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                free.bind(("127.0.0.1", self.port))
            self._start()
        if not self._start_at_s and self._up_at_s is None and self._announced():
            self._up_at_s = time.monotonic()
        if self._up_at_s is None or not steps_again(after, now):
            return False
        self.back_s.append(time.monotonic() - self._up_at_s)
        return True

    def stop(self) -> None:
        """End it in order."""
        self._note_survivors()
        self._process.terminate()
        self._process.communicate(timeout=20)

    def kill(self) -> None:
        """End it, whatever happened."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.communicate()

    @contextmanager
    def _envs_within(self, is_wanted: bool = True) -> Iterator[None]:
        """Envs say that they are within a step, and stay there meanwhile."""
        if not is_wanted:
            yield
            return
        self._hold.mkdir()
        if wait_until(lambda: bool(os.listdir(self._hold))):
            self.kills_within += 1
        try:
            yield
        finally:  # whoever comes too late finds no directory to say it in
            over = self._hold.rename(self._hold.with_suffix(".over"))
            shutil.rmtree(over)

    def _start(self) -> None:
        command = [sys.executable, "-m", "multiserverrl", "serve", ENV_ID, "--port", str(self.port)]
        variables = {**os.environ, "PYTHONPATH": python_path(), DIARY_PACE: str(self._pace)}
        self._process = subprocess.Popen(
            [*command, "--count", str(COUNT + 2)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables
        )

    def _announced(self) -> bool:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        self.port = int(re.findall(r"http://[^ ]*:(\d+)", line)[0])
        return True

    def _note_survivors(self) -> None:
        """Those of a dead server that do not end."""
        wait_until(lambda: not any(map(command_of, self._dying)))
        self.survivors += sum(bool(command_of(pid)) for pid in self._dying)
        self._dying = []


@contextmanager
def served_diary(pace: pathlib.Path) -> Iterator[ServedDiary]:
    """A server that is gone at the end."""
    server = ServedDiary(pace)
    try:
        yield server
    finally:
        server.kill()


def result_of(outcome: Outcome) -> dict[str, Any]:
    """result.json of a run that ended by itself."""
    assert outcome.result is not None
    return outcome.result


def python_path() -> str:
    """Where children find the envs of the measurements."""
    return os.pathsep.join([str(BENCH), os.environ.get("PYTHONPATH", "")])


def descriptors_of(role: str) -> int:
    """Descriptors that the children of this kind hold together."""
    pids = [pid for pid in descendants_of(os.getpid()) if role in command_of(pid)]
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


ROWS: list[FaultRow] = [
    FaultRow(
        "5",
        "env server's front, then its parent, killed (SIGKILL) in mid-step",
        "the trainer goes on by itself with new sessions; no half transition; nothing leaks; front: ≤ 2 s",
        kill_server,
    ),
    FaultRow(
        "9",
        "learner, explorer, inference server, evaluator killed (SIGKILL)",
        "each is started again alone and takes its envs over; the replay stays; lost: ≤ the unsent batch, ≤ 10 s of "
        "updates; still solves",
        kill_roles,
    ),
]
