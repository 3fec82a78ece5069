"""How a row of the fault matrix is judged and shown."""

from __future__ import annotations

import gymnasium
import pytest

from faults import all_rows, chosen_rows
from matrix import Effort, FaultRow, Seen, Unavailable, as_markdown, as_text, outcome_of
from scene import local_walk, walk


def row(seen: Seen | Exception) -> FaultRow:
    def run(effort: Effort) -> Seen:
        if isinstance(seen, Exception):
            raise seen
        return seen

    return FaultRow("1", "a fault", "a promise", run)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (Seen("3 times", "nothing wrong", True), "holds"),
        (Seen("3 times", "1 wrong", False), "BROKEN"),
        (Unavailable("no root"), "left out"),
        (ZeroDivisionError("oh"), "BROKEN"),
    ],
)
def test_a_row_says_whether_its_promise_held(seen: Seen | Exception, verdict: str) -> None:
    outcome = outcome_of(row(seen), Effort(False))
    assert outcome.verdict == verdict
    assert verdict in as_text(outcome) and verdict in as_markdown(outcome)


def test_an_unexpected_error_is_named() -> None:
    assert "ZeroDivisionError: oh" in as_text(outcome_of(row(ZeroDivisionError("oh")), Effort(False)))


def test_the_rows_have_names_of_their_own() -> None:
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names)


def test_an_unknown_row_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="no row 999"):
        chosen_rows("999")


def test_walks_are_equal_only_when_every_step_is() -> None:
    assert local_walk("CartPole-v1", 2, 50) == local_walk("CartPole-v1", 2, 50)
    envs = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    doubled = walk(envs, 50, before_step=lambda step: envs.step([0, 0]) and None if step == 20 else None)  # type: ignore[func-returns-value]
    envs.close()
    assert doubled != local_walk("CartPole-v1", 2, 50)
