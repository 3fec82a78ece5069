"""What a row says of its starts."""

from __future__ import annotations

import pytest

from rows import Part, Row, Settings, Start, Unavailable, shown


def no_start(settings: Settings) -> Start:
    raise AssertionError("nothing is measured here")


def start(figure: float, **curve: float) -> Start:
    return Start(Part(1000.0, 1000.0 * figure, figure), {name: Part(1.0, 1.0, at) for name, at in curve.items()})


ROW = Row("W", "an env", "a reference", 0.8, no_start)


def test_the_figure_is_the_median_with_its_range() -> None:
    assert "0.900 (0.500–0.950)" in shown(ROW, [start(0.9), start(0.5), start(0.95)])


@pytest.mark.parametrize(("figures", "said"), [((0.7, 0.8, 0.9), "ok"), ((0.7, 0.7, 0.9), "short")])
def test_the_median_decides(figures: tuple[float, ...], said: str) -> None:
    assert shown(ROW, [start(figure) for figure in figures]).endswith(said)


def test_a_figure_may_be_a_most() -> None:
    memory = Row("M", "a server", "-", 250.0, no_start, is_at_most=True)
    assert (memory.verdict(249.0), memory.verdict(251.0)) == ("ok", "short")


def test_a_curve_has_a_line_a_point_with_the_median_of_the_starts() -> None:
    lines = shown(ROW, [start(0.9, one=0.1, two=0.4), start(0.9, one=0.2, two=0.5), start(0.9, one=0.3, two=0.6)])
    assert [("one" in line, "0.200" in line) for line in lines.splitlines()[1:]] == [(True, True), (False, False)]


def test_split_needs_a_second_core() -> None:
    assert Settings(1.0, 0, 0).server_core("same") == 0
    assert Settings(1.0, 0, 3).server_core("split") == 3
    with pytest.raises(Unavailable, match="two cores"):
        Settings(1.0, 0, 0).server_core("split")
