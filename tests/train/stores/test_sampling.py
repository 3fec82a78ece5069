from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multiserverrl.errors import RunError
from multiserverrl.train.algorithms.protocol import Updated
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.stores import sampling
from tests.train.stores.scenes import Declared, arrays_for, some_steps, store_on, taken, task_with

UNIFORM = TrainConfig(buffer_size=64, warmup_steps=10, batch_size=8, n_step=1)
CONFIG = replace(UNIFORM, prioritised=True, priority_exponent=0.7, importance_start=0.4, importance_steps=1000)
PLAIN = Declared(task_with(1))


def rows_of(store, batch) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Which rows a batch is of: every observation is another."""
    place = {tuple(obs): row for row, obs in enumerate(store.replay.arrays["obs"][: len(store)])}
    return np.array([place[tuple(obs)] for obs in batch["obs"]])


def filled(config: TrainConfig = CONFIG):  # type: ignore[no-untyped-def]
    """A full store in which row i had the error i / 10, and its p^α by equation 1, slowly."""
    store = taken(store_on(config, PLAIN), some_steps(60))
    errors = np.arange(64) / 10
    for first in range(0, 64, 8):
        store._learned_from = np.arange(first, first + 8)
        store.learned(Updated(0.0, -errors[first : first + 8].astype(np.float32)))
    return store, [(error + 1e-6) ** config.priority_exponent for error in errors]


def test_items_are_drawn_in_proportion_to_their_priorities() -> None:
    store, priorities = filled()
    drawn = np.concatenate([rows_of(store, store.batch()) for _ in range(5000)])
    share = np.bincount(drawn, minlength=64) / len(drawn)
    wanted = np.array(priorities) / sum(priorities)
    np.testing.assert_allclose(share, wanted, atol=4 * np.sqrt(wanted.max() / len(drawn)))
    assert share[0] < 1e-4 < wanted[1]


def test_the_parts_of_a_batch_are_of_equal_mass() -> None:
    store, priorities = filled()
    sums = np.cumsum(priorities) / sum(priorities)
    for _ in range(100):
        rows = rows_of(store, store.batch())
        part = np.arange(8)
        assert (sums[rows] >= part / 8 - 1e-6).all()
        assert ((sums - priorities / sum(priorities))[rows] <= (part + 1) / 8 + 1e-6).all()


def test_weights_undo_what_the_priorities_prefer_and_grow_to_do_so_wholly() -> None:
    for config, beta in ((replace(CONFIG, importance_steps=10**9), 0.4), (replace(CONFIG, importance_steps=1), 1.0)):
        store, priorities = filled(config)
        batch = store.batch()
        slow = [(64 * priorities[row] / sum(priorities)) ** -beta for row in rows_of(store, batch)]
        np.testing.assert_allclose(batch["importance"], np.array(slow) / max(slow), rtol=1e-4)
        assert batch["importance"].dtype == np.float32
        assert "priority" not in batch


def test_new_items_have_the_highest_priority_so_far() -> None:
    store = taken(store_on(CONFIG, PLAIN), some_steps(10))
    assert set(store.replay.arrays["priority"][: len(store)].tolist()) == {1.0}
    store.batch()
    store.learned(Updated(0.0, np.array([30.0, *[0.1] * 7], np.float32)))
    before = len(store)
    taken(store, some_steps(1, seed=1))
    np.testing.assert_allclose(store.replay.arrays["priority"][before : len(store)], 30.000001**0.7, rtol=1e-6)


def test_priorities_are_that_old_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "AHEAD", 0.5)  # 4 batches of 8 of 64
    store, _ = filled()
    store.batch()
    store._learned_from = np.arange(64)
    store.learned(Updated(0.0, np.eye(64, dtype=np.float32)[5] * 1e9))
    known = [bool((rows_of(store, store.batch()) == 5).all()) for _ in range(4)]
    assert known == [False, False, False, True]


def test_what_was_drawn_ahead_and_every_priority_outlive_the_learner_and_a_resume() -> None:
    arrays = arrays_for(CONFIG, PLAIN)
    first = taken(store_on(CONFIG, PLAIN, arrays), some_steps(60))
    for seed in range(5):
        first.batch()
        first.learned(Updated(0.0, np.random.default_rng(seed).normal(size=8).astype(np.float32)))
    contents, state = {name: array.copy() for name, array in first.contents().items()}, first.state()
    outlived, restored = store_on(CONFIG, PLAIN, arrays), store_on(CONFIG, PLAIN)
    for store in (outlived, restored):
        store.restore(contents, state)
    for name, array in contents.items():
        np.testing.assert_array_equal(restored.contents()[name], array, err_msg=name)
    for _ in range(10):
        first_batch, second_batch = restored.batch(), store_of_copy(contents, state).batch()
        np.testing.assert_array_equal(first_batch["obs"], second_batch["obs"])
        contents, state = {name: array.copy() for name, array in restored.contents().items()}, restored.state()
    np.testing.assert_array_equal(outlived.replay.arrays["priority"], first.replay.arrays["priority"])


def store_of_copy(contents, state):  # type: ignore[no-untyped-def]
    store = store_on(CONFIG, PLAIN)
    store.restore(contents, state)
    return store


def test_errors_that_are_not_finite_spoil_no_priority() -> None:
    store, _ = filled()
    store._learned_from = np.array([1, 2])
    before = store.replay.arrays["priority"].copy()
    store.learned(Updated(np.nan, np.array([np.nan, np.inf], np.float32)))
    np.testing.assert_array_equal(store.replay.arrays["priority"], before)


def test_an_algorithm_that_tells_no_errors_cannot_be_prioritised() -> None:
    store, _ = filled()
    store.batch()
    with pytest.raises(RunError, match="--prioritised"):
        store.learned(Updated(0.0))


def test_uniform_batches_have_no_weights() -> None:
    store = taken(store_on(UNIFORM, PLAIN), some_steps(60))
    assert "importance" not in store.batch()


def test_owed_batches_that_are_gathered_at_once_are_those_that_would_come_one_by_one() -> None:
    config = replace(UNIFORM, replay_ratio=1.0)
    ahead, single = (taken(store_on(config, PLAIN), some_steps(60)) for _ in range(2))
    assert ahead.owes(0)
    before = single.rng.bit_generator.state["state"]
    for _ in range(ahead._most_ahead):
        np.testing.assert_array_equal(ahead.batch()["obs"], single.batch()["obs"])  # `single` was never asked
    assert not ahead._ahead and ahead.rng.bit_generator.state == single.rng.bit_generator.state
    assert single.rng.bit_generator.state["state"] != before


def test_a_batch_that_was_gathered_before_something_was_inserted_is_not_learned_from() -> None:
    config = replace(UNIFORM, replay_ratio=1.0, buffer_size=12)
    steps = list(some_steps(40))
    store = taken(store_on(config, PLAIN), steps[:20])
    assert store.owes(0)
    store.batch()
    assert store._ahead
    old = {tuple(obs) for obs in store.replay.arrays["obs"]}
    taken(store, steps[20:])
    new = {tuple(obs) for obs in store.replay.arrays["obs"]}
    assert not old & new
    assert {tuple(obs) for obs in store.batch()["obs"]} <= new
