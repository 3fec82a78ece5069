"""A training run on this machine, from its settings to its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from multiserverrl.launch.bells import wait_for_any
from multiserverrl.launch.cast import Cast
from multiserverrl.launch.channels import Channels
from multiserverrl.launch.control import CounterTable
from multiserverrl.launch.outages import Outages
from multiserverrl.launch.progress import Progress
from multiserverrl.launch.roles import RunPlan, channel_plan
from multiserverrl.launch.runlog import RunLog
from multiserverrl.launch.signals import Interrupts
from multiserverrl.launch.status import Clock, Goals, Status, StatusReader
from multiserverrl.launch.watcher import Watcher
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.channels import Evaluation

__all__ = ["INTERRUPTED", "SOLVED", "USED_UP", "Ending", "LocalRun"]

SOLVED, USED_UP, INTERRUPTED = "solved", "episodes used up", "interrupted"

LOOK_EVERY_S = 0.1
METRICS_EVERY_S = 1.0
LAST_EVALUATION_S = 60.0  # when the episodes are used up, the last weights are still evaluated


@dataclass(frozen=True)
class Ending:
    """How a run ended; `passed` is the evaluation that solved it, `last` the newest one."""

    why: str  # SOLVED, USED_UP or INTERRUPTED
    status: Status
    passed: Evaluation | None
    last: Evaluation | None
    clock: Clock
    ended_at_s: float  # CLOCK_MONOTONIC, before the processes were told to end


class Reporter:
    """Tells the progress and the log, each in its own rhythm, from the first env step on."""

    def __init__(self, plan: RunPlan, clock: Clock, progress: Progress, log: RunLog) -> None:
        self.progress, self._log, self._clock = progress, log, clock
        goals = goals_of(plan)
        self._shown, self._written = StatusReader(clock, goals), StatusReader(clock, goals)
        self.watcher = Watcher(plan, progress.say)
        self._show_at_s = self._write_at_s = time.monotonic()
        self._outages = Outages(progress.say)

    def watch(self, cast: Cast, counters: CounterTable, evaluation: Evaluation | None) -> None:
        """Tell what goes wrong, from the start of the first process on."""
        self.watcher.look(cast, counters, evaluation)

    def look(self, counters: CounterTable, evaluation: Evaluation | None) -> None:
        """Tell those whose time has come."""
        now_s = time.monotonic()
        if now_s >= self._show_at_s:
            self.progress.show(self._read(self._shown, counters, evaluation))
            self._show_at_s = now_s + self.progress.every_s
        if now_s >= self._write_at_s:
            self._log.status(self._read(self._written, counters, evaluation))
            self._write_at_s = now_s + METRICS_EVERY_S
        self._look_for_outages(counters)

    def evaluated(self, counters: CounterTable, evaluation: Evaluation) -> None:
        """An evaluation has come: a line of its own in the log."""
        self._clock.look(counters)
        self._log.evaluation(evaluation, self._clock.wall_s(evaluation.published_at_s))

    def last_look(self, counters: CounterTable, evaluation: Evaluation | None) -> Status:
        """The run has ended: one more line in the log; the last status."""
        status = self._read(self._written, counters, evaluation)
        self._log.status(status)
        self._look_for_outages(counters)
        return status

    def _read(self, reader: StatusReader, counters: CounterTable, evaluation: Evaluation | None) -> Status:
        return reader.read(counters, evaluation, self.watcher.standing, self.watcher.shares)

    def _look_for_outages(self, counters: CounterTable) -> None:
        self._outages.tell("checkpoints", int(counters.get("checkpoint_errno")))
        self._outages.tell("policy.safetensors", int(counters.get("policy_errno")))


def goals_of(plan: RunPlan) -> Goals:
    """Rollouts are learned from and left: a run that learns from them has neither replay ratio nor replay buffer.

    Noise explores without ε.
    """
    config = plan.config
    if algorithm_for(config, plan.task).storage == "rollouts":
        return Goals(config.stop_at_return)
    return Goals(config.stop_at_return, config.replay_ratio, config.buffer_size, has_epsilon=not config.noisy)


class LocalRun:
    """One run on this machine: its channels, its cast, and an eye on both."""

    def __init__(
        self,
        plan: RunPlan,
        tend_envs: Callable[[], None],
        interrupts: Interrupts,
        progress: Progress,
        log: RunLog,
    ) -> None:
        self._plan, self._tend_envs, self._interrupts = plan, tend_envs, interrupts
        self._clock = Clock()
        self._reporter = Reporter(plan, self._clock, progress, log)
        self._last: Evaluation | None = None
        self._passed: Evaluation | None = None

    def run(self) -> Ending:
        """Train until the end; no process runs afterwards. Raises what made it impossible to go on."""
        channels = Channels.create(channel_plan(self._plan))
        cast = Cast(self._plan, channels, self._reporter.progress.say)
        self._interrupts.watch(channels.launcher_bell)
        try:
            cast.start()
            why = self._supervise(cast, channels)
            ended_at_s = time.monotonic()  # what follows is no training
            if why == INTERRUPTED:
                at_barriers = self._plan.config.deterministic
                what = "it goes on from its last barrier" if at_barriers else "a checkpoint is being written"
                self._reporter.progress.say(f"stopping: {what} (once more to end at once)")
            cast.end()
            status = self._reporter.last_look(channels.counters(0), self._last)
            if why != INTERRUPTED:
                self._reporter.progress.show(status)  # with the evaluation that ended it
            return Ending(why, status, self._passed, self._last, self._clock, ended_at_s)
        except KeyboardInterrupt:
            cast.kill()
            raise
        finally:
            cast.end()
            self._interrupts.watch(None)
            channels.close()

    def _supervise(self, cast: Cast, channels: Channels) -> str:
        """Why the run is to end."""
        evaluations, counters = channels.evaluations(), channels.counters(0)
        used_up_at_s: float | None = None
        while self._interrupts.signum is None:
            if wait_for_any([channels.launcher_bell], LOOK_EVERY_S):
                channels.launcher_bell.drain()
            cast.tend()
            self._tend_envs()
            for evaluation in evaluations.unread():
                self._reporter.evaluated(counters, evaluation)
                if self._is_passed(evaluation):
                    return SOLVED
            if counters.get("explorers_finished") >= self._plan.config.explorers:
                used_up_at_s = used_up_at_s or time.monotonic()
                counters.set("lent", counters.get("wants_envs"))  # no explorer is left who could lend its envs
                if self._is_evaluated(counters) or time.monotonic() > used_up_at_s + LAST_EVALUATION_S:
                    return USED_UP
            self._reporter.watch(cast, counters, self._last)
            if cast.has_started and counters.get("batches"):  # before, a resume shows an ε that is not yet its own
                self._reporter.look(counters, self._last)
        return INTERRUPTED

    def _is_passed(self, evaluation: Evaluation) -> bool:
        self._last = evaluation
        stop_at_return = self._plan.config.stop_at_return
        if stop_at_return is None or evaluation.mean < stop_at_return:
            return False
        self._passed = evaluation
        return True

    def _is_evaluated(self, counters: CounterTable) -> bool:
        """Whether the newest weights were evaluated."""
        return self._last is not None and self._last.version >= counters.get("weights_version")
