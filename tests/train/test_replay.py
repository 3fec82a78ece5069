from __future__ import annotations

import numpy as np
import pytest

from multiserverrl.memory import Block, Layout
from multiserverrl.train.replay import Replay, new_arrays, replay_fields

FIELDS = replay_fields({"obs": ("float32", (2,)), "reward": ("float32", ())}, 7)


def numbered(first: int, count: int) -> dict[str, np.ndarray]:
    reward = np.arange(first, first + count, dtype=np.float32)
    return {"obs": np.stack([reward, -reward], axis=1), "reward": reward}


@pytest.mark.parametrize("sizes", [[3], [3, 3, 3], [7], [5, 7, 2], [16], [0, 4]])
def test_the_buffer_holds_the_newest_transitions_and_no_others(sizes: list[int]) -> None:
    replay, inserted = Replay(new_arrays(FIELDS)), 0
    for size in sizes:
        assert replay.insert(numbered(inserted, size)) == size
        inserted += size
    newest = list(range(max(0, inserted - 7), inserted))
    assert replay.inserted == inserted
    assert len(replay) == len(newest)
    assert sorted(replay.arrays["reward"][: len(replay)].tolist()) == newest


def test_samples_are_whole_rows_of_what_is_there() -> None:
    replay = Replay(new_arrays(FIELDS))
    replay.insert(numbered(10, 5))
    sample = replay.sample(np.random.default_rng(0), 1000)
    np.testing.assert_array_equal(sample["obs"], np.stack([sample["reward"], -sample["reward"]], axis=1))
    assert set(sample["reward"].tolist()) == {10.0, 11.0, 12.0, 13.0, 14.0}


def test_samples_are_named_by_their_seed_and_are_copies() -> None:
    replay = Replay(new_arrays(FIELDS))
    replay.insert(numbered(0, 7))
    first, second, other = (replay.sample(np.random.default_rng(seed), 32)["reward"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    first[:] = -5.0
    assert (replay.arrays["reward"] >= 0).all()


def test_another_mapping_of_the_same_memory_finds_the_buffer_as_it_was() -> None:
    layout = Layout(FIELDS)
    block = Block.create(layout.size_bytes, "replay")
    try:
        Replay(layout.views(block)).insert(numbered(0, 9))
        found = Replay(layout.views(block))
        assert (found.inserted, len(found)) == (9, 7)
        found.insert(numbered(9, 1))
        assert sorted(found.arrays["reward"].tolist()) == list(range(3, 10))
    finally:
        block.close()


@pytest.mark.parametrize("count", [0, 4, 10])
def test_a_restored_buffer_goes_on_as_the_first_would(count: int) -> None:
    first, second = Replay(new_arrays(FIELDS)), Replay(new_arrays(FIELDS))
    first.insert(numbered(0, count))
    second.restore({name: array.copy() for name, array in first.contents().items()})
    for replay in (first, second):
        replay.insert(numbered(count, 2))
    assert second.inserted == first.inserted
    for name in first.arrays:
        np.testing.assert_array_equal(second.arrays[name], first.arrays[name])


def test_contents_of_another_buffer_are_refused_and_change_nothing() -> None:
    replay, other = Replay(new_arrays(FIELDS)), Replay(new_arrays(replay_fields({"obs": ("float32", (3,))}, 7)))
    replay.insert(numbered(0, 3))
    contents = {**other.contents(), "reward": np.zeros(0, np.float32)}
    with pytest.raises(ValueError, match="obs"):
        replay.restore(contents)
    assert replay.inserted == 3
