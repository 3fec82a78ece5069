"""Nothing silent: which process hangs, starves, or acts with old weights, and since when. Pure: times and numbers in.

A condition that has lasted longer than its limit is a standing warning: it says what, since when, why (as far as the
heartbeats tell) and what to do. It is told once when it begins and once when it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from multiserverrl.train.beats import Doing
from multiserverrl.train.finite import WHAT, named_env

__all__ = ["DIED", "FINISHED", "STARTING", "STOPPED", "Change", "Limits", "Pulse", "StandingWarning", "Vitals", "Watch"]

STARTING, STOPPED, DIED, FINISHED = "is starting", "stands still", "died, and is to be started again", "has finished"


@dataclass(frozen=True)
class Limits:
    """After how long what is told. One that ended by itself is told again only when it lasts twice as long."""

    silent_s: float = 5.0  # a process that makes no turn of its loop
    starved_s: float = 5.0  # a learner without steps
    stale_s: float = 5.0  # actions of weights that had been replaced so long ago
    ratio_s: float = 10.0  # the span over which the replay ratio is measured
    ratio_tolerance: float = 0.1
    unevaluated_s: float = 60.0  # newer weights, and no evaluation of any
    ready_s: float = 20.0  # a process that starts
    finite_s: float = 10.0  # without another number that is not finite: it is over


@dataclass(frozen=True)
class Pulse:
    """A process's sign of life: since `beat_s` it is at `doing`. That one is `absent` is told by who saw it go."""

    name: str
    beat_s: float = 0.0
    doing: Doing = Doing.NOTHING
    since_s: float = 0.0  # since when it is ready, or absent
    absent: str = ""  # "" or why: STARTING, STOPPED, DIED, FINISHED
    acted_version: int = 0
    acts: float = 0.0  # batches of actions so far
    not_finite: float = 0.0  # env steps with numbers that are not finite, so far; the last of them is that of
    not_finite_env: int = 0
    not_finite_what: int = 0


@dataclass(frozen=True)
class Vitals:
    """One look at a run, at `now_s` of CLOCK_MONOTONIC."""

    now_s: float
    learner: Pulse
    inference: Pulse
    evaluator: Pulse
    explorers: tuple[Pulse, ...]
    started_at_s: float | None = 0.0  # when all were ready; None before
    steps_at_s: float = 0.0
    newest_version: int = 0
    inserted: float = 0.0
    updates: float = 0.0
    asked_ratio: float | None = None
    ratio_slack: float = 0.0  # updates that may be missing or too many at any moment
    evaluated_version: int = 0
    evaluated_at_s: float = 0.0

    @property
    def everyone(self) -> tuple[Pulse, ...]:
        """Every process of the run."""
        return (self.learner, self.inference, self.evaluator, *self.explorers)


@dataclass(frozen=True)
class StandingWarning:
    """What is wrong with whom, since when; `over` is what is said when it ends. A quiet one is told of elsewhere."""

    name: str
    who: str
    since_s: float
    what: str
    why: str
    over: str
    is_quiet: bool = field(default=False, compare=False)

    @property
    def text(self) -> str:
        """One line for a person."""
        return f"{self.what}: {self.why}" if self.why else self.what


@dataclass(frozen=True)
class Change:
    """A warning that begins (`lasted_s` None) or ends."""

    warning: StandingWarning
    lasted_s: float | None = None


_WHY = {
    Doing.NOTHING: "it has not begun",
    Doing.OPENING_ENVS: "it opens its envs; is their server there, and has it room? (it tries for --reopen-s)",
    Doing.STEPPING: "its envs do not answer, a step is slow or hangs; an env server ends one after --step-deadline-s",
    Doing.WAITING_FOR_WEIGHTS: "it waits for weights of the learner",
    Doing.ACTING: "it computes actions; is the network large, or the machine overloaded?",
    Doing.UPDATING: "it is at an update; is the network large, or the machine overloaded?",
    Doing.SAVING: "it writes a checkpoint; is the disk slow? (a smaller --buffer-size makes them smaller)",
    Doing.PLAYING: "its envs do not answer, a step is slow or hangs; an env server ends one after --step-deadline-s",
    Doing.WAITING_FOR_ENVS: "it waits for the explorer to lend its envs",
}
_PATIENT = {Doing.FINISHED, Doing.RESTING, Doing.LENDING_ENVS, Doing.WAITING_FOR_LEARNER, Doing.PAUSING}


@dataclass
class _Broken:
    """Steps of one explorer that were not finite: how many, the last when, and since when without a long pause."""

    steps: float = 0.0
    last_s: float = 0.0
    since_s: float = 0.0


class Watch:
    """Remembers what stands; `look` gives what has changed."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.standing: list[StandingWarning] = []
        self._patience_s: dict[tuple[str, str], float] = {}
        self._published: deque[tuple[float, int, dict[str, float]]] = deque()  # when, newest version, acts of each
        self._learned: deque[tuple[float, float, float]] = deque()  # when, inserted, updates
        self._broken: dict[str, _Broken] = {}  # of each explorer

    def look(self, vitals: Vitals) -> list[Change]:
        """Take a new look: the warnings that begin and end with it."""
        self._remember(vitals)
        before = {(one.name, one.who): one for one in self.standing}
        found = {(one.name, one.who): one for one in self._found(vitals)}
        self.standing = list(found.values())
        ended = [
            Change(one, vitals.now_s - one.since_s)
            for key, one in before.items()
            if key not in found and not one.is_quiet
        ]
        for change in ended:
            assert change.lasted_s is not None
            self._patience_s[change.warning.name, change.warning.who] = 2.0 * change.lasted_s
        begun = [Change(one) for key, one in found.items() if key not in before and not one.is_quiet]
        return ended + begun

    def _found(self, vitals: Vitals) -> Iterator[StandingWarning]:
        for pulse in vitals.everyone:
            yield from self._absent(pulse, vitals)
        if vitals.started_at_s is None:
            return
        for pulse in vitals.everyone:
            yield from self._silent(pulse, vitals)
        yield from self._starved(vitals)
        yield from self._stale(vitals)
        yield from self._off_ratio(vitals)
        yield from self._unevaluated(vitals)
        for pulse in vitals.explorers:
            yield from self._not_finite(pulse)

    def _absent(self, pulse: Pulse, vitals: Vitals) -> Iterator[StandingWarning]:
        if pulse.absent == STARTING:
            if self._is_late("not_ready", pulse.name, vitals.now_s - pulse.since_s, self.limits.ready_s):
                what = f"the {pulse.name} is not ready after {vitals.now_s - pulse.since_s:.0f} s"
                why = _WHY.get(pulse.doing, "") if pulse.beat_s >= pulse.since_s else "it has not begun"
                yield StandingWarning("not_ready", pulse.name, pulse.since_s, what, why, f"the {pulse.name} is ready")
        elif pulse.absent and pulse.absent != FINISHED:
            what = f"the {pulse.name} {pulse.absent}"
            yield StandingWarning("absent", pulse.name, pulse.since_s, what, "", "", is_quiet=True)

    def _silent(self, pulse: Pulse, vitals: Vitals) -> Iterator[StandingWarning]:
        """It is in its place, and has not come around for too long."""
        if pulse.absent or pulse.doing in _PATIENT:
            return
        if pulse is vitals.evaluator and pulse.doing == Doing.WAITING_FOR_WEIGHTS:
            return  # it has evaluated the newest
        since_s = max(pulse.beat_s, pulse.since_s, vitals.started_at_s or 0.0)
        silent_s = vitals.now_s - since_s
        if not self._is_late("silent", pulse.name, silent_s, self.limits.silent_s):
            return
        sends = "has sent nothing" if pulse in vitals.explorers else "gives no sign of life"
        what = f"the {pulse.name} {sends} for {silent_s:.0f} s"
        why = _WHY.get(pulse.doing, "is it stuck?")
        if pulse.doing == Doing.WAITING_FOR_ACTIONS and vitals.inference.absent == FINISHED:  # it acts by itself
            why = _WHY[Doing.ACTING]
        elif pulse.doing == Doing.WAITING_FOR_ACTIONS:
            why = f"it waits for actions, and the inference server {vitals.inference.absent or 'does not answer'}"
        yield StandingWarning("silent", pulse.name, since_s, what, why, f"the {pulse.name} goes on")

    def _starved(self, vitals: Vitals) -> Iterator[StandingWarning]:
        """No steps reach a learner that would take them."""
        learner, at_work = vitals.learner, [one for one in vitals.explorers if _should_send(one)]
        since_s = max(vitals.steps_at_s, learner.since_s, vitals.started_at_s or 0.0)
        starved_s = vitals.now_s - since_s
        if learner.absent or learner.doing != Doing.WAITING_FOR_STEPS or not at_work:
            return
        if not self._is_late("starved", learner.name, starved_s, self.limits.starved_s):
            return
        quiet = [one.name for one in at_work if one.absent or vitals.now_s - one.beat_s > self.limits.starved_s / 2]
        why = f"nothing comes from {', '.join(quiet)}" if quiet else "explorers run, but nothing of theirs arrives"
        what = f"the learner has had no steps for {starved_s:.0f} s"
        yield StandingWarning("starved", learner.name, since_s, what, why, "steps reach the learner again")

    def _stale(self, vitals: Vitals) -> Iterator[StandingWarning]:
        """Somebody has acted with weights that were replaced long before."""
        if not self._published:
            return
        at_s, version, acts = self._published[0]
        if vitals.now_s - at_s < self.limits.stale_s:
            return
        for pulse in vitals.everyone:
            is_acting = pulse.acts > acts.get(pulse.name, pulse.acts) + 1
            if is_acting and not pulse.absent and 0 < pulse.acted_version < version:
                what = f"the {pulse.name} acts with weights {pulse.acted_version}"
                why = f"{version} were there {vitals.now_s - at_s:.0f} s ago, {vitals.newest_version} are the newest"
                yield StandingWarning(
                    "stale", pulse.name, at_s, what, why, f"the {pulse.name} acts with newer weights again"
                )

    def _off_ratio(self, vitals: Vitals) -> Iterator[StandingWarning]:
        """Learning makes more or fewer updates of what is inserted than was asked for."""
        if not self._learned or not vitals.asked_ratio:
            return
        at_s, inserted, updates = self._learned[0]
        due = vitals.asked_ratio * (vitals.inserted - inserted)
        missing = abs(vitals.updates - updates - due) - self.limits.ratio_tolerance * due - vitals.ratio_slack
        if vitals.now_s - at_s < self.limits.ratio_s or missing <= 0:
            return
        achieved = (vitals.updates - updates) / max(vitals.inserted - inserted, 1.0)
        what = f"the replay ratio is {achieved:.3f} over the last {vitals.now_s - at_s:.0f} s"
        why = f"--replay-ratio asks for {vitals.asked_ratio:g}; learning is not what the settings say"
        yield StandingWarning("replay_ratio", "learner", at_s, what, why, "the replay ratio is as it was asked for")

    def _unevaluated(self, vitals: Vitals) -> Iterator[StandingWarning]:
        """Newer weights wait, and no evaluation comes to its end."""
        pulse = vitals.evaluator
        if pulse.absent or pulse.doing == Doing.PAUSING or vitals.newest_version <= vitals.evaluated_version:
            return
        since_s = max(vitals.evaluated_at_s, pulse.since_s, vitals.started_at_s or 0.0)
        if not self._is_late("unevaluated", pulse.name, vitals.now_s - since_s, self.limits.unevaluated_s):
            return
        what = f"no evaluation has ended for {vitals.now_s - since_s:.0f} s"
        why = "its episodes are long or its envs slow; fewer --eval-episodes make it shorter"
        yield StandingWarning("unevaluated", pulse.name, since_s, what, why, "an evaluation has ended")

    def _not_finite(self, pulse: Pulse) -> Iterator[StandingWarning]:
        """An env gives numbers that are not finite."""
        broken = self._broken[pulse.name]
        if not broken.since_s:
            return
        what = f"{named_env(pulse.not_finite_env)} gives a {WHAT[pulse.not_finite_what]} that is not finite"
        why = "such steps are not learned from, and counted as faults; look into the env"
        over = f"all rewards and observations of the {pulse.name} are finite again"
        yield StandingWarning("not_finite", pulse.name, broken.since_s, what, why, over)

    def _is_late(self, name: str, who: str, lasted_s: float, limit_s: float) -> bool:
        return lasted_s > max(limit_s, self._patience_s.get((name, who), 0.0))

    def _remember(self, vitals: Vitals) -> None:
        now_s = vitals.now_s
        self._published.append((now_s, vitals.newest_version, {one.name: one.acts for one in vitals.everyone}))
        while len(self._published) > 1 and now_s - self._published[1][0] >= self.limits.stale_s:
            self._published.popleft()
        if self._learned and (vitals.updates < self._learned[-1][2] or vitals.inserted < self._learned[-1][1]):
            self._learned.clear()  # a learner that was started again
        if vitals.updates > 0 and vitals.inserted > 0:  # a resumed run has updates before it counts what it inserted
            self._learned.append((now_s, vitals.inserted, vitals.updates))
        while len(self._learned) > 1 and now_s - self._learned[1][0] >= self.limits.ratio_s:
            self._learned.popleft()
        for pulse in vitals.explorers:
            broken = self._broken.setdefault(pulse.name, _Broken())
            if pulse.not_finite > broken.steps:
                broken.steps, broken.last_s = pulse.not_finite, now_s
                broken.since_s = broken.since_s or now_s
            elif now_s - broken.last_s > self.limits.finite_s:
                broken.since_s = 0.0


def _should_send(explorer: Pulse) -> bool:
    return explorer.doing not in (Doing.FINISHED, Doing.RESTING, Doing.LENDING_ENVS) and explorer.absent != FINISHED
