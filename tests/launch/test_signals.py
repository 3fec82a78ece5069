"""The first Ctrl-C asks, the second ends; one that comes twice is one."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from multiserverrl.launch import signals
from multiserverrl.launch.bells import Bell, new_bell
from multiserverrl.launch.signals import interrupts


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = new_bell()
    yield bell
    bell.close()


def test_before_there_is_anything_to_end_a_signal_interrupts_at_once() -> None:
    with interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_first_signal_rings_and_the_second_interrupts(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_S", 0.0)
    with interrupts() as caught:
        caught.watch(bell)
        signal.raise_signal(signal.SIGTERM)
        assert caught.signum == signal.SIGTERM
        assert bell.is_rung()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_that_comes_twice_at_once_is_one(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_S", 3600.0)
    with interrupts() as caught:
        caught.watch(bell)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert caught.signum == signal.SIGINT


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
