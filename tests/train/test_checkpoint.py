from __future__ import annotations

import errno
import itertools
import json
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from bad_disk import try_it
from multiserverrl.errors import CheckpointError
from multiserverrl.observe.disk import Disk
from multiserverrl.train import checkpoint
from multiserverrl.train.arraysfile import read_arrays
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
    head = save_checkpoint(tmp_path, numbered(1)) / "head.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "format": 99}))
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


@pytest.mark.parametrize("trial", ["killed_at_each_change", "killed_at_each_byte"])
def test_a_writer_that_is_killed_anywhere_leaves_an_intact_checkpoint(tmp_path: Path, trial: str) -> None:
    found = try_it(tmp_path, trial, stride=1 if trial == "killed_at_each_change" else 40)
    assert found.wrong == []
    assert found.done >= 10


def test_a_disk_that_is_full_from_anywhere_on_leaves_an_intact_checkpoint_and_the_next_is_saved(tmp_path: Path) -> None:
    trial = try_it(tmp_path, "full_at_each_change")
    assert trial.wrong == []
    assert trial.done > 30


@pytest.mark.parametrize(("trial", "stride"), [("flipped_at_each_bit", 23), ("cut_at_each_byte", 7)])
def test_damage_anywhere_is_found(tmp_path: Path, trial: str, stride: int) -> None:
    found = try_it(tmp_path, trial, stride)
    assert found.wrong == []
    assert found.done > 100


def test_one_that_is_passed_over_is_named_with_the_reason(tmp_path: Path, logged: list[str]) -> None:
    save_checkpoint(tmp_path, numbered(1))
    broken = save_checkpoint(tmp_path, numbered(2))
    break_it(broken, "arrays cut")
    assert number_of(load_newest(tmp_path)) == 1
    (line,) = logged
    assert line.startswith(f"checkpoint_passed_over path={broken} why=")
    assert "bytes" in line


def test_a_reader_that_the_writer_overtakes_finds_what_is_there_now_and_passes_over_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    numbers = iter(range(3, 9))
    for number in (1, 2):
        save_checkpoint(tmp_path, numbered(number))

    def overtaken(path: Path) -> dict[str, object]:
        for number in itertools.islice(numbers, 3):
            save_checkpoint(tmp_path, numbered(number))
        return read_arrays(path)

    monkeypatch.setattr(checkpoint, "read_arrays", overtaken)
    assert number_of(load_newest(tmp_path)) == 8
    assert logged == []


def test_an_old_one_is_removed_only_after_the_new_one_was_read_again_from_the_disk(tmp_path: Path) -> None:
    class Forgetful(Disk):
        """Takes every byte and keeps none."""

        def write(self, file: BinaryIO, content: memoryview) -> int:
            return super().write(file, bytes(len(content)))  # type: ignore[arg-type]

    paths = [save_checkpoint(tmp_path, numbered(number)) for number in (1, 2)]
    with pytest.raises(OSError, match="other bytes than were written"):
        save_checkpoint(tmp_path, numbered(3), Forgetful())
    assert sorted(tmp_path.iterdir()) == paths
    assert number_of(load_newest(tmp_path)) == 2


def test_everything_is_synced_before_it_bears_its_name_and_the_name_before_another_is_removed(tmp_path: Path) -> None:
    done = []

    class Listed(Disk):
        def create(self, path: Path) -> BinaryIO:
            done.append(f"create {path.name}")
            return super().create(path)

        def sync(self, fd: int) -> None:
            done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}")
            super().sync(fd)

        def rename(self, old: Path, new: Path) -> None:
            done.append(f"rename {old.name} {new.name}")
            super().rename(old, new)

    for number in (1, 2):
        save_checkpoint(tmp_path, numbered(number))
    save_checkpoint(tmp_path, numbered(3), Listed())
    aside, path, oldest = ".writing-checkpoint-000000003", "checkpoint-000000003", "checkpoint-000000001"
    files = ["arrays.safetensors", "state.json", "head.json"]
    written = [f"{change} {name}" for name in files for change in ("create", "sync")]
    assert done == [
        *written, f"sync {aside}", f"rename {aside} {path}", f"sync {tmp_path.name}",
        f"rename {oldest} .writing-{oldest}",
    ]  # fmt: skip


def test_where_the_disk_has_no_room_for_three_the_older_of_two_makes_room(tmp_path: Path) -> None:
    class Small(Disk):
        """Has room for two checkpoints."""

        def create(self, path: Path) -> BinaryIO:
            if len(list(tmp_path.glob("checkpoint-*"))) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().create(path)

    for number in range(1, 6):
        save_checkpoint(tmp_path, numbered(number), Small())
        assert number_of(load_newest(tmp_path)) == number
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["head.json", "state.json"])
def test_a_file_that_grew_beyond_all_measure_is_not_read_into_memory(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, numbered(1))
    with (save_checkpoint(tmp_path, numbered(2)) / name).open("r+b") as file:
        file.truncate(1 << 40)  # it has holes
    tracemalloc.start()
    assert number_of(load_newest(tmp_path)) == 1
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little") + b"{}",
        *(
            len(text).to_bytes(8, "little") + text + bytes(16)
            for text in (
                b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,16]}}',
                b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,4398046511104]}}',
                b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}',
                b"[" * 5000,
            )
        ),
    ],
)
def test_a_header_that_lies_is_refused_without_memory_for_its_lie(tmp_path: Path, header: bytes) -> None:
    path = save_checkpoint(tmp_path, numbered(1))
    (path / "arrays.safetensors").write_bytes(header)
    head = json.loads((path / "head.json").read_text())
    head["files"]["arrays.safetensors"] = [len(header), zlib.crc32(header)]  # its checksum is right
    (path / "head.json").write_text(json.dumps(head))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="checkpoint-000000001"):
        load_newest(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


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
