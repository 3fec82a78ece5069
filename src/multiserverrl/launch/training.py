"""The `train` command: settings → envs → run directory → run → result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multiserverrl.errors import CheckpointError, ConfigError, PeerError, RunError
from multiserverrl.launch.asked import all_settings, differences, settings_of_run
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.local import INTERRUPTED, SOLVED, USED_UP, Ending, LocalRun
from multiserverrl.launch.places import Place, open_place
from multiserverrl.launch.progress import Progress
from multiserverrl.launch.records import EarlierRun, begin_run, effective, run_name
from multiserverrl.launch.roles import RunPlan
from multiserverrl.launch.runlog import RunLog
from multiserverrl.launch.seats import Seats, take_seats
from multiserverrl.launch.signals import Interrupts, interrupts
from multiserverrl.observe.git import GitQuestion
from multiserverrl.observe.loggers import open_loggers, require_loggers
from multiserverrl.observe.rundir import RunDir
from multiserverrl.processes import keep_standard_descriptors
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks.device import require_device
from multiserverrl.train.task import Task
from multiserverrl.wire.tokens import TOKEN_VARIABLE

__all__ = ["Outcome", "train"]

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


def train(launch: LaunchConfig, config: TrainConfig, progress: Progress, recipe: str = "") -> Outcome:
    """Train until solved, used up or interrupted; call it from the main thread. `recipe`: what the settings began from.

    Raises ConfigError before anything is started, RunError when the run cannot go on (its last
    checkpoint is in the run directory). No process and no shared memory is left in any case.
    """
    keep_standard_descriptors()
    require_device(config.device)
    require_loggers(launch.loggers)
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        caught = stack.enter_context(interrupts())
        earlier = stack.enter_context(EarlierRun.lock(Path(launch.resume))) if launch.resume is not None else None
        if earlier is not None and (result := earlier.result_for(config)) is not None:
            mean, goal = f"{result['eval_mean']:.1f}", f"{result['stop_at_return']:g}"
            solved = f"{earlier.run_dir.path} is solved already (greedy mean return {mean}, goal {goal})"
            progress.say(f"{solved}: give another --stop-at-return or --episodes to train on")
            return Outcome(earlier.run_dir.path, result)
        git = GitQuestion(Path())
        stack.callback(git.close)
        claims = earlier.claims() if earlier else {}
        place = stack.enter_context(open_place(launch, config.eval_episodes, claims))
        task = place.task.stacked(config.frame_stack)
        algorithm_for(config, task)  # one that cannot learn this task, or is none, is refused here
        seats = take_seats(place.offers, place.count, config.explorers, config.eval_episodes)
        _refuse_standstill(config, task, seats)
        if config.stop_at_return is None:
            config = dataclasses.replace(config, stop_at_return=place.reward_threshold)
        run_dir, owner = begin_run(launch, config, place, seats, earlier, git.state())
        stack.callback(run_dir.close)
        stack.enter_context(_telling_who_went(run_dir.path))
        if seats.is_borrowed:
            config = dataclasses.replace(config, eval_every_s=max(config.eval_every_s, BORROW_EVERY_S))
        plan = RunPlan(place.env_id, config, task, seats, str(run_dir.path), owner, launch.trust)
        _introduce(progress, plan)
        settled = effective(launch, place)
        _tell_settings(progress, settled, config, recipe, run_dir.path)
        loggers = open_loggers(launch.loggers, run_name(run_dir), secrets=(TOKEN_VARIABLE,))
        log = RunLog(run_dir, loggers, progress.say)
        stack.callback(log.close)
        log.begin(settings_of_run(settled, config))
        return _run(plan, place, caught, progress, run_dir, log)


@contextlib.contextmanager
def _telling_who_went(path: Path) -> Iterator[None]:
    """As after Ctrl-C, on stderr: where the output of the run goes, nobody is left."""
    try:
        yield
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            why = "the run was stopped, for nobody reads what it says"
            print(f"multiserverrl: {why}; {_how_to_go_on(path)}", file=sys.stderr)
        raise


def _how_to_go_on(path: Path) -> str:
    return f"go on with: multiserverrl train --resume {path}"


def _run(plan: RunPlan, place: Place, caught: Interrupts, progress: Progress, run_dir: RunDir, log: RunLog) -> Outcome:
    go_on = _how_to_go_on(run_dir.path)
    checkpoints = set(run_dir.checkpoints.iterdir())
    try:
        ending = LocalRun(plan, place.tend, caught, progress, log).run()
    except (RunError, PeerError) as error:
        progress.close()
        if isinstance(error, CheckpointError) and checkpoints == set(run_dir.checkpoints.iterdir()):
            run_dir.put_back()  # settings that its checkpoints do not fit would be all that is left of the run
        if not isinstance(error, CheckpointError) and any(run_dir.checkpoints.iterdir()):
            progress.say(f"the run ended too early, its last checkpoint is kept; {go_on}")
        raise
    progress.close()
    if ending.why == INTERRUPTED:
        progress.say(f"interrupted; {go_on}")
        return Outcome(run_dir.path, None, caught.signum or signal.SIGINT)
    result = _result(ending, plan)
    try:
        run_dir.write_result(result)
    except OSError as error:
        progress.say(json.dumps(result))
        why = f"{run_dir.path / 'result.json'} cannot be written: {error.strerror}; what it should hold is said above"
        raise RunError(why) from error
    _conclude(progress, result, ending, run_dir.path)
    return Outcome(run_dir.path, result)


def _refuse_standstill(config: TrainConfig, task: Task, seats: Seats) -> None:
    """What would wait for ever, or never learn, with just these envs."""
    if config.deterministic and seats.is_borrowed:
        raise ConfigError("--deterministic needs an env for evaluation beside the one that explores: --count 2")
    rollout = (config.rollout_steps + 1) * seats.num_envs  # one step more: a barrier may come late by less than that
    has_rollouts = algorithm_for(config, task).storage == "rollouts"
    if config.deterministic and has_rollouts and config.barrier_steps < rollout:
        raise ConfigError(
            f"--barrier-steps is {config.barrier_steps}: it must be at least {rollout}, (--rollout-steps + 1) times "
            f"{seats.num_envs} envs, or each rollout is cut off by a barrier before anything is learned from it"
        )


def _introduce(progress: Progress, plan: RunPlan) -> None:
    seats = plan.seats
    where = ", ".join(sorted({group.url for group in seats.groups} - {""})) or "this machine, without a server"
    evaluation = "the same env, borrowed" if seats.is_borrowed else f"{seats.evaluation_envs} more"
    progress.say(f"training on {plan.env_id} at {where}: {seats.num_envs} envs, {evaluation} for evaluation")
    progress.say(f"run directory {plan.run_dir}")
    if plan.config.stop_at_return is None:
        end = "until stopped" if plan.config.episodes is None else "until its episodes are used up"
        progress.say(f"{plan.env_id} has no reward threshold: training {end} (--stop-at-return sets one)")


def _tell_settings(progress: Progress, launch: LaunchConfig, config: TrainConfig, recipe: str, path: Path) -> None:
    begun = f"recipe {recipe}; " if recipe else ""
    progress.say(f"settings: {begun}{differences(launch, config)}; all of them, as in {path / 'config.toml'}:")
    for line in all_settings(launch, config):
        progress.say(f"  {line}")


def _result(ending: Ending, plan: RunPlan) -> dict[str, Any]:
    """result.json. Of a solved run the numbers are those of the moment its weights were published."""
    status, clock, passed = ending.status, ending.clock, ending.passed
    evaluation = passed or ending.last
    return {
        "solved": passed is not None,
        "why": ending.why,
        "wall_s": round(clock.wall_s(passed.published_at_s if passed else ending.ended_at_s), 4),
        "env_steps": passed.env_steps if passed else status.env_steps,
        "updates": passed.updates if passed else status.updates,
        "eval_mean": evaluation.mean if evaluation else None,
        "eval_ci95": _known(evaluation.ci95) if evaluation else None,
        "eval_std": evaluation.std if evaluation else None,
        "eval_episodes": evaluation.episodes if evaluation else 0,
        "eval_version": evaluation.version if evaluation else None,
        "seed": plan.config.seed,
        "env_id": plan.env_id,
        "stop_at_return": plan.config.stop_at_return,
        "episodes": status.episodes,
        "mean_return": status.mean_return,
        "faults": status.faults,
        "inference": {"batch_rows": status.batch_rows_to, "batch_wait_us": status.batch_wait_us_to},
        "first_step_unix_s": clock.first_step_unix_s(),
        "ended_unix_s": round(time.time(), 3),
    }


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _conclude(progress: Progress, result: dict[str, Any], ending: Ending, path: Path) -> None:
    mean = "not evaluated" if result["eval_mean"] is None else f"greedy mean return {result['eval_mean']:.1f}"
    if result["eval_ci95"] is not None:
        mean += f" ± {result['eval_ci95']:.1f}"
    over = f"{mean} over {result['eval_episodes']} episodes" if result["eval_episodes"] else mean
    words = {SOLVED: "solved", USED_UP: "not solved: all episodes are used up"}[ending.why]
    progress.say(
        f"{words} in {result['wall_s']:.2f} s, {result['env_steps']} env steps, {result['updates']} updates: {over}"
    )
    progress.say(f"run directory {path}")
