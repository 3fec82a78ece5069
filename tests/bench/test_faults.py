"""How a row of the fault matrix is judged and shown."""

from __future__ import annotations

import gymnasium
import pytest

import faults
from faults import all_rows, chosen_rows
from matrix import (
    Effort,
    FaultRow,
    Figure,
    Seen,
    Unavailable,
    as_markdown,
    as_summary,
    as_text,
    at_least,
    at_most,
    outcome_of,
)
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


SHORT = Seen("3 times", "nothing wrong", True, (at_most(2, "s", "heal", 2.5), at_least(90, "%", "others", 95)))
JUDGED = Effort(False, judges_figures=True)


def test_a_figure_that_is_short_makes_a_row_slow_and_breaks_it_only_where_figures_are_judged() -> None:
    slow, broken = outcome_of(row(SHORT), Effort(False)), outcome_of(row(SHORT), JUDGED)
    assert (slow.verdict, broken.verdict) == ("holds, slow", "BROKEN")
    for outcome in (slow, broken):
        for told in (as_text(outcome), as_markdown(outcome), as_summary([outcome])):
            assert "heal 2.5 of 2 s" in told and "others" not in told


@pytest.mark.parametrize(
    ("figure", "is_short"),
    [
        (at_most(2, "s", "heal", 2.0), False),
        (at_most(2, "s", "heal", 2.1), True),
        (at_least(90, "%", "others", 90.0), False),
        (at_least(90, "%", "others", 89.0), True),
        (at_most(2, "s", "heal", float("nan")), True),
        (at_least(90, "%", "others", float("nan")), True),
    ],
)
def test_a_figure_is_short_when_it_is_worse_than_promised_or_none(figure: Figure, is_short: bool) -> None:
    assert figure.is_short == is_short


def test_wrong_behaviour_breaks_a_row_whatever_its_figures() -> None:
    seen = Seen("3 times", "1 wrong", False, (at_most(2, "s", "heal", 1.0),))
    assert outcome_of(row(seen), Effort(False)).verdict == "BROKEN"


def test_the_last_lines_name_the_rows_that_did_not_hold_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, well = Seen("3 times", "1 wrong", False), Seen("3 times", "nothing wrong", True)
    rows = [row(seen) for seen in (wrong, well, SHORT, Unavailable("no root"), well)]
    monkeypatch.setattr(faults, "chosen_rows", lambda names: rows)
    monkeypatch.setattr("sys.argv", ["faults.py"])
    with pytest.raises(SystemExit) as ended:
        faults.main()
    assert ended.value.code == 1
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "5 rows: 2 holds; 1 left out; 1 holds, slow; 1 BROKEN",
        "left out 1: a fault: no root",
        "holds, slow 1: a fault: heal 2.5 of 2 s",
        "BROKEN 1: a fault: 1 wrong",
    ]


@pytest.mark.parametrize(("flag", "code"), [("--rows=", 0), ("--judge-figures", 1), ("--whole", 1)])
def test_figures_are_judged_in_the_whole_form_and_on_request(
    monkeypatch: pytest.MonkeyPatch, flag: str, code: int
) -> None:
    monkeypatch.setattr(faults, "chosen_rows", lambda names: [row(SHORT)])
    monkeypatch.setattr("sys.argv", ["faults.py", flag])
    with pytest.raises(SystemExit) as ended:
        faults.main()
    assert ended.value.code == code


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
