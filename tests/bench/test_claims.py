"""When a training row's figures hold, and how they are shown."""

from __future__ import annotations

import pytest

from claims import Row, at_least, at_most, heading, markdown, seed_line, seeds_of, verdict

ROW = Row(
    "a-row", "what it is", "0-2", ("solved", "wall_s", "confirm"),
    (
        at_least("solved", 1.0, of="least"), at_most("wall_s", 1.5), at_most("wall_s", 6.0, of="most"),
        at_least("confirm", 460.0),
    ),
    lambda seed: {},
)  # fmt: skip


def seeds(*found: tuple[float, float]) -> list[dict[str, float]]:
    return [{"solved": 1.0, "wall_s": wall_s, "confirm": confirm} for wall_s, confirm in found]


def test_a_row_holds_by_its_medians() -> None:
    assert ROW.holds(seeds((1.0, 300.0), (1.5, 460.0), (5.0, 500.0)))
    assert not ROW.holds(seeds((1.0, 500.0), (1.6, 500.0), (5.0, 500.0)))
    assert not ROW.holds(seeds((1.0, 400.0), (1.0, 459.0), (1.0, 500.0)))


def test_the_worst_seed_may_be_asked_for() -> None:
    assert not ROW.holds(seeds((1.0, 500.0), (1.0, 500.0), (6.1, 500.0)))
    every_seed = at_least("confirm", 200.0, of="least")
    assert every_seed.holds(seeds((1.0, 200.0), (25.0, 210.0)))
    assert not every_seed.holds(seeds((1.0, 199.0), (1.0, 210.0), (1.0, 220.0)))


def test_one_seed_that_is_not_solved_is_enough_not_to_hold() -> None:
    assert not ROW.holds([*seeds((1.0, 500.0), (1.0, 500.0)), {"solved": 0.0}])


def test_a_seed_without_a_figure_is_as_bad_as_can_be() -> None:
    assert not at_most("wall_s", 6.0, of="most").holds([{}])
    assert not at_least("confirm", -1e9, of="least").holds([{"confirm": 1.0}, {}])


def test_each_claim_is_shown_beside_what_was_asked() -> None:
    shown = verdict(ROW, seeds((1.0, 300.0), (2.0, 461.0), (3.0, 500.0))).splitlines()
    assert [line.split() for line in shown] == [
        ["solved", "1", "(1–1)", "least", ">=", "1", "holds"],
        ["wall_s", "2", "(1–3)", "median", "<=", "1.5", "SHORT"],
        ["wall_s", "2", "(1–3)", "most", "<=", "6", "holds"],
        ["confirm", "461", "(300–500)", "median", ">=", "460", "holds"],
        ["a-row:", "SHORT"],
    ]


def test_the_markdown_table_has_a_line_a_claim() -> None:
    table = markdown([(ROW, seeds((0.87, 500.0)))]).splitlines()
    assert len(table) == 2 + len(ROW.claims)
    assert table[3] == "| a-row | 1 | wall_s | 0.87 (0.87–0.87) | median <= 1.5 | holds |"


def test_columns_stand_below_their_names_and_what_is_missing_is_a_dash() -> None:
    line = seed_line(ROW, 3, {"solved": 0.0, "confirm": 500.0})
    assert line.split() == ["3", "0", "–", "500"]
    assert len(line) == len(heading(ROW))


def test_seeds_are_a_range_or_one() -> None:
    assert seeds_of("0-2") == [0, 1, 2]
    assert seeds_of("7") == [7]
    for wrong in ("", "a", "4-0"):
        with pytest.raises(ValueError, match="write first-last"):
            seeds_of(wrong)
