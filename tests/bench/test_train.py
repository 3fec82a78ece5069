"""When a training row's figure holds."""

from __future__ import annotations

from typing import Any

import pytest

from train import ROWS, Row

ROW = Row("CartPole-v1", "0-2", (), most_wall_s=1.5, least_confirm=460.0)


def seeds(*found: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"solved": True, "wall_s": wall_s, "confirm": confirm} for wall_s, confirm in found]


def test_a_row_holds_by_its_medians() -> None:
    assert ROW.holds(seeds((1.0, 300.0), (1.5, 460.0), (9.0, 500.0)))
    assert not ROW.holds(seeds((1.0, 500.0), (1.6, 500.0), (9.0, 500.0)))
    assert not ROW.holds(seeds((1.0, 400.0), (1.0, 459.0), (1.0, 500.0)))


def test_one_seed_that_is_not_solved_is_enough_not_to_hold() -> None:
    assert not ROW.holds([*seeds((1.0, 500.0), (1.0, 500.0)), {"solved": False}])


def test_every_seed_may_be_asked_to_be_confirmed() -> None:
    row = Row("LunarLander-v3", "0-2", (), most_wall_s=20.0, least_confirm=200.0, is_every_seed_confirmed=True)
    assert row.holds(seeds((1.0, 200.0), (25.0, 210.0), (20.0, 220.0)))
    assert not row.holds(seeds((1.0, 199.0), (1.0, 210.0), (1.0, 220.0)))


def test_without_further_episodes_the_wall_alone_is_judged() -> None:
    assert ROW.holds([{"solved": True, "wall_s": 1.0}] * 3)


@pytest.mark.parametrize("name", ROWS)
def test_a_rows_seeds_are_a_range(name: str) -> None:
    first, last = map(int, ROWS[name].seeds.split("-"))
    assert first < last
