"""A file is the old one or the whole new one, and nothing unfinished stays for long."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bad_disk import full_from, try_it
from multiserverrl.observe.disk import aside_of, remove_leftovers, replace_file


def test_a_writer_that_is_killed_anywhere_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    trial = try_it(tmp_path, "replaced_at_each_change")
    assert trial.wrong == []
    assert trial.done >= 5  # create, write, sync, rename, sync the directory


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path, number: int) -> None:
    path = tmp_path / "result.json"
    replace_file(path, [b"old"])
    with pytest.raises(OSError, match="No space left") as caught:
        replace_file(path, [b"new"], full_from(number))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_are_removed_whatever_they_are_and_nothing_else(tmp_path: Path) -> None:
    mine, elsewhere = tmp_path / "config.json", tmp_path / "elsewhere"
    mine.write_bytes(b"{}")
    elsewhere.mkdir()
    aside_of(mine).write_bytes(b"{")
    aside_of(tmp_path / "checkpoint-000000003").mkdir()
    (aside_of(tmp_path / "checkpoint-000000003") / "state.json").write_bytes(b"{")
    aside_of(tmp_path / "link").symlink_to(elsewhere)
    assert len(remove_leftovers(tmp_path)) == 3
    assert sorted(tmp_path.iterdir()) == [mine, elsewhere]
