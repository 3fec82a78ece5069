from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multiserverrl.errors import CheckpointError
from multiserverrl.train.checkpoint import Checkpoint, load_newest, save_checkpoint


def numbered(number: int) -> Checkpoint:
    arrays = {"replay/obs": np.full((3, 2), number, np.float32), "count": np.array([number]), "step": np.array(1.5)}
    return Checkpoint(arrays, {"number": number, "rng": {"state": 2**127 + number}})


def number_of(checkpoint: Checkpoint | None) -> int:
    assert checkpoint is not None
    return int(checkpoint.state["number"])


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, numbered(4))
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.state == numbered(4).state
    assert loaded.arrays.keys() == numbered(4).arrays.keys()
    for name, array in numbered(4).arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].shape == array.shape
        np.testing.assert_array_equal(loaded.arrays[name], array)


def test_where_there_is_none_none_is_loaded(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "nowhere") is None
    assert load_newest(tmp_path) is None


def test_the_newest_counts_and_the_last_two_are_kept(tmp_path: Path) -> None:
    paths = [save_checkpoint(tmp_path, numbered(number)) for number in range(12)]
    assert number_of(load_newest(tmp_path)) == 11
    assert sorted(tmp_path.iterdir()) == paths[-2:]


@pytest.mark.parametrize("damage", ["arrays cut", "arrays changed", "arrays gone", "state cut", "state gone", "empty"])
def test_a_broken_newest_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, numbered(1))
    broken = save_checkpoint(tmp_path, numbered(2))
    break_it(broken, damage)
    assert number_of(load_newest(tmp_path)) == 1


def test_when_all_are_broken_the_error_says_what_and_where(tmp_path: Path) -> None:
    for number in (1, 2):
        break_it(save_checkpoint(tmp_path, numbered(number)), "arrays changed")
    with pytest.raises(CheckpointError, match=r"(?s)checkpoint-000000002.*checksum.*checkpoint-000000001.*checksum"):
        load_newest(tmp_path)


def test_another_format_is_refused_by_number(tmp_path: Path) -> None:
    state = save_checkpoint(tmp_path, numbered(1)) / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_newest(tmp_path)


def test_one_that_was_not_finished_is_not_there_and_is_no_hindrance(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, numbered(1))
    half = tmp_path / ".writing-checkpoint-000000002"
    half.mkdir()
    (half / "arrays.safetensors").write_bytes(b"half")
    assert number_of(load_newest(tmp_path)) == 1
    save_checkpoint(tmp_path, numbered(2))
    assert number_of(load_newest(tmp_path)) == 2
    assert not half.exists()


def break_it(path: Path, damage: str) -> None:
    arrays, state = path / "arrays.safetensors", path / "state.json"
    content = arrays.read_bytes()
    if damage == "arrays cut":
        arrays.write_bytes(content[:-5])
    elif damage == "arrays changed":
        arrays.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "arrays gone":
        arrays.unlink()
    elif damage == "state cut":
        state.write_bytes(state.read_bytes()[:-3])
    elif damage == "state gone":
        state.unlink()
    else:
        arrays.write_bytes(b"")
        state.write_bytes(b"")
