"""The `train` command: settings → envs → run directory → run → result."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from multiserverrl.errors import CheckpointError, ConfigError
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.local import INTERRUPTED, SOLVED, USED_UP, Ending, LocalRun
from multiserverrl.launch.places import Place, open_place
from multiserverrl.launch.progress import Progress
from multiserverrl.launch.roles import RunPlan
from multiserverrl.launch.seats import Seats, take_seats
from multiserverrl.launch.signals import interrupts
from multiserverrl.observe.metrics import MetricsWriter
from multiserverrl.observe.rundir import RunDir, default_path
from multiserverrl.train.config import TrainConfig, config_from_json

__all__ = ["Outcome", "resumed_settings", "train"]

BORROW_EVERY_S = 5.0  # an evaluation that takes the explorer's only env is not begun more often


@dataclass(frozen=True)
class Outcome:
    """`result` is what result.json holds; None when the run was interrupted by `signum`."""

    run_dir: Path
    result: dict[str, Any] | None
    signum: int | None = None

    @property
    def exit_code(self) -> int:
        """0 for a run that ended by itself, solved or not."""
        return 128 + self.signum if self.signum else 0


def train(launch: LaunchConfig, config: TrainConfig, progress: Progress) -> Outcome:
    """Train until solved, used up or interrupted; call it from the main thread.

    Raises ConfigError before anything is started, RunError when the run cannot go on (its last
    checkpoint is in the run directory). No process and no shared memory is left in any case.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        caught = stack.enter_context(interrupts())
        resumed = _reopened(launch.resume, stack) if launch.resume is not None else None
        place = stack.enter_context(open_place(launch, config.eval_episodes))
        seats = take_seats(place.offers, place.count, config.explorers, config.eval_episodes)
        config = _settled(config, place, seats)
        run_dir = resumed or _created(launch, config, place, seats, stack)
        plan = RunPlan(place.env_id, config, place.task, seats, str(run_dir.path), run_dir.config()["owner"])
        _introduce(progress, plan)
        metrics = stack.enter_context(MetricsWriter(run_dir.metrics))
        ending = LocalRun(plan, place.tend, caught, progress, metrics).run()
        progress.close()
        if ending.why == INTERRUPTED:
            progress.say(f"interrupted; go on with: multiserverrl train --resume {run_dir.path}")
            return Outcome(run_dir.path, None, caught.signum or signal.SIGINT)
        result = _result(ending, plan)
        run_dir.write_result(result)
        _conclude(progress, result, ending, run_dir.path)
        return Outcome(run_dir.path, result)


def resumed_settings(path: Path) -> tuple[LaunchConfig, TrainConfig]:
    """The settings that the run in this directory was begun with."""
    run_dir = RunDir.open(path, "--resume")
    config = run_dir.config()
    try:
        launch = msgspec.convert(config["launch"], LaunchConfig)
        return launch, config_from_json(msgspec.json.encode(config["train"]))
    except (KeyError, ConfigError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path / 'config.json'} does not hold the settings of a run: {error}") from error


def _settled(config: TrainConfig, place: Place, seats: Seats) -> TrainConfig:
    """The settings with what only the envs could tell."""
    stop_at_return = place.reward_threshold if config.stop_at_return is None else config.stop_at_return
    eval_every_s = max(config.eval_every_s, BORROW_EVERY_S) if seats.is_borrowed else config.eval_every_s
    return dataclasses.replace(config, stop_at_return=stop_at_return, eval_every_s=eval_every_s)


def _reopened(path: str, stack: contextlib.ExitStack) -> RunDir:
    run_dir = RunDir.resume(Path(path))
    stack.callback(run_dir.close)
    if not isinstance(run_dir.config().get("owner"), str):
        raise CheckpointError(f"{run_dir.path / 'config.json'} lacks the run's owner key")
    run_dir.remove_result()
    return run_dir


def _created(
    launch: LaunchConfig, config: TrainConfig, place: Place, seats: Seats, stack: contextlib.ExitStack
) -> RunDir:
    path = Path(launch.run_dir) if launch.run_dir else default_path(place.env_id, config.seed, time.time())
    count = place.count or sum(offer.free for offer in place.offers)
    where = dataclasses.replace(launch, env_id=place.env_id, count=count, run_dir=None, resume=None)
    run_dir = RunDir.create(
        path,
        {
            "env_id": place.env_id,
            "launch": dataclasses.asdict(where),
            "train": dataclasses.asdict(config),
            "seats": msgspec.to_builtins(seats),
            "owner": secrets.token_hex(16),
        },
    )
    stack.callback(run_dir.close)
    return run_dir


def _introduce(progress: Progress, plan: RunPlan) -> None:
    seats = plan.seats
    where = ", ".join(sorted({group.url for group in seats.groups} - {""})) or "this machine, without a server"
    evaluation = "the same env, borrowed" if seats.is_borrowed else f"{seats.evaluation_envs} more"
    progress.say(f"training on {plan.env_id} at {where}: {seats.num_envs} envs, {evaluation} for evaluation")
    progress.say(f"run directory {plan.run_dir}")
    if plan.config.stop_at_return is None:
        end = "until stopped" if plan.config.episodes is None else "until its episodes are used up"
        progress.say(f"{plan.env_id} has no reward threshold: training {end} (--stop-at-return sets one)")


def _result(ending: Ending, plan: RunPlan) -> dict[str, Any]:
    """result.json. Of a solved run the numbers are those of the moment its weights were published."""
    status, clock, passed = ending.status, ending.clock, ending.passed
    evaluation = passed or ending.last
    return {
        "solved": passed is not None,
        "why": ending.why,
        "wall_s": round(clock.wall_s(passed.published_at_s), 4) if passed else status.wall_s,
        "env_steps": passed.env_steps if passed else status.env_steps,
        "updates": passed.updates if passed else status.updates,
        "eval_mean": evaluation.mean if evaluation else None,
        "eval_std": evaluation.std if evaluation else None,
        "eval_episodes": evaluation.episodes if evaluation else 0,
        "eval_version": evaluation.version if evaluation else None,
        "seed": plan.config.seed,
        "env_id": plan.env_id,
        "stop_at_return": plan.config.stop_at_return,
        "episodes": status.episodes,
        "mean_return": status.mean_return,
        "faults": status.faults,
        "first_step_unix_s": clock.first_step_unix_s(),
        "ended_unix_s": round(time.time(), 3),
    }


def _conclude(progress: Progress, result: dict[str, Any], ending: Ending, path: Path) -> None:
    mean = "not evaluated" if result["eval_mean"] is None else f"greedy mean return {result['eval_mean']:.1f}"
    over = f"{mean} over {result['eval_episodes']} episodes" if result["eval_episodes"] else mean
    words = {SOLVED: "solved", USED_UP: "not solved: all episodes are used up"}[ending.why]
    progress.say(
        f"{words} in {result['wall_s']:.2f} s, {result['env_steps']} env steps, {result['updates']} updates: {over}"
    )
    progress.say(f"run directory {path}")
