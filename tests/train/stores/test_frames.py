from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from multiserverrl.errors import RunError
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.stacks import StepStacks
from multiserverrl.train.stores import frames, kept_steps
from multiserverrl.train.stores.frames import keeps_frames
from tests.train.stores.scenes import Declared, all_items, arrays_for, some_steps, store_on, taken, task_with

CONFIG = TrainConfig(buffer_size=200, warmup_steps=10, batch_size=32, n_step=3, frame_stack=3)
STACKED, PLAIN = Declared(task_with(3)), replace(CONFIG, frame_stack=1)


@pytest.mark.parametrize("stack", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 3])
def test_stacks_made_of_single_frames_are_those_that_would_have_been_stored(stack: int, n: int) -> None:
    config, algorithm = replace(CONFIG, frame_stack=stack, n_step=n), Declared(task_with(stack))
    single, stored = store_on(config, algorithm), store_on(replace(config, frame_stack=1), algorithm)
    assert single.frames is not None and stored.frames is None
    stacking = StepStacks(stack)
    for raw in some_steps(150):
        single.take(raw)
        stored.take(stacking.stacked(raw))
    assert len(single) == 200
    for name, array in all_items(stored).items():
        np.testing.assert_array_equal(all_items(single)[name], array, err_msg=name)


def test_a_batch_of_frames_is_the_batch_of_stored_stacks() -> None:
    single, stored, stacking = store_on(CONFIG, STACKED), store_on(PLAIN, STACKED), StepStacks(3)
    for raw in some_steps(100):
        single.take(raw)
        stored.take(stacking.stacked(raw))
    for _ in range(5):
        first, second = single.batch(), stored.batch()
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("prioritised", [False, True])
def test_transitions_whose_frames_are_gone_are_never_sampled(
    monkeypatch: pytest.MonkeyPatch, prioritised: bool
) -> None:
    monkeypatch.setattr(frames, "_MORE", 0)  # episodes of two steps: the frames are gone before the transitions
    config = replace(CONFIG, prioritised=prioritised, n_step=1)
    store, stored, stacking = store_on(config, STACKED), store_on(replace(PLAIN, n_step=1), STACKED), StepStacks(3)
    for raw in some_steps(150, end=0.5):
        store.take(raw)
        stored.take(stacking.stacked(raw))
    whole = {tuple(row.ravel()) for row in all_items(stored)["obs"]}
    gone = np.isnan(all_items(store)["obs"][:, 0, 0])
    assert 10 < np.count_nonzero(gone) < 150
    for _ in range(20):
        batch = store.batch()
        assert {tuple(row.ravel()) for row in batch["obs"]} <= whole
        assert batch["obs"].shape == (32, 3, 2)
    if prioritised:
        assert (store.replay.arrays["priority"][gone] == 0.0).any()


def test_a_buffer_without_a_single_living_frame_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_MORE", 0)
    store = taken(store_on(replace(CONFIG, buffer_size=10, n_step=8), STACKED), some_steps(30, (12,), end=0.0))
    with pytest.raises(RunError, match="--buffer-size"):
        store.batch()


def test_large_observations_are_kept_once_without_a_stack_too() -> None:
    assert keeps_frames(TrainConfig(), ("uint8", (84, 84)))
    assert not keeps_frames(TrainConfig(), ("float32", (255,)))
    assert keeps_frames(TrainConfig(), ("float32", (256,)))
    assert keeps_frames(TrainConfig(), ("(8,16,16)|u1,(2,)<f4,", ()))
    assert keeps_frames(TrainConfig(frame_stack=2), ("float32", (2, 4)))


def test_a_frame_is_stored_once_and_costs_little_more_than_its_bytes() -> None:
    algorithm = Declared(replace_shape(task_with(1), (84, 84)))
    stacked = Declared(replace_shape(task_with(4), (4, 84, 84)))
    frames_bytes = sum(array.nbytes for array in arrays_for(TrainConfig(buffer_size=4000), algorithm).values())
    stack_bytes = sum(
        array.nbytes for array in arrays_for(TrainConfig(buffer_size=4000, frame_stack=4), stacked).values()
    )
    assert stack_bytes == frames_bytes
    assert stack_bytes < 1.45 * 4000 * 84 * 84  # with the frames of running windows, 1024 of them


def replace_shape(task: Any, shape: tuple[int, ...]) -> Any:
    import msgspec

    return msgspec.structs.replace(task, obs_shape=shape, obs_dtype="uint8")


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("died_after", [1, 7, 40])
def test_a_learner_that_starts_again_finds_the_frames_its_windows_stand_at(n: int, died_after: int) -> None:
    config = replace(CONFIG, n_step=n)
    steps = list(some_steps(60))
    arrays, whole = arrays_for(config, STACKED), taken(store_on(config, STACKED), iter(steps))
    taken(store_on(config, STACKED, arrays), iter(steps[:died_after]))
    again = store_on(config, STACKED, arrays)
    kept = kept_steps(config, STACKED)  # type: ignore[arg-type]
    for group in (0, 1):
        for raw in [raw for raw in steps[:died_after] if raw.group == group][-kept:]:
            again.retake(raw)
    taken(again, iter(steps[died_after:]))
    for name, array in whole.contents().items():
        np.testing.assert_array_equal(again.contents()[name], array, err_msg=name)


def test_a_restored_store_goes_on_as_the_first_would() -> None:
    steps = list(some_steps(300))
    first = taken(store_on(CONFIG, STACKED), iter(steps[:200]))
    second = store_on(CONFIG, STACKED)
    second.restore({name: array.copy() for name, array in first.contents().items()}, first.state())
    for name, array in first.contents().items():
        np.testing.assert_array_equal(second.contents()[name], array, err_msg=name)
    for _ in range(3):
        np.testing.assert_array_equal(first.batch()["obs"], second.batch()["obs"])
    # the next part of the run numbers its steps anew, and none of the old ones is taken for one of these
    assert (second.frames.find(steps[199]).obs == -1).all()


def test_frames_of_another_run_are_refused() -> None:
    first = taken(store_on(CONFIG, STACKED), some_steps(50))
    other = store_on(replace(CONFIG, frame_stack=2), Declared(task_with(2)))
    contents = {**first.contents(), "frames.frame": np.zeros((5, 9), np.float32)}
    with pytest.raises(ValueError, match="frame"):
        other.restore(contents, first.state())


def test_after_a_cut_all_episodes_begin_anew() -> None:
    store, steps = store_on(CONFIG, STACKED), list(some_steps(20, (2,), end=0.0, broken=0.0))
    taken(store, iter(steps[:10]))
    store.cut_off()
    taken(store, iter(steps[10:]))
    newest = all_items(store)["obs"][-1]
    place = {obs.tobytes(): number for number, raw in enumerate(steps) for obs in raw.obs}
    assert all(place[frame.tobytes()] >= 10 for frame in newest)


def test_rollouts_have_the_stacks_that_a_replay_buffer_has() -> None:
    config = TrainConfig(algorithm="pqn", rollout_steps=40, frame_stack=3)
    rollouts, replay = (
        store_on(config, Declared(task_with(3), "rollouts")),
        store_on(replace(CONFIG, n_step=1), STACKED),
    )
    for raw in some_steps(40, (3,)):
        rollouts.take(raw)
        replay.take(raw)
    rollout, items = rollouts.batch(), all_items(replay)
    for name in ("obs", "next_obs"):
        wanted = {stack.tobytes() for stack in rollout[name][rollout["valid"]]}
        assert wanted == {stack.tobytes() for stack in items[name]}
