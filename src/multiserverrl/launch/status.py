"""Where a run stands: numbers made from the counters of all its processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from multiserverrl.launch.control import CounterTable
from multiserverrl.launch.watch import StandingWarning
from multiserverrl.observe.metrics import Rates
from multiserverrl.train.beats import Doing
from multiserverrl.train.channels import WAIT_US_TO, Evaluation
from multiserverrl.train.histograms import Histogram, quantile

__all__ = ["Clock", "Goals", "Status", "StatusReader"]


@dataclass(frozen=True)
class Goals:
    """What a run was asked for."""

    stop_at_return: float | None = None
    replay_ratio: float | None = None
    buffer_size: int | None = None
    has_epsilon: bool = True


@dataclass(frozen=True)
class Status:
    """One moment of a run; None where nothing is known yet."""

    unix_s: float
    wall_s: float
    episodes: int
    mean_return: float | None  # of the last 100 episodes of each explorer
    env_steps: int
    env_steps_per_s: float
    updates: int
    updates_per_s: float
    replay_ratio: float
    replay_size: int
    epsilon: float
    loss: float
    weights_version: int
    faults: int
    eval_mean: float | None = None
    eval_ci95: float | None = None  # half its 95 % confidence interval
    eval_version: int | None = None
    acted_version: int = 0  # of the weights that chose the newest actions
    batch_rows: float | None = None  # observations in a batch of actions, since the last look
    batch_wait_us: float | None = None  # that half of all batches were complete within
    batch_wait_99_us: float | None = None  # and 99 of 100
    batch_rows_to: Mapping[str, int] = field(default_factory=dict)  # histogram: so many batches of at most so many
    batch_wait_us_to: Mapping[str, int] = field(default_factory=dict)  # and so many that were complete within so long
    warnings: int = 0
    warned: str = ""  # their names and whom they are of: silent:explorer-0,starved:learner
    # for people alone
    confirming: int = 0  # episodes that are played now to confirm an evaluation that passed
    goals: Goals = Goals()
    monotonic_s: float = 0.0
    standing: tuple[StandingWarning, ...] = ()
    shares: Mapping[str, Mapping[Doing, float]] = field(default_factory=dict)  # of each explorer's time of late

    def numbers(self) -> dict[str, float | int | str | Mapping[str, int] | None]:
        """For metrics.jsonl."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _FOR_PEOPLE}


_WAITS = Histogram.names("batch_wait_us_to_")
_FOR_PEOPLE = ("confirming", "goals", "monotonic_s", "standing", "shares")


class Clock:
    """The training clock: from the first env step on, with what an earlier part of the run took."""

    def __init__(self) -> None:
        self.first_step_at_s: float | None = None
        self._before_s: float | None = None

    def look(self, counters: CounterTable) -> None:
        """Note the first env step once there is one; a process that is started again cannot move it."""
        if self.first_step_at_s is None:
            self.first_step_at_s = counters.smallest("first_step_at_s")
            self._before_s = counters.get("wall_before_s")

    def wall_s(self, at_s: float) -> float:
        """Training time at a moment of CLOCK_MONOTONIC; 0 before the first env step."""
        if self.first_step_at_s is None:
            return 0.0
        return max(at_s - self.first_step_at_s, 0.0) + (self._before_s or 0.0)

    def first_step_unix_s(self) -> float | None:
        """The first env step on the clock of the wall."""
        if self.first_step_at_s is None:
            return None
        return time.time() - (time.monotonic() - self.first_step_at_s)


class StatusReader:
    """Reads the counters again and again; rates are over the time between two reads."""

    def __init__(self, clock: Clock, goals: Goals = Goals()) -> None:
        self._clock, self._goals = clock, goals
        self._rates = Rates()
        self._acted = 0.0, 0.0

    def read(
        self,
        counters: CounterTable,
        evaluation: Evaluation | None,
        standing: Sequence[StandingWarning] = (),
        shares: Mapping[str, Mapping[Doing, float]] | None = None,
    ) -> Status:
        """The run's status now; `standing` and `shares` are a watcher's."""
        self._clock.look(counters)
        now_s = time.monotonic()
        get = counters.get
        window = get("recent_returns")
        return Status(
            unix_s=round(time.time(), 3),
            wall_s=round(self._clock.wall_s(now_s), 3),
            episodes=int(get("episodes")),
            mean_return=get("recent_return_sum") / window if window else None,
            env_steps=int(get("env_steps")),
            env_steps_per_s=self._rates.per_s("env_steps", get("env_steps"), now_s),
            updates=int(get("updates")),
            updates_per_s=self._rates.per_s("updates", get("updates"), now_s),
            replay_ratio=get("replay_ratio"),
            replay_size=int(get("replay_size")),
            epsilon=counters.largest("epsilon"),  # every explorer that acts has its own
            loss=get("loss"),
            weights_version=int(get("weights_version")),
            faults=int(get("faults")),
            eval_mean=evaluation.mean if evaluation else None,
            eval_ci95=evaluation.ci95 if evaluation else None,
            eval_version=evaluation.version if evaluation else None,
            acted_version=int(counters.largest("acted_version")),
            batch_rows=self._batch_rows(counters),
            batch_wait_us=quantile(WAIT_US_TO, map(get, _WAITS), 0.5),
            batch_wait_99_us=quantile(WAIT_US_TO, map(get, _WAITS), 0.99),
            batch_rows_to=Histogram.read("batch_rows_to_", get),
            batch_wait_us_to=Histogram.read("batch_wait_us_to_", get),
            warnings=len(standing),
            warned=",".join(f"{one.name}:{one.who}" for one in standing),
            confirming=int(get("confirming")),
            goals=self._goals,
            monotonic_s=now_s,
            standing=tuple(standing),
            shares=shares or {},
        )

    def _batch_rows(self, counters: CounterTable) -> float | None:
        (batches, rows), self._acted = self._acted, (counters.get("batches"), counters.get("batch_rows"))
        more = self._acted[0] - batches
        return (self._acted[1] - rows) / more if more > 0 else None
