from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.stacks import StepStacks
from multiserverrl.train.stores import kept_steps
from tests.train.stores.scenes import Declared, all_items, arrays_for, some_steps, store_on, taken, task_with

T = 5


def config_of(**settings: Any) -> TrainConfig:
    """Settings of a plug-in that is not installed here: none of our own algorithms learns from sequences."""
    config = TrainConfig(buffer_size=400, warmup_steps=2, batch_size=16, reward_scale=0.5)
    for name, value in {"sequence_length": T, **settings}.items():
        object.__setattr__(config, name, value)
    return config


CONFIG = config_of()
KIND = Declared(task_with(1), "sequences", {"memory": ("float32", (3,))})


def slow_sequences(steps: Iterable[RawSteps], length: int = T) -> list[dict[str, Any]]:
    """Env by env: cut into episodes, each into pieces that overlap by half."""
    episodes: dict[tuple[int, int], list[list[tuple[RawSteps, int]]]] = {}
    for raw in steps:
        for row in range(len(raw.valid)):
            running = episodes.setdefault((raw.group, row), [[]])
            if not raw.valid[row]:
                if running[-1]:
                    running.append([])
                continue
            running[-1].append((raw, row))
            if raw.terminated[row] or raw.truncated[row]:
                running.append([])
    found, stride = [], length - length // 2
    for running in episodes.values():
        for index, episode in enumerate(running):
            is_running = index == len(running) - 1
            for start in range(0, len(episode), stride):
                piece = episode[start : start + length]
                is_last = start + length >= len(episode)
                if is_running and len(piece) < length:
                    break  # it waits
                before = episode[start - 1] if start else None
                found.append(_sequence(piece, before, length, cut=is_last and not is_running))
                if is_last:
                    break
    return found


def _sequence(piece: list[Any], before: Any, length: int, cut: bool) -> dict[str, Any]:
    padded = piece + [piece[-1]] * (length - len(piece))
    last, last_row = piece[-1]
    truncated = np.array([raw.truncated[row] for raw, row in padded])
    is_cut = cut and len(piece) < length and not last.terminated[last_row]  # a whole one was made before the break
    truncated[len(piece) - 1 :] |= is_cut
    return {
        "obs": np.array([raw.obs[row] for raw, row in padded]),
        "action": np.array([raw.action[row] for raw, row in padded]),
        "reward": np.array([raw.reward[row] * np.float32(0.5) for raw, row in padded]),
        "terminated": np.array([raw.terminated[row] for raw, row in padded]),
        "truncated": truncated,
        "mask": np.arange(length) < len(piece),
        "next_obs": last.next_obs[last_row],
        "memory": np.zeros(3, np.float32) if before is None else before[0].extras["memory"][before[1]],
    }


def by_start(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda item: (item["obs"].ravel()[0], item["mask"].sum()))


def items_of(store: Any) -> list[dict[str, Any]]:
    items = all_items(store)
    return [{name: array[row] for name, array in items.items()} for row in range(len(store))]


@pytest.mark.parametrize("length", [2, 4, 5])
@pytest.mark.parametrize("end", [0.0, 0.1, 0.5])
def test_sequences_are_those_of_a_slow_cut_of_every_episode(length: int, end: float) -> None:
    config = config_of(sequence_length=length)
    steps = list(some_steps(120, end=end, broken=0.0 if end == 0.0 else 0.05))
    found, slow = (
        by_start(items_of(taken(store_on(config, KIND), iter(steps)))),
        by_start(slow_sequences(steps, length)),
    )
    assert len(found) == len(slow) > 50
    for ours, theirs in zip(found, slow, strict=True):
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_a_batch_has_what_a_recurrent_network_needs() -> None:
    batch = taken(store_on(CONFIG, KIND), some_steps(80)).batch()
    shapes = {name: array.shape for name, array in batch.items()}
    assert shapes == {
        "obs": (16, T, 2), "action": (16, T), "reward": (16, T), "terminated": (16, T), "truncated": (16, T),
        "mask": (16, T), "next_obs": (16, 2), "weights_version": (16,), "memory": (16, 3),
    }  # fmt: skip


def test_tails_are_the_steps_that_are_in_no_sequence_yet_cut_off() -> None:
    store, steps = store_on(CONFIG, KIND), list(some_steps(6, (2,), end=0.0, broken=0.0))
    taken(store, iter(steps))
    tails = store.tails()
    assert len(store) == 2
    assert tails["mask"].sum(axis=1).tolist() == [3, 3]  # 5 made one, 2 of them and 1 more wait
    np.testing.assert_array_equal(tails["next_obs"], steps[-1].next_obs)
    assert tails["truncated"][:, 2:].all() and not tails["truncated"][:, :2].any()
    store.end_episodes(tails)
    assert len(store) == 4


def test_frames_of_sequences_are_kept_once() -> None:
    config = config_of(frame_stack=3)
    single = store_on(config, Declared(task_with(3), "sequences", KIND.extras_fields))
    stored = store_on(CONFIG, Declared(task_with(3), "sequences", KIND.extras_fields))
    stacking = StepStacks(3)
    for raw in some_steps(200):
        single.take(raw)
        stored.take(stacking.stacked(raw))
    for name, array in all_items(stored).items():
        np.testing.assert_array_equal(all_items(single)[name], array, err_msg=name)
    assert single.batch()["obs"].shape == (16, T, 3, 2)


@pytest.mark.parametrize("died_after", [1, 2, 9, 10, 11, 12, 13, 40])
def test_a_learner_that_starts_again_goes_on_in_the_middle_of_a_sequence(died_after: int) -> None:
    steps = list(some_steps(70, end=0.05))
    arrays, whole = arrays_for(CONFIG, KIND), taken(store_on(CONFIG, KIND), iter(steps))
    taken(store_on(CONFIG, KIND, arrays), iter(steps[:died_after]))
    again = store_on(CONFIG, KIND, arrays)
    kept = kept_steps(CONFIG, KIND)  # type: ignore[arg-type]
    for group in (0, 1):
        for raw in [raw for raw in steps[:died_after] if raw.group == group][-kept:]:
            again.retake(raw)
    taken(again, iter(steps[died_after:]))
    for name, array in whole.contents().items():
        np.testing.assert_array_equal(again.contents()[name], array, err_msg=name)


def test_a_restored_store_is_the_first_to_the_bit_and_samples_alike() -> None:
    first, second = taken(store_on(CONFIG, KIND), some_steps(100)), store_on(CONFIG, KIND)
    second.restore({name: array.copy() for name, array in first.contents().items()}, first.state())
    for name, array in first.contents().items():
        np.testing.assert_array_equal(second.contents()[name], array, err_msg=name)
    np.testing.assert_array_equal(first.batch()["memory"], second.batch()["memory"])
