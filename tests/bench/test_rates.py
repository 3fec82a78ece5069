"""The measuring itself: which side runs when, and what the figure is made of."""

from __future__ import annotations

import pytest

from rates import in_turns, rate_of


def test_the_sides_take_turns_and_swap_their_order_each_time() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return 1.0

    in_turns(lambda _: side("reference"), lambda _: side("ours"), seconds=0.8)
    warm, turns = calls[:2], calls[2:]
    assert warm == ["reference", "ours"]
    assert turns == ["reference", "ours", "ours", "reference"] * 2


def test_the_figure_is_the_median_of_the_slices_own_ratios() -> None:
    speeds = iter([1.0, 10.0, 100.0])  # of the machine, which drifts from slice to slice
    now = [next(speeds)]
    count = [0]

    def side(rate: float) -> float:
        if count[0] in (4, 6):  # the two calls before warm both sides up
            now[0] = next(speeds)
        count[0] += 1
        return rate * now[0]

    part = in_turns(lambda _: side(2.0), lambda _: side(1.0), seconds=0.6)
    assert part.figure == pytest.approx(0.5)
    assert part.reference == pytest.approx(20.0)


def test_a_rate_steps_with_one_action_after_the_other_and_goes_on_where_it_stopped() -> None:
    seen: list[int] = []
    rate = rate_of(seen.append, [1, 2, 3], num_envs=1, stride=2)
    assert rate(0.0) > 0
    rate(0.0)
    assert seen == [1, 2, 3, 1]
