"""The model of the row about a long round trip."""

from __future__ import annotations

import pytest

from round_trip import LANE_ENVS, ROUND_TRIP_S, bound


def test_the_link_is_the_limit_while_the_server_has_time_left() -> None:
    alone = LANE_ENVS / (ROUND_TRIP_S + 0.002)
    assert bound(1, 2000.0, 0.002) == pytest.approx(alone)
    assert bound(8, 2000.0, 0.002) == pytest.approx(8 * alone)


def test_the_server_is_the_limit_beyond() -> None:
    assert bound(32, 2000.0, 0.002) == 2000.0
