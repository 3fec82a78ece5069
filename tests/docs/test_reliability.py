"""docs/reliability.md has the rows of the fault matrix, as they are in the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import all_rows
from matrix import FaultRow

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", all_rows(), ids=lambda row: row.name)
def test_each_row_is_told(row: FaultRow) -> None:
    told = [line for line in PAGE.splitlines() if line.startswith(f"| {row.name} | ")]
    assert len(told) == 1
    assert row.fault in told[0] and row.promise in told[0]


def test_no_other_row_is_told() -> None:
    table = PAGE[PAGE.index("| # |") :].splitlines()[2:]
    told = [line.split(" | ")[0].removeprefix("| ") for line in table if line.startswith("| ")]
    assert told == [row.name for row in all_rows()]
