"""The event files that we write are read by TensorBoard's own reader."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from multiserverrl.observe.eventfile import TensorBoard
from tests.observe.logging_contract import (
    SETTINGS,
    Read,
    keeps_every_number_by_tag_and_env_steps,
    says_nothing_of_a_run_without_numbers,
)


def read(directory: Path) -> Read:
    found = accumulated(directory)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def accumulated(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()


def test_tensorboard_reads_every_number(tmp_path: Path) -> None:
    keeps_every_number_by_tag_and_env_steps(TensorBoard(tmp_path), lambda: read(tmp_path))


def test_a_run_without_numbers_leaves_no_file(tmp_path: Path) -> None:
    says_nothing_of_a_run_without_numbers(TensorBoard(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_the_settings_as_text(tmp_path: Path) -> None:
    logger = TensorBoard(tmp_path)
    logger.begin(SETTINGS)
    logger.write({"train/loss": 1.0}, 300)
    logger.close()
    found = accumulated(tmp_path)
    [event] = found.Tensors("settings")
    assert b'    env_id = "CartPole-v1"\n    seed = 3\n' in event.tensor_proto.string_val[0]
    assert found.SummaryMetadata("settings").plugin_data.plugin_name == "text"


def test_numbers_beyond_float32_are_infinite_and_large_steps_are_whole(tmp_path: Path) -> None:
    logger = TensorBoard(tmp_path)
    logger.write({"a": 1e300, "b": -1e300, "ü": 1.0}, 10**12)
    logger.close()
    inf = float("inf")
    assert read(tmp_path) == {"a": [(10**12, inf)], "b": [(10**12, -inf)], "ü": [(10**12, 1.0)]}


def test_what_a_resumed_run_does_again_is_shown_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for begun_s, steps in ((100.0, (10, 20, 30)), (200.0, (15, 25))):  # killed at 30, its checkpoint was of 15
        monkeypatch.setattr("multiserverrl.observe.eventfile.time.time", lambda begun_s=begun_s: begun_s)
        logger = TensorBoard(tmp_path)
        for step in steps:
            logger.write({"train/loss": begun_s}, step)
        logger.close()
    assert read(tmp_path) == {"train/loss": [(10, 100.0), (15, 200.0), (25, 200.0)]}


def test_a_record_that_a_full_disk_has_no_room_for_is_absent_and_the_next_one_is_whole(tmp_path: Path) -> None:
    logger, before = TensorBoard(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
        with pytest.raises(OSError, match="File too large"):
            logger.write({"train/loss": 1.0}, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        logger.write({"train/loss": 2.0}, 2)
        [path] = tmp_path.iterdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, before[1]))
        with pytest.raises(OSError, match="File too large"):
            logger.write({"train/loss": 3.0}, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logger.write({"train/loss": 4.0}, 4)
    logger.close()
    assert read(tmp_path) == {"train/loss": [(2, 2.0), (4, 4.0)]}
