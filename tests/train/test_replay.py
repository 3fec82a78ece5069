from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multiserverrl.memory import Block, Layout
from multiserverrl.train import replay
from multiserverrl.train.replay import Replay, new_arrays, replay_fields

FIELDS = replay_fields({"obs": ("float32", (2,)), "reward": ("float32", ())}, 7)


def numbered(first: int, count: int) -> dict[str, np.ndarray]:
    reward = np.arange(first, first + count, dtype=np.float32)
    return {"obs": np.stack([reward, -reward], axis=1), "reward": reward}


@pytest.mark.parametrize("sizes", [[3], [3, 3, 3], [7], [5, 7, 2], [16], [0, 4]])
def test_the_buffer_holds_the_newest_transitions_and_no_others(sizes: list[int]) -> None:
    buffer, inserted = Replay(new_arrays(FIELDS)), 0
    for size in sizes:
        assert buffer.insert(numbered(inserted, size)) == size
        inserted += size
    newest = list(range(max(0, inserted - 7), inserted))
    assert buffer.inserted == inserted
    assert len(buffer) == len(newest)
    assert sorted(buffer.arrays["reward"][: len(buffer)].tolist()) == newest


def test_samples_are_whole_rows_of_what_is_there() -> None:
    buffer = Replay(new_arrays(FIELDS))
    buffer.insert(numbered(10, 5))
    sample = buffer.sample(np.random.default_rng(0), 1000)
    np.testing.assert_array_equal(sample["obs"], np.stack([sample["reward"], -sample["reward"]], axis=1))
    assert set(sample["reward"].tolist()) == {10.0, 11.0, 12.0, 13.0, 14.0}


def test_samples_are_named_by_their_seed_and_are_copies() -> None:
    buffer = Replay(new_arrays(FIELDS))
    buffer.insert(numbered(0, 7))
    first, second, other = (buffer.sample(np.random.default_rng(seed), 32)["reward"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    first[:] = -5.0
    assert (buffer.arrays["reward"] >= 0).all()


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
    for buffer in (first, second):
        buffer.insert(numbered(count, 2))
    assert second.inserted == first.inserted
    for name in first.arrays:
        np.testing.assert_array_equal(second.arrays[name], first.arrays[name])


def test_contents_of_another_buffer_are_refused_and_change_nothing() -> None:
    buffer, other = Replay(new_arrays(FIELDS)), Replay(new_arrays(replay_fields({"obs": ("float32", (3,))}, 7)))
    buffer.insert(numbered(0, 3))
    contents = {**other.contents(), "reward": np.zeros(0, np.float32)}
    with pytest.raises(ValueError, match="obs"):
        buffer.restore(contents)
    assert buffer.inserted == 3


@pytest.mark.parametrize("held", [3, 7, 12])
@pytest.mark.parametrize("arrays_written", [0, 1])
def test_an_insertion_that_was_cut_short_leaves_whole_rows_and_is_made_again(
    held: int, arrays_written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, whole = new_arrays(FIELDS), Replay(new_arrays(FIELDS))
    for buffer in (Replay(arrays), whole):
        buffer.insert(numbered(0, held), (0, held))
    write, left = replay._write_around, [None] * arrays_written

    def write_some(*arguments: Any) -> None:
        if not left:
            raise Killed
        left.pop()
        write(*arguments)

    monkeypatch.setattr(replay, "_write_around", write_some)
    with pytest.raises(Killed):
        Replay(arrays).insert(numbered(100, 4), (1, 0))
    monkeypatch.undo()
    found = Replay(arrays)
    assert (found.inserted, found.source) == (held, (0, held))
    sample = found.sample(np.random.default_rng(0), 500)
    np.testing.assert_array_equal(sample["obs"], np.stack([sample["reward"], -sample["reward"]], axis=1))
    assert set(sample["reward"].tolist()) <= set(range(held))
    for buffer in (found, whole):
        buffer.insert(numbered(100, 4), (1, 0))
    for name in found.arrays:
        np.testing.assert_array_equal(found.arrays[name], whole.arrays[name])


def test_where_every_row_was_being_overwritten_the_buffer_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = new_arrays(FIELDS)
    Replay(arrays).insert(numbered(0, 7), (0, 3))
    monkeypatch.setattr(replay, "_write_around", lambda *arguments: killed())
    with pytest.raises(Killed):
        Replay(arrays).insert(numbered(7, 9), (0, 4))
    found = Replay(arrays)
    assert (len(found), found.source) == (0, (0, 3))


class Killed(Exception):
    """Stands for kill -9: nothing that comes after it is done."""


def killed() -> None:
    raise Killed
