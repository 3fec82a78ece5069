"""The training clock and the numbers that people read."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator

import pytest

from multiserverrl.launch.channels import ChannelPlan, Channels
from multiserverrl.launch.control import CounterTable
from multiserverrl.launch.progress import LiveProgress, PlainProgress, progress_for
from multiserverrl.launch.status import Clock, StatusReader
from multiserverrl.train.channels import Evaluation
from multiserverrl.train.task import Task

EVALUATION = Evaluation(7, 123.4, 1.0, 20, [], 0.0, 640, 10)


@pytest.fixture
def channels() -> Iterator[Channels]:
    channels = Channels.create(ChannelPlan(Task((4,), 2), (1,), {"a": ("float32", (1,))}, rows=2))
    yield channels
    channels.close()


@pytest.fixture
def counters(channels: Channels) -> CounterTable:
    return channels.counters(1)


def test_the_clock_stands_until_the_first_env_step(counters: CounterTable) -> None:
    clock = Clock()
    clock.look(counters)
    assert clock.wall_s(1e9) == 0.0
    assert clock.first_step_unix_s() is None


def test_the_clock_runs_from_the_first_env_step_and_has_what_an_earlier_part_took(counters: CounterTable) -> None:
    counters.set("first_step_at_s", 100.0)
    counters.set("wall_before_s", 40.0)
    clock = Clock()
    clock.look(counters)
    assert clock.wall_s(103.0) == pytest.approx(43.0)


def test_an_explorer_that_is_started_again_does_not_move_the_clock(counters: CounterTable) -> None:
    clock = Clock()
    counters.set("first_step_at_s", 100.0)
    clock.look(counters)
    counters.set("first_step_at_s", 200.0)
    clock.look(counters)
    assert clock.wall_s(201.0) == pytest.approx(101.0)


def test_the_mean_return_is_that_of_the_windows_and_unknown_before_an_episode_ended(counters: CounterTable) -> None:
    reader = StatusReader(Clock())
    assert reader.read(counters, None).mean_return is None
    counters.set("recent_returns", 4)
    counters.set("recent_return_sum", 80.0)
    assert reader.read(counters, None).mean_return == 20.0


def test_epsilon_is_not_added_up_over_explorers_that_act_by_themselves(channels: Channels) -> None:
    for row in (0, 1):
        channels.counters(row).set("epsilon", 0.25)
    assert StatusReader(Clock()).read(channels.counters(0), None).epsilon == 0.25


def test_a_plain_line_has_all_that_is_promised(counters: CounterTable) -> None:
    stream = io.StringIO()
    counters.set("episodes", 12)
    counters.set("replay_ratio", 0.25)
    PlainProgress(stream).show(StatusReader(Clock()).read(counters, EVALUATION))
    line = stream.getvalue()
    assert line.count("\n") == 1
    for name in ("episodes 12", "mean return –", "env steps/s", "updates/s", "replay ratio 0.250", "ε"):
        assert name in line
    assert "evaluation 123.4 ± 0.5 (weights 7)" in line


def test_without_a_replay_buffer_there_is_no_replay_ratio(counters: CounterTable) -> None:
    stream = io.StringIO()
    PlainProgress(stream).show(StatusReader(Clock()).read(counters, EVALUATION))
    assert "replay ratio –" in stream.getvalue()


def test_faults_are_shown_once_there_are_some(counters: CounterTable) -> None:
    stream, reader = io.StringIO(), StatusReader(Clock())
    PlainProgress(stream).show(reader.read(counters, None))
    assert "faults" not in stream.getvalue()
    counters.set("faults", 3)
    PlainProgress(stream).show(reader.read(counters, None))
    assert "faults 3" in stream.getvalue()


def test_a_terminal_gets_a_panel_in_place_and_lines_that_stay(
    counters: CounterTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = progress_for(stream)
    assert isinstance(progress, LiveProgress)
    progress.show(StatusReader(Clock()).read(counters, EVALUATION))
    progress.show(StatusReader(Clock()).read(counters, EVALUATION))
    progress.close()
    progress.close()
    progress.say("[solved] in 2 s")
    assert "evaluation" in stream.getvalue()
    assert stream.getvalue().endswith("[solved] in 2 s\n")


def test_lines_that_a_full_disk_has_no_room_for_are_counted_and_the_run_goes_on() -> None:
    class Disk(io.StringIO):
        is_full = False

        def write(self, text: str) -> int:
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    disk = Disk()
    progress = PlainProgress(disk)
    for is_full, line in [(False, "one"), (True, "two"), (True, "three"), (False, "four"), (False, "five")]:
        disk.is_full = is_full
        progress.say(line)
    assert disk.getvalue().splitlines() == ["one", "(2 lines are missing here: the disk was full)", "four", "five"]


def test_a_full_disk_behind_a_file_holds_no_line_back_until_the_process_ends() -> None:
    with open("/dev/full", "w") as stream:
        progress = progress_for(stream)
        progress.say("lost")
        stream.flush()  # nothing waits in it
