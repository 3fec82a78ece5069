"""processes.py: births, deaths and their causes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pytest

from multiserverrl.processes import Child, cause_of_exit, deferring, start_child
from tests.process_entries import HERE

DEADLINE_S = 30.0

Start = Callable[..., Child]


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, int]]:
    """A reading end, and the descriptor of the writing end, which the test gives away and closes."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader:
        yield reader, writing


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[Child] = []

    def start_one(entry: str, config: bytes = b"", *, writing: int | None = None) -> Child:
        fds = () if writing is None else (writing,)
        child = start_child(f"tests.process_entries:{entry}", config, name=entry, fds=fds, environment=HERE)
        children.append(child)
        if writing is not None:
            os.close(writing)
        return child

    yield start_one
    for child in children:
        child.kill()


def test_a_child_gets_its_config_and_its_descriptors(start: Start, pipe: tuple[BinaryIO, int]) -> None:
    reader, writing = pipe
    child = start("describe", b"plain bytes", writing=writing)
    assert json.loads(reader.read())["config"] == "plain bytes"
    assert child.wait(DEADLINE_S) == 0


def test_a_child_has_one_numerical_thread_and_its_own_group(
    start: Start, pipe: tuple[BinaryIO, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    reader, writing = pipe
    child = start("describe", writing=writing)
    known = json.loads(reader.read())
    assert set(known["threads"].values()) == {"1"}
    assert known["group"] == known["pid"] == child.pid


def test_a_thread_setting_of_the_user_stays(
    start: Start, pipe: tuple[BinaryIO, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    reader, writing = pipe
    start("describe", writing=writing)
    assert json.loads(reader.read())["threads"]["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("entry", "config", "code"), [("exit_with", b"3", 3), ("kill_itself", b"", -9)])
def test_the_exit_code_is_known(start: Start, entry: str, config: bytes, code: int) -> None:
    assert start(entry, config).wait(DEADLINE_S) == code


@pytest.mark.parametrize(
    ("code", "cause"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal SIGKILL"), (-15, "signal SIGTERM"), (-250, "signal 250")],
)
def test_a_cause_is_told_in_words(code: int, cause: str) -> None:
    assert cause_of_exit(code) == cause


def test_wait_gives_none_while_the_child_runs(start: Start, pipe: tuple[BinaryIO, int]) -> None:
    reader, writing = pipe
    child = start("wait_for_ever", writing=writing)
    reader.readline()
    assert child.wait(0.01) is None
    assert child.exitcode() is None


def test_stop_ends_a_child_with_sigterm(start: Start, pipe: tuple[BinaryIO, int]) -> None:
    reader, writing = pipe
    child = start("wait_for_ever", writing=writing)
    reader.readline()
    assert child.stop() == -signal.SIGTERM


def test_stop_kills_a_child_that_ignores_sigterm(start: Start, pipe: tuple[BinaryIO, int]) -> None:
    reader, writing = pipe
    child = start("ignore_sigterm", writing=writing)
    reader.readline()
    assert child.stop(grace_s=0.05) == -signal.SIGKILL


def test_a_child_that_dies_before_it_read_its_config_raises_nothing_here(start: Start) -> None:
    child = start("no_such_function", b"x" * 1_000_000)
    assert child.wait(DEADLINE_S) == 1


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="this system does not tell who is stopped")
def test_a_child_that_stands_still_is_seen_as_often_as_one_looks_and_can_be_woken(
    start: Start, pipe: tuple[BinaryIO, int]
) -> None:
    reader, writing = pipe
    child = start("wait_for_ever", writing=writing)
    reader.readline()
    assert not child.is_stopped()
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert child.is_stopped()
    assert child.is_stopped(), "a look takes nothing away"
    assert child.exitcode() is None
    child.wake()
    os.waitid(os.P_PID, child.pid, os.WCONTINUED | os.WNOWAIT)
    assert not child.is_stopped()
    child.send_signal(signal.SIGSTOP)
    child.kill()
    assert child.exitcode() == -signal.SIGKILL
    assert not child.is_stopped()


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")
def test_a_grandchild_dies_with_its_parents_kill_9(start: Start, pipe: tuple[BinaryIO, int]) -> None:
    reader, writing = pipe
    parent = start("start_one_that_waits", writing=writing)
    assert int(reader.readline()) != parent.pid
    parent.kill()
    assert reader.read() == b""  # the end of the file: no process is left that holds the writing end


def test_a_child_is_not_started_from_another_thread() -> None:
    caught: list[BaseException] = []

    def start_here() -> None:
        try:
            start_child("tests.process_entries:describe", b"", name="stray")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start_here)
    thread.start()
    thread.join()
    assert "start stray from the main thread" in str(caught[0])


def test_what_a_child_started_ends_with_it(start: Start, pipe: tuple[BinaryIO, int]) -> None:
    reader, writing = pipe
    child = start("start_another_and_wait", writing=writing)
    assert reader.readline() == b"started\n"
    child.kill()
    assert reader.read() == b""  # the last one that could write has ended


def test_a_child_says_what_memory_it_has_for_itself_until_it_ends(start: Start, pipe: tuple[BinaryIO, int]) -> None:
    reader, writing = pipe
    child = start("hold_50_mb", writing=writing)
    assert reader.readline() == b"held\n"
    held = child.memory_bytes()
    assert held is not None and 50e6 < held < 200e6
    child.kill()
    assert child.memory_bytes() is None


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="of Linux alone")
def test_children_that_are_started_deferring_interrupt_nobody_and_their_parent_stays_as_it_was(start: Start) -> None:
    with deferring():
        child = start("wait_for_ever")
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(child.pid) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
