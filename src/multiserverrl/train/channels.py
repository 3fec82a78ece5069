"""What passes between the processes of a training run, as protocols. `launch` implements them in shared memory.

    explorer  ── Observations ──►  inference server  ── actions ──►  explorer
    explorer  ── RawSteps ──►  learner  ── weights ──►  inference server, evaluator
    every process writes its own row of Counters; the launcher reads them all

N is the number of envs in an explorer's group, `frame_shape` is that of one observation, `obs_shape` that of what a
network sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from multiserverrl.train.interval import half_width

__all__ = [
    "BATCH_ROWS_TO",
    "COUNTERS",
    "WAIT_US_TO",
    "ActionClient",
    "ActionRequest",
    "ActionServer",
    "Answer",
    "Control",
    "Counters",
    "Evaluation",
    "EvaluationWriter",
    "RawSteps",
    "StepReader",
    "StepWriter",
    "WeightsReader",
    "WeightsWriter",
]

Array = NDArray[Any]


@dataclass
class RawSteps:
    """One step of every env of one group, as the envs gave it.

    `next_obs` is the observation that the step led to; where an episode ended it is the final one,
    never the first of the next episode. Both are single frames, also where a network sees stacks of
    them. Rows with `valid` False (a fault of the env) are not to be learned from: they end their env's
    running window and are counted.
    """

    group: int  # numbered over all explorers; an env is (group, row)
    obs: Array  # (N, *frame_shape)
    action: Array  # (N, *action_shape)
    reward: Array  # (N,) float32
    terminated: Array  # (N,) bool
    truncated: Array  # (N,) bool
    next_obs: Array  # (N, *frame_shape)
    valid: Array  # (N,) bool
    weights_version: int  # of the weights that chose the actions; 0 before the first snapshot
    number: int = -1  # of these steps in their group: the channel counts them
    extras: dict[str, Array] = field(default_factory=dict)  # (N, ...) each: what `act` returned beside the actions


class StepWriter(Protocol):
    """An explorer's end: bounded, so that a slow learner slows the explorers down."""

    def write(self, steps: RawSteps, timeout_s: float) -> bool:
        """Copy the steps in; False when there was no room within `timeout_s` (nothing was written)."""

    def settled(self, group: int, timeout_s: float) -> bool:
        """Whether, within `timeout_s`, the learner is done with all steps of this group."""


class StepReader(Protocol):
    """The learner's end of all explorers' channels. What is read stays there until it is done with."""

    def read(self, timeout_s: float) -> RawSteps | None:
        """The oldest steps, not done with, of the next group in turn, copied out; None when none came in time."""

    def done(self, group: int, number: int) -> None:
        """Give the room of these steps back; nothing, when that was done or there are none of this name."""

    def last_done(self) -> list[RawSteps]:
        """The last steps that were done with, each group's oldest first: as many as a window is long, less one."""


@dataclass(frozen=True)
class Answer:
    """What an explorer is to do with its envs."""

    actions: Array  # (N, *action_shape)
    weights_version: int  # of those that chose them
    extras: dict[str, Array] = field(default_factory=dict)  # (N, ...) each


class ActionClient(Protocol):
    """An explorer's line to the inference server, one for each of its groups."""

    def request(self, obs: Array, begins: Array) -> None:
        """Hand over (N, *obs_shape), and (N,) True where an episode begins with it; at most one request is open."""

    def actions(self, timeout_s: float) -> Answer | None:
        """The answer to it; None when late."""


@dataclass
class ActionRequest:
    """Observations of one group that wait for actions; all arrays are views, valid until the answer."""

    group: int
    obs: Array  # (N, *obs_shape)
    begins: Array  # (N,) bool
    extras: dict[str, Array] = field(default_factory=dict)  # (N, ...) each: of these envs' last answer


class ActionServer(Protocol):
    """The inference server's end of all groups' lines."""

    def requests(self, timeout_s: float) -> list[ActionRequest]:
        """All groups that wait now and were not handed out before; blocks up to `timeout_s` for the first."""

    def answer(self, group: int, answer: Answer) -> None:
        """Answer one group's request."""


class WeightsWriter(Protocol):
    """The learner's end: whole snapshots, each with a version."""

    def publish(self, weights: dict[str, Array], version: int) -> None:
        """Make a snapshot the newest; readers see all of it or none of it. Versions grow from 1."""


class WeightsReader(Protocol):
    """A reader's end."""

    def version(self) -> int:
        """The newest version, 0 before the first."""

    def read(self) -> tuple[dict[str, Array], int] | None:
        """A copy of the newest snapshot and its version; None before the first."""


@dataclass(frozen=True)
class Evaluation:
    """Greedy returns of one snapshot of the weights, and when that snapshot was published."""

    version: int
    mean: float
    std: float
    episodes: int
    returns: list[float]
    published_at_s: float  # CLOCK_MONOTONIC; the training clock of a passed evaluation stops here
    env_steps: int  # of the run, when the snapshot was published
    updates: int

    @property
    def ci95(self) -> float:
        """The mean's 95 % confidence interval is mean ± this; infinite for a single episode."""
        return half_width(self.std, self.episodes)


class EvaluationWriter(Protocol):
    """The evaluator's end; the launcher has the other."""

    def report(self, evaluation: Evaluation) -> None:
        """Hand an evaluation over."""


class Control(Protocol):
    """What every process of the run asks between two pieces of work."""

    def is_stopping(self) -> bool:
        """True when the run is to end: leave the loop, write what must be kept, return."""

    def wait_until_started(self) -> bool:
        """Block until learner and inference server are ready; False when the run stops instead.

        No env is stepped before this returns True.
        """

    def ready(self) -> None:
        """Say that this process is ready."""


class Counters(Protocol):
    """Named numbers that one process writes and others read; plain 64-bit floats, no locks."""

    def add(self, name: str, amount: float) -> None:
        """Add to one of this process's own numbers."""

    def set(self, name: str, value: float) -> None:
        """Set one of this process's own numbers."""

    def get(self, name: str) -> float:
        """The number of that name, summed over all processes."""


BATCH_ROWS_TO = tuple(2**power for power in range(11))  # 1 … 1024
WAIT_US_TO = tuple(2**power for power in range(4, 18))  # 16 µs … 131 ms

COUNTERS: dict[str, str] = {  # a histogram's batch counts in one bucket alone: the first that it fits in
    # every process
    "beat_s": "CLOCK_MONOTONIC of when its loop last came around",
    "doing": "what it came to then (train.beats.Doing)",
    # explorers
    "env_steps": "valid env steps sent to the learner (the learner's own row: those before a resume)",
    "episodes": "episodes that ended (the learner's own row: those before a resume)",
    "return_sum": "sum of the returns of these episodes",
    "recent_returns": "episodes in the explorers' moving windows (the last 100 of each)",
    "recent_return_sum": "sum of the returns in these windows",
    "faults": "env steps that were not learned from because the env failed",
    "not_finite": "env steps among the faults whose observation or reward was not finite",
    "not_finite_env": "which one was the last (train.finite.env_number)",
    "not_finite_what": "what of it was not: an index of train.finite.WHAT",
    "reopened": "groups of envs that were lost and opened again",
    "explorers_finished": "1 when this explorer's envs have used up their episodes",
    "first_step_at_s": "CLOCK_MONOTONIC of the first env step; two explorers may both set it: the smallest counts",
    "lent": "1 while this explorer has closed its envs for the evaluator",
    # inference server
    "batches": "batches of observations acted on",
    "batch_rows": "observations in these batches",
    **{f"batch_rows_to_{limit}": f"batches of {limit} observations at most" for limit in BATCH_ROWS_TO},
    **{f"batch_wait_us_to_{limit}": f"batches whose first request waited {limit} µs at most" for limit in WAIT_US_TO},
    "acted_version": "version of the weights that acted last (with several explorers that act: the sum)",
    "epsilon": "share of random actions now (with several explorers that act: the sum)",
    # learner
    "updates": "updates, those before a resume included",
    "inserted": "transitions put into the replay buffer (or steps into rollouts), those before a resume included",
    "replay_size": "transitions in the replay buffer, or steps that wait for their rollout to be complete",
    "replay_ratio": "updates per transition inserted since the warm-up; 0 without a replay buffer",
    "loss": "loss of the last update before the newest weights",
    "weights_version": "version of the newest weights",
    "checkpoints": "checkpoints written by this process",
    "checkpoint_errno": "what keeps checkpoints from being written (an errno); 0 when the last one was",
    "wall_before_s": "training time before a resume",
    "learning_since_s": "CLOCK_MONOTONIC of the learner's first steps",
    "steps_lost": "steps of rollouts that were not complete when their learner died: they are never learned from",
    "steps_at_s": "CLOCK_MONOTONIC of when steps last reached the learner",
    "updates_lost": "updates made after the snapshot that a learner, started again, went on from",
    # evaluator
    "evaluations": "evaluations reported",
    "evaluated_at_s": "CLOCK_MONOTONIC of when the last of them ended",
    "policy_errno": "what keeps the best policy from being written (an errno); 0 when the last one was",
    "confirming": "episodes that it plays now to confirm one that passed; 0: it does not",
    "wants_envs": "1 while the evaluator needs the explorer's envs",
    # a deterministic run: who has reached which barrier
    "barrier_asked": "the barrier that the explorer stands at",
    "barriers": "barriers whose weights are published, those before a resume included",
    "barriers_passed": "the last barrier whose checkpoint is written, too",
    "barriers_evaluated": "the last barrier whose weights are evaluated",
}
"""Every counter's name and meaning."""
