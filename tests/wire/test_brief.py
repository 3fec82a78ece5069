from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from multiserverrl.wire.brief import brief, key_fault
from tests.wire.strategies import TREES


@given(TREES)
def test_any_value_can_be_told_in_a_line(value: Any) -> None:
    assert len(brief(value)) < 200


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("left", "'left'"),
        ("x" * 500, repr("x" * 80) + "…"),
        (10**5000, "an integer of 16610 bits"),
        (deep(100_000), "a list of 1"),
        ({"a": 1}, "a dict of 1"),
        (np.array([1.5, np.nan]), "[1.5, nan]"),
        (np.zeros((1 << 20,), np.uint8), "an array uint8[1048576]"),
        (np.float32(0.5), "0.5"),
        (object(), "a object"),
    ],
    ids=range(9),
)
def test_what_is_huge_or_deep_is_only_named(value: Any, told: str) -> None:
    tracemalloc.start()
    try:
        assert brief(value) == told
        assert tracemalloc.get_traced_memory()[1] < 2**14
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("value", "told"),
    [({}, "without 'a', 'b'"), ({"a": 1}, "without 'b'"), ({"a": 1, "b": 2, 10**5000: 3}, "with an integer of ")],
)
def test_keys_are_told_by_what_is_wrong_with_them(value: Any, told: str) -> None:
    assert key_fault(value, ["a", "b"]).startswith(told)
