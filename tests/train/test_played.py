"""Episodes that were played before a resume count, whatever the groups are then."""

from __future__ import annotations

import numpy as np
import pytest

from multiserverrl.train.played import copies_of, restore_played


def groups(*sizes: int) -> list[np.ndarray]:
    return [np.zeros(size, np.int64) for size in sizes]


def test_the_same_groups_get_back_what_each_env_had() -> None:
    before, after = [np.array([3, 1, 2]), np.array([0, 9])], groups(3, 2)
    restore_played(copies_of(before), after)
    assert [array.tolist() for array in after] == [[3, 1, 2], [0, 9]]


@pytest.mark.parametrize("sizes", [(2, 2), (5,), (1, 1, 1), (20,)])
def test_other_groups_share_the_same_number_evenly(sizes: tuple[int, ...]) -> None:
    after = groups(*sizes)
    restore_played(copies_of([np.array([3, 1, 2]), np.array([0, 9])]), after)
    each = np.concatenate(after)
    assert each.sum() == 15
    assert each.max() - each.min() <= 1


def test_without_any_groups_or_anything_kept_nothing_is_played() -> None:
    restore_played({}, [])
    after = groups(2)
    restore_played({}, after)
    assert after[0].tolist() == [0, 0]
