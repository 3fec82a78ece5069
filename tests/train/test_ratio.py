from __future__ import annotations

import numpy as np
import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.train.ratio import ReplayRatio


@pytest.mark.parametrize("updates_per_insert", [0.1, 0.25, 1 / 3, 1.0, 2.5, 8.0])
def test_a_learner_that_makes_what_it_owes_keeps_the_ratio_to_within_one_update(updates_per_insert: float) -> None:
    ratio, rng = ReplayRatio(updates_per_insert, warmup=50), np.random.default_rng(0)
    inserted = updates = 0
    for _ in range(500):
        inserted += int(rng.integers(0, 70))
        updates += ratio.owed(inserted, updates)
        assert ratio.owed(inserted, updates) == 0
        assert -1e-6 <= max(0, inserted - 50) * updates_per_insert - updates < 1 + 1e-6
    assert ratio.measured(inserted, updates) == pytest.approx(updates_per_insert, rel=0.01)


def test_nothing_is_owed_within_the_warm_up() -> None:
    ratio = ReplayRatio(0.25, warmup=500)
    assert ratio.owed(500, 0) == 0
    assert ratio.owed(504, 0) == 1
    assert ratio.measured(400, 0) == 0.0


@pytest.mark.parametrize("updates_per_insert", [0.1, 0.25, 0.7, 1.0, 3.0])
def test_the_allowed_inserts_are_exactly_those_after_which_an_update_is_owed(updates_per_insert: float) -> None:
    ratio = ReplayRatio(updates_per_insert, warmup=20)
    updates = 0
    for inserted in range(300):
        if ratio.owed(inserted, updates):
            assert ratio.inserts_allowed(inserted, updates) == 0
            updates += ratio.owed(inserted, updates)
        allowed = ratio.inserts_allowed(inserted, updates)
        assert allowed >= 1, "neither an update nor an insert: a deadlock"
        assert ratio.owed(inserted + allowed - 1, updates) == 0
        assert ratio.owed(inserted + allowed, updates) >= 1


@pytest.mark.parametrize("updates_per_insert", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_would_stand_still_is_refused(updates_per_insert: float) -> None:
    with pytest.raises(ConfigError, match="--replay-ratio"):
        ReplayRatio(updates_per_insert, warmup=0)


@pytest.mark.parametrize("updates_per_insert", [0.1, 0.7, 3.0])
def test_one_that_begins_in_the_middle_owes_nothing_for_what_was_before(updates_per_insert: float) -> None:
    for inserted, updates in [(900, 0), (900, 5000), (20, 0)]:
        ratio = ReplayRatio(updates_per_insert, warmup=50).beginning_at(inserted, updates)
        assert ratio.owed(inserted, updates) == 0
        first = max(50, inserted)
        assert ratio.owed(first + 100, updates) == int(100 * updates_per_insert + 1e-6)
        assert ratio.owed(inserted + ratio.inserts_allowed(inserted, updates), updates) >= 1
        assert ratio.measured(first + 1000, updates + 500) == pytest.approx(0.5)
