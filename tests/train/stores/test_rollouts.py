from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.protocol import Updated
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import new_arrays
from multiserverrl.train.stores import kept_steps, store_for, store_layout
from multiserverrl.train.stores.rollouts import RolloutStore
from multiserverrl.train.task import Task

TASK = Task(obs_shape=(2,), num_actions=2)
CONFIG = TrainConfig(algorithm="pqn", rollout_steps=3, reward_scale=0.5)
ALGORITHM = algorithm_for(CONFIG, TASK)


def steps(group: int, number: int, N: int = 2, *, valid: bool | list[bool] = True, version: int = 1) -> RawSteps:
    """Everything in them tells which they are."""
    obs = np.full((N, 2), 100.0 * group + number, np.float32)
    no = np.zeros(N, bool)
    return RawSteps(
        group, obs, np.full(N, number), np.full(N, float(number), np.float32), no, no, obs + 0.5,
        np.broadcast_to(valid, N).copy(), version, number,
    )  # fmt: skip


def new_store(arrays: dict[str, Any] | None = None) -> RolloutStore:
    store = store_for(CONFIG, ALGORITHM, arrays or new_arrays(store_layout(CONFIG, ALGORITHM)))
    assert isinstance(store, RolloutStore)
    return store


def taken(store: RolloutStore, *all_steps: RawSteps) -> list[bool]:
    """Whether an update was owed after each."""
    owed = []
    for raw in all_steps:
        store.take(raw)
        owed.append(store.owes(0))
    return owed


def test_a_rollout_is_complete_when_every_group_has_all_its_steps() -> None:
    store = new_store()
    assert not store.owes(0)
    owed = taken(store, *(steps(group, number, N=1 + group) for number in range(3) for group in (0, 1)))
    assert owed == [False] * 5 + [True]
    assert (len(store), store.inserted, store.source) == (9, 9, (1, 2))
    batch = store.batch()
    assert {name: array.shape for name, array in batch.items()} == {
        "obs": (3, 3, 2), "next_obs": (3, 3, 2), "action": (3, 3), "reward": (3, 3), "terminated": (3, 3),
        "truncated": (3, 3), "valid": (3, 3), "weights_version": (3, 3),
    }  # fmt: skip
    assert batch["obs"][..., 0].tolist() == [[0.0, 100.0, 100.0], [1.0, 101.0, 101.0], [2.0, 102.0, 102.0]]
    assert batch["reward"].tolist() == [[0.0] * 3, [0.5] * 3, [1.0] * 3]
    assert batch["valid"].all()
    store.learned(Updated(0.0))
    assert not store.owes(1)
    assert (len(store), store.inserted) == (0, 9)


def test_steps_beyond_a_rollout_begin_the_next() -> None:
    store = new_store()
    assert taken(store, *(steps(0, number) for number in range(3)))[-1]  # a group that is not known is not waited for
    store.batch()
    for number in range(4):
        store.take(steps(0, 10 + number))
        store.take(steps(1, 10 + number)) if number < 3 else None
    assert store.batch()["obs"][:, 0, 0].tolist() == [10.0, 11.0, 12.0]
    assert not any(taken(store, steps(0, 14), steps(0, 15), steps(1, 13), steps(1, 14)))
    assert taken(store, steps(1, 15)) == [True]
    assert store.batch()["obs"][:, :, 0].tolist() == [[13.0, 13.0, 113.0, 113.0], [14.0, 14.0, 114.0, 114.0],
                                                      [15.0, 15.0, 115.0, 115.0]]  # fmt: skip


def test_a_group_that_stays_away_is_given_up_and_taken_in_again_when_it_comes_back() -> None:
    store = new_store()
    store.take(steps(1, 0))
    owed = taken(store, *(steps(0, number) for number in range(6)))
    assert owed == [False] * 5 + [True]  # twice as far
    batch = store.batch()
    assert batch["valid"][:, 2].tolist() == [True, False, False]  # what it has goes in
    assert np.isfinite(batch["obs"]).all()
    assert not store.owes(1)  # it is waited for once more ...
    assert taken(store, *(steps(0, number) for number in range(6, 9))) == [False, False, True]
    assert store.batch()["valid"].shape == (3, 2)
    assert store.owes(2)
    store.batch()  # ... and no longer
    assert taken(store, *(steps(0, number) for number in range(10, 13))) == [False, False, True]
    store.batch()
    owed = taken(store, *(steps(group, number) for number in range(20, 23) for group in (1, 0)))
    assert owed == [False] * 5 + [True]
    assert store.batch()["valid"].shape == (3, 4)


def test_a_group_that_begins_anew_ends_what_ran_in_it_and_takes_no_row() -> None:
    store = new_store()
    begun = steps(0, 0, valid=False)
    assert taken(store, begun, steps(0, 1), begun, begun, steps(0, 2), steps(0, 3)) == [False] * 5 + [True]
    batch = store.batch()
    assert batch["obs"][:, 0, 0].tolist() == [1.0, 2.0, 3.0]
    assert batch["truncated"][:, 0].tolist() == [True, False, False]
    assert batch["next_obs"][0, 0, 0] == 1.5
    assert not taken(store, *[begun] * 7)[-1]  # nothing in it could be learned from


def test_rows_of_failed_envs_stay_in_place_and_are_not_valid() -> None:
    store = new_store()
    taken(store, steps(0, 0), steps(0, 1, valid=[True, False]), steps(0, 2))
    assert (len(store), store.inserted) == (5, 5)
    assert store.batch()["valid"].tolist() == [[True, True], [True, False], [True, True]]
    assert len(store) == 0


def test_a_learner_that_starts_again_knows_how_many_steps_there_were_and_begins_a_rollout_anew() -> None:
    arrays = new_arrays(store_layout(CONFIG, ALGORITHM))
    taken(new_store(arrays), steps(0, 0), steps(0, 1))
    again = new_store(arrays)
    assert (again.inserted, again.source, len(again)) == (4, (0, 1), 0)
    again.restore({}, {"inserted": 2})  # an older checkpoint does not take them back
    assert again.inserted == 4
    assert taken(again, *(steps(0, number) for number in range(2, 5))) == [False, False, True]
    assert kept_steps(CONFIG, ALGORITHM) == 0


def test_a_network_that_sees_stacks_gets_them_in_a_rollout() -> None:
    config = dataclasses.replace(CONFIG, frame_stack=3)
    store = RolloutStore(config, new_arrays(store_layout(config, ALGORITHM)))
    ending = steps(0, 3)
    ending.truncated = np.array([True, False])
    store.retake(steps(0, 1))  # a learner before this one had these
    store.retake(steps(0, 2))
    taken(store, ending, steps(0, 4), steps(0, 5))
    batch = store.batch()
    assert batch["obs"].shape == batch["next_obs"].shape == (3, 2, 3, 2)
    assert batch["obs"][:, 0, :, 0].tolist() == [[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [4.0, 4.0, 5.0]]
    assert batch["obs"][:, 1, :, 0].tolist() == [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]]
    assert batch["next_obs"][:, 0, :, 0].tolist() == [[2.0, 3.0, 3.5], [4.0, 4.0, 4.5], [4.0, 5.0, 5.5]]
    assert kept_steps(config, ALGORITHM) == 2


def test_at_a_barrier_a_rollout_begins_anew() -> None:
    store = new_store()
    taken(store, steps(0, 0), steps(0, 1), steps(1, 0))
    store.cut_off()
    assert len(store) == 0
    assert taken(store, *(steps(0, number) for number in range(2, 5))) == [False, False, True]


def test_a_checkpoint_holds_the_count_alone() -> None:
    store, again = new_store(), new_store()
    taken(store, steps(0, 0), steps(0, 1))
    assert (store.contents(), store.tails()) == ({}, {})
    again.restore(store.contents(), store.state())
    assert (again.inserted, len(again), again.state()) == (4, 0, store.state())


def test_weights_are_published_after_each_rollout() -> None:
    assert new_store().publish_every == 1
