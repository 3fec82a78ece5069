"""What is told of a run that goes wrong, from numbers and times alone; and of real processes that stand still."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from multiserverrl.launch.watch import DIED, FINISHED, STARTING, STOPPED, Change, Limits, Pulse, Vitals, Watch
from multiserverrl.train.beats import Doing
from multiserverrl.train.finite import env_number

LIMITS = Limits(
    silent_s=5.0, starved_s=5.0, stale_s=5.0, ratio_s=10.0, ratio_tolerance=0.1, unevaluated_s=60.0,
    ready_s=20.0, finite_s=10.0,
)  # fmt: skip
LOOK_EVERY_S = 0.5


def healthy(now_s: float) -> Vitals:
    """A run of 1000 inserted transitions, 250 updates and 100 weights a second, in which everyone beats."""
    acting: dict[str, Any] = {"acted_version": int(100 * now_s), "acts": 50 * now_s}
    return Vitals(
        now_s,
        learner=Pulse("learner", now_s, Doing.WAITING_FOR_STEPS),
        inference=Pulse("inference", now_s, Doing.WAITING_FOR_REQUESTS, **acting),
        evaluator=Pulse("evaluator", now_s, Doing.PLAYING),
        explorers=(Pulse("explorer-0", now_s, Doing.STEPPING), Pulse("explorer-1", now_s, Doing.STEPPING)),
        steps_at_s=now_s,
        newest_version=int(100 * now_s),
        inserted=1000 * now_s,
        updates=250 * now_s,
        asked_ratio=0.25,
        ratio_slack=20.0,
        evaluated_version=int(100 * now_s) - 50,
        evaluated_at_s=now_s,
    )


class Story:
    """A watch over a run that is healthy but for what `broken` makes of each moment."""

    def __init__(self) -> None:
        self.watch = Watch(LIMITS)
        self.now_s = 0.0

    def goes_on(self, until_s: float, broken: Any = lambda vitals: vitals) -> list[Change]:
        """All changes until then."""
        told = []
        while self.now_s < until_s:
            self.now_s += LOOK_EVERY_S
            told += self.watch.look(broken(healthy(self.now_s)))
        return told


def begun(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.warning.name, change.warning.who) for change in changes if change.lasted_s is None]


def ended(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.warning.name, change.warning.who) for change in changes if change.lasted_s is not None]


def without_steps(vitals: Vitals, doing: Doing, since_s: float = 10.0) -> Vitals:
    """Both explorers have been at this since then, and nothing has arrived or been learned."""
    then = healthy(since_s)
    stuck = tuple(Pulse(one.name, since_s, doing) for one in vitals.explorers)
    return replace(
        vitals, explorers=stuck, steps_at_s=since_s, inserted=then.inserted, updates=then.updates,
        newest_version=then.newest_version, evaluated_version=then.newest_version,
        inference=replace(then.inference, beat_s=vitals.now_s),
    )  # fmt: skip


def test_nothing_is_said_of_a_healthy_run() -> None:
    assert Story().goes_on(300.0) == []


def test_an_explorer_whose_envs_hang_is_named_once_with_why_and_its_end_is_told() -> None:
    story = Story()

    def hung(vitals: Vitals) -> Vitals:
        first, second = vitals.explorers
        return replace(vitals, explorers=(replace(first, beat_s=10.0), second))

    told = story.goes_on(10.0) + story.goes_on(30.0, hung)
    assert begun(told) == [("silent", "explorer-0")]
    text = told[0].warning.text
    assert "explorer-0 has sent nothing for 6 s" in text
    assert "its envs do not answer" in text
    assert story.watch.standing[0].since_s == 10.0
    again = story.goes_on(31.0)
    assert ended(again) == [("silent", "explorer-0")]
    assert again[0].lasted_s == pytest.approx(20.5)
    assert story.watch.standing == []


def test_a_silence_that_ended_by_itself_is_told_again_only_when_it_is_twice_as_long() -> None:
    story = Story()

    def silent_since(since_s: float) -> Any:
        return lambda vitals: replace(vitals, evaluator=replace(vitals.evaluator, beat_s=since_s))

    assert begun(story.goes_on(18.0, silent_since(10.0))) == [("silent", "evaluator")]
    story.goes_on(20.0)
    assert begun(story.goes_on(36.0, silent_since(20.0))) == []
    assert begun(story.goes_on(40.0, silent_since(20.0))) == [("silent", "evaluator")]


def test_explorers_that_wait_for_a_busy_learner_are_no_warning() -> None:
    def bound(vitals: Vitals) -> Vitals:
        waiting = tuple(Pulse(one.name, 10.0, Doing.WAITING_FOR_LEARNER) for one in vitals.explorers)
        return replace(
            vitals, explorers=waiting, learner=replace(vitals.learner, doing=Doing.UPDATING), steps_at_s=10.0
        )

    assert Story().goes_on(60.0, bound) == []


def test_a_learner_that_hangs_is_named_and_what_it_was_at() -> None:
    def hung(vitals: Vitals) -> Vitals:
        return replace(
            vitals, learner=Pulse("learner", 10.0, Doing.SAVING), newest_version=1000, inserted=1e4, updates=2500
        )

    told = Story().goes_on(30.0, lambda vitals: hung(vitals) if vitals.now_s > 10 else vitals)
    assert begun(told) == [("silent", "learner")]
    assert "writes a checkpoint" in told[0].warning.text


def test_a_learner_without_steps_is_starved_and_who_sends_nothing_is_named() -> None:
    told = Story().goes_on(30.0, lambda vitals: without_steps(vitals, Doing.STEPPING) if vitals.now_s > 10 else vitals)
    assert set(begun(told)) == {("silent", "explorer-0"), ("silent", "explorer-1"), ("starved", "learner")}
    starved = next(change.warning for change in told if change.warning.name == "starved")
    assert starved.why == "nothing comes from explorer-0, explorer-1"


def test_a_learner_whom_the_steps_of_running_explorers_do_not_reach_is_starved() -> None:
    def lost(vitals: Vitals) -> Vitals:
        return replace(without_steps(vitals, Doing.STEPPING), explorers=vitals.explorers)

    told = Story().goes_on(30.0, lambda vitals: lost(vitals) if vitals.now_s > 10 else vitals)
    assert begun(told) == [("starved", "learner")]
    assert "nothing of theirs arrives" in told[0].warning.why


@pytest.mark.parametrize("doing", [Doing.LENDING_ENVS, Doing.FINISHED])
def test_explorers_that_need_not_send_starve_nobody(doing: Doing) -> None:
    assert Story().goes_on(60.0, lambda vitals: without_steps(vitals, doing) if vitals.now_s > 10 else vitals) == []


def test_an_inference_server_that_does_not_answer_is_named_and_so_is_who_waits_for_it() -> None:
    def hung(vitals: Vitals) -> Vitals:
        still = without_steps(vitals, Doing.WAITING_FOR_ACTIONS)
        return replace(still, inference=replace(still.inference, beat_s=10.0, doing=Doing.ACTING))

    told = Story().goes_on(16.0, lambda vitals: hung(vitals) if vitals.now_s > 10 else vitals)
    assert ("silent", "inference") in begun(told)
    waiting = next(change.warning for change in told if change.warning.who == "explorer-0")
    assert waiting.why == "it waits for actions, and the inference server does not answer"


def test_an_explorer_that_acts_by_itself_waits_for_no_inference_server() -> None:
    def hung(vitals: Vitals) -> Vitals:
        still = without_steps(vitals, Doing.WAITING_FOR_ACTIONS)
        return replace(still, inference=Pulse("inference", absent=FINISHED))

    told = Story().goes_on(16.0, lambda vitals: hung(vitals) if vitals.now_s > 10 else vitals)
    waiting = next(change.warning for change in told if change.warning.who == "explorer-0")
    assert "it computes actions" in waiting.why


def test_actions_of_weights_that_were_replaced_long_ago_are_stale() -> None:
    def stale(vitals: Vitals) -> Vitals:
        return replace(vitals, inference=replace(vitals.inference, acted_version=1000))

    story = Story()
    told = story.goes_on(10.0) + story.goes_on(20.0, stale)
    assert begun(told) == [("stale", "inference")]
    assert "acts with weights 1000" in told[0].warning.text
    assert ended(story.goes_on(30.0)) == [("stale", "inference")]


def test_one_whom_nobody_asks_for_actions_is_not_stale() -> None:
    def unasked(vitals: Vitals) -> Vitals:
        return replace(vitals, inference=replace(vitals.inference, acted_version=1000, acts=500.0))

    assert Story().goes_on(60.0, lambda vitals: unasked(vitals) if vitals.now_s > 10 else vitals) == []


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_replay_ratio_that_is_not_the_one_asked_for_is_told(share: float) -> None:
    def off(vitals: Vitals) -> Vitals:
        return replace(vitals, updates=healthy(10.0).updates + share * 250 * (vitals.now_s - 10.0))

    story = Story()
    told = story.goes_on(10.0) + story.goes_on(30.0, off)
    assert begun(told) == [("replay_ratio", "learner")]
    assert f"{share * 0.25:.3f}" in story.watch.standing[0].text


def test_updates_that_were_lost_with_a_learner_are_no_other_ratio() -> None:
    story = Story()
    assert story.goes_on(30.0) == []
    assert story.goes_on(60.0, lambda vitals: replace(vitals, updates=vitals.updates - 2000)) == []


def test_what_a_resumed_run_had_inserted_before_is_no_other_ratio() -> None:
    def resumed(vitals: Vitals) -> Vitals:
        return replace(
            vitals, inserted=0.0 if vitals.now_s < 5.0 else vitals.inserted + 1e6, updates=vitals.updates + 1e5
        )

    assert Story().goes_on(60.0, resumed) == []


def test_an_evaluator_that_evaluates_nothing_for_long_is_told() -> None:
    def endless(vitals: Vitals) -> Vitals:
        return replace(vitals, evaluated_version=1000, evaluated_at_s=10.0)

    story = Story()
    told = story.goes_on(10.0) + story.goes_on(80.0, endless)
    assert begun(told) == [("unevaluated", "evaluator")]
    assert "no evaluation has ended for 60 s" in told[0].warning.text


def test_numbers_that_are_not_finite_are_told_with_their_env_until_none_has_come_for_a_time() -> None:
    def broken(vitals: Vitals) -> Vitals:
        first, second = vitals.explorers
        count = min(vitals.now_s, 15.0) - 10.0
        third = env_number(group=1, row=3)
        return replace(
            vitals,
            explorers=(first, replace(second, not_finite=count, not_finite_env=third, not_finite_what=2)),
        )

    story = Story()
    told = story.goes_on(10.0) + story.goes_on(40.0, broken)
    assert begun(told) == [("not_finite", "explorer-1")]
    assert "env 3 of group 1 gives a reward that is not finite" in told[0].warning.text
    assert ended(told) == [("not_finite", "explorer-1")]
    assert told[-1].lasted_s == pytest.approx(15.0, abs=1.0)


@pytest.mark.parametrize("absent", [STOPPED, DIED])
def test_a_process_that_is_not_in_its_place_stands_among_the_warnings_and_is_told_of_by_who_saw_it_go(
    absent: str,
) -> None:
    def gone(vitals: Vitals) -> Vitals:
        return replace(vitals, inference=replace(vitals.inference, absent=absent, since_s=10.0, beat_s=10.0))

    story = Story()
    assert story.goes_on(30.0, gone) == []
    assert [one.text for one in story.watch.standing] == [f"the inference {absent}"]
    assert story.goes_on(31.0) == []
    assert story.watch.standing == []


def test_a_process_that_has_finished_or_just_come_back_is_no_warning() -> None:
    def done(vitals: Vitals) -> Vitals:
        first, second = vitals.explorers
        back = replace(second, beat_s=10.0, since_s=vitals.now_s - 4.0)
        return replace(vitals, explorers=(replace(first, absent=FINISHED, beat_s=10.0), back))

    assert Story().goes_on(60.0, done) == []


def test_a_process_that_takes_long_to_start_is_told_with_what_it_is_at() -> None:
    def late(vitals: Vitals) -> Vitals:
        starting = replace(vitals.explorers[0], absent=STARTING, since_s=1.0, beat_s=2.0, doing=Doing.OPENING_ENVS)
        return replace(vitals, explorers=(starting,), started_at_s=None, steps_at_s=0.0)

    told = Story().goes_on(30.0, late)
    assert begun(told) == [("not_ready", "explorer-0")]
    assert "it opens its envs" in told[0].warning.text
