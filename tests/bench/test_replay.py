"""What a prioritised batch costs is held against what is asked; no figure is asserted here."""

from __future__ import annotations

import pytest

from replay import prioritised_over_uniform, verdict


def test_each_size_has_its_line_and_the_dearest_counts(capsys: pytest.CaptureFixture[str]) -> None:
    dearest = prioritised_over_uniform([5000, 10_000], batch=16, batches=8)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["5,000", "10,000"]
    assert dearest == pytest.approx(max(float(line.split()[3]) for line in lines), abs=0.01)


def test_more_than_three_uniform_batches_are_too_many() -> None:
    assert [verdict(dearest) for dearest in (2.9, 3.0, 3.1)] == ["holds", "holds", "SHORT"]
