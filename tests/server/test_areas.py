"""server/areas.py: what a shard writes of a lane's body, and that it touches no other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from multiserverrl.memory import BlockHandle
from multiserverrl.server.areas import Area
from multiserverrl.server.commands import MakeShard
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import EnvInfo

BOX = spaces.Box(0, 255, (2, 3), np.uint8)
SPEC = MakeShard(1, EnvInfo("Env", {}, {}, []), None, b"", "next_step", BlockHandle("memfd", "", 0), 4, 1, 2)


def area_of(space: spaces.Space[Any]) -> tuple[Area, StepLayout, bytearray]:
    """Rows 1 and 2 of a lane of four."""
    layout = StepLayout(space, 4)
    body = bytearray(layout.size_bytes)
    return Area(layout, memoryview(body), SPEC, {}), layout, body


def test_observations_that_fit_are_stacked_into_the_shards_own_rows() -> None:
    area, layout, body = area_of(BOX)
    observations = [np.full((2, 3), row, np.uint8) for row in (7, 9)]
    assert area.fits(observations) and area.stack(observations)
    assert [int(array.max()) for array in layout.arrays(body)[0]] == [0, 7, 9, 0]


@pytest.mark.parametrize(
    "odd",
    [np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.int64), [[0] * 3] * 2, None],
    ids=["shape", "dtype", "list", "none"],
)
def test_one_that_does_not_fit_is_not_stacked_and_nothing_is_promised(odd: Any) -> None:
    area, _, _ = area_of(BOX)
    observations = [np.ones((2, 3), np.uint8), odd]
    assert not area.fits(observations) and not area.stack(observations)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Dict(a=BOX), spaces.Text(4)])
def test_spaces_of_another_kind_are_written_row_by_row(space: spaces.Space[Any]) -> None:
    area, _, _ = area_of(space)
    observations = [space.sample(), space.sample()]
    assert not area.fits(observations) and not area.stack(observations)
