"""Watches a run: takes its vital signs from the cast and the counters, and tells what `Watch` finds in them."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable

from multiserverrl.launch.cast import Cast
from multiserverrl.launch.control import CounterTable
from multiserverrl.launch.roles import RunPlan
from multiserverrl.launch.watch import FINISHED, Limits, Pulse, StandingWarning, Vitals, Watch
from multiserverrl.observe.log import log
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.beats import Doing
from multiserverrl.train.channels import Evaluation

__all__ = ["LIMITS", "Watcher"]

LIMITS = Limits()
LOOK_EVERY_S = 0.25
NOBODY = Pulse("inference", absent=FINISHED)  # where explorers act by themselves
LOOKS = 40  # that are remembered of each explorer: 10 s


class Watcher:
    """`say` shows a line on the screen."""

    def __init__(self, plan: RunPlan, say: Callable[[str], None]) -> None:
        self._config, self._num_envs, self._say = plan.config, plan.seats.num_envs, say
        self._has_ratio = algorithm_for(plan.config, plan.task).storage != "rollouts"
        self._watch = Watch(LIMITS)
        self._look_at_s = 0.0
        self._seen: dict[str, deque[Doing]] = defaultdict(lambda: deque(maxlen=LOOKS))

    @property
    def standing(self) -> list[StandingWarning]:
        """The warnings of now."""
        return self._watch.standing

    @property
    def shares(self) -> dict[str, dict[Doing, float]]:
        """What each explorer was found at of late, as shares of all looks; the most frequent first."""
        return {
            name: {doing: count / len(seen) for doing, count in Counter(seen).most_common()}
            for name, seen in self._seen.items()
        }

    def look(self, cast: Cast, counters: CounterTable, evaluation: Evaluation | None) -> None:
        """Tell what begins and what ends, if it is time for a look."""
        now_s = time.monotonic()
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_EVERY_S
        vitals = self._vitals(now_s, cast, counters, evaluation)
        for pulse in vitals.explorers:
            self._seen[pulse.name].append(Doing.NOTHING if pulse.absent else pulse.doing)
        for change in self._watch.look(vitals):
            warning = change.warning
            if change.lasted_s is None:
                event = {"warning": warning.name, "of": warning.who, "what": warning.what, "why": warning.why}
                log("warning_begins", level=logging.WARNING, **event)
                self._say(f"warning: {warning.text}")
            else:
                lasted = {"warning": warning.name, "of": warning.who, "lasted_s": round(change.lasted_s, 1)}
                log("warning_ends", level=logging.WARNING, **lasted)
                self._say(f"{warning.over}, after {change.lasted_s:.0f} s")

    def _vitals(self, now_s: float, cast: Cast, counters: CounterTable, evaluation: Evaluation | None) -> Vitals:
        pulses = {
            role.name: Pulse(
                role.name,
                beat_s=counters.at(role.row, "beat_s"),
                doing=Doing(int(counters.at(role.row, "doing"))),
                since_s=since_s,
                absent=absent,
                acted_version=int(counters.at(role.row, "acted_version")),
                acts=counters.at(role.row, "batches"),
                not_finite=counters.at(role.row, "not_finite"),
                not_finite_env=int(counters.at(role.row, "not_finite_env")),
                not_finite_what=int(counters.at(role.row, "not_finite_what")),
            )
            for role, absent, since_s in cast.presence()
        }
        config, get = self._config, counters.get
        return Vitals(
            now_s,
            learner=pulses.pop("learner"),
            inference=pulses.pop("inference", NOBODY),
            evaluator=pulses.pop("evaluator"),
            explorers=tuple(pulses.values()),
            started_at_s=cast.started_at_s,
            steps_at_s=get("steps_at_s"),
            newest_version=int(get("weights_version")),
            inserted=get("inserted"),
            updates=get("updates"),
            asked_ratio=config.replay_ratio if self._has_ratio else None,
            ratio_slack=16 + 2 * config.publish_every + 2 * config.replay_ratio * self._num_envs,
            evaluated_version=evaluation.version if evaluation else 0,
            evaluated_at_s=get("evaluated_at_s"),
        )
