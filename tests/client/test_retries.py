"""How long each kind of failure is tried again, with a clock of the test's own; and that nobody else tries again."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from multiserverrl.client.api import describe
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.retries import DOUBTS, LONGEST_PAUSE_S, REFUSED_S, Budgets, Failure, Outage, failure_of
from multiserverrl.errors import MultiServerRLError, ServerUnreachable, SessionLost
from multiserverrl.testing.relay import Relay
from multiserverrl.testing.serving import serving, worker_pids
from tests.client.conftest import ENVS

SCRIPTED = f"{ENVS}:Scripted"


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now += duration_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def outage_of(clock: Clock, time_to_live_s: float = 120.0, timeout_s: float = 180.0, part: float = 1.0) -> Outage:
    return Outage(Budgets.of(time_to_live_s, timeout_s), clock=clock, sleep=clock.sleep, part=lambda: part)


def given_up_after(clock: Clock, outage: Outage, kind: Failure) -> float:
    began = clock.now
    while not outage.is_over(kind):
        clock.now += 0.25
    return clock.now - began


@pytest.mark.parametrize(
    ("kind", "time_to_live_s", "timeout_s", "wanted_s"),
    [
        (Failure.REFUSED, 120, 180, REFUSED_S),
        (Failure.REFUSED, 1, 180, REFUSED_S),
        (Failure.CUT, 120, 180, 120),
        (Failure.CUT, 120, 1, 120),
        (Failure.TIMED_OUT, 120, 180, 360),
        (Failure.TIMED_OUT, 120, 1, 120),
    ],
)
def test_each_kind_of_failure_has_a_budget_of_its_own(
    clock: Clock, kind: Failure, time_to_live_s: float, timeout_s: float, wanted_s: float
) -> None:
    outage = outage_of(clock, time_to_live_s, timeout_s)
    assert given_up_after(clock, outage, kind) == pytest.approx(wanted_s, abs=0.3)


def test_refusals_count_from_the_first_in_a_row_and_never_beyond_the_time_to_live(clock: Clock) -> None:
    outage = outage_of(clock)
    clock.now += 60  # the network was away
    assert not outage.is_over(Failure.CUT)
    assert not outage.is_over(Failure.REFUSED)
    clock.now += REFUSED_S - 1
    assert not outage.is_over(Failure.REFUSED)
    assert not outage.is_over(Failure.CUT)
    clock.now += 3
    assert not outage.is_over(Failure.REFUSED)  # a new row of them
    clock.now += 60
    assert outage.is_over(Failure.REFUSED)


def test_the_first_try_comes_at_once_and_pauses_double_to_a_bound(clock: Clock) -> None:
    outage = outage_of(clock)
    for _ in range(9):
        outage.pause()
    assert clock.slept == [0.05, 0.1, 0.2, 0.4, 0.8, *[LONGEST_PAUSE_S] * 3]


def test_a_thousand_clients_that_are_cut_at_once_come_back_spread_over_the_pause() -> None:
    tries: list[float] = []
    for _ in range(1000):
        clock = Clock()
        outage = Outage(Budgets.of(120, 180), clock=clock, sleep=clock.sleep)
        for _ in range(5):  # the fifth try: a server that was away for about half a second
            outage.pause()
        tries.append(clock.slept[-1])
    busiest = max(sum(begin <= one < begin + 0.05 for one in tries) for begin in [0.05 * number for number in range(8)])
    assert busiest < 200  # of 1000, in an eighth of the pause of 0.4 s
    assert min(tries) < 0.02 and max(tries) > 0.38


def test_what_is_said_of_our_bytes_is_doubted_so_often_and_no_more(clock: Clock) -> None:
    outage = outage_of(clock)
    assert [outage.is_doubted() for _ in range(DOUBTS + 1)] == [True] * DOUBTS + [False]


def test_only_a_refused_connection_is_a_refusal() -> None:
    unreachable = ServerUnreachable("nobody")
    assert failure_of(unreachable) is Failure.CUT
    unreachable.__cause__ = ConnectionRefusedError()
    assert failure_of(unreachable) is Failure.REFUSED
    assert failure_of(TimeoutError()) is Failure.CUT


@pytest.fixture
def broken(url: str) -> Iterator[Relay]:
    with Relay(url) as relay:
        relay.refusing = True
        yield relay


@pytest.mark.parametrize("what", [describe, lambda url: VirtualEnv(url, SCRIPTED)], ids=["describe", "open"])
def test_nobody_but_a_session_tries_again(broken: Relay, what: object) -> None:
    with pytest.raises(MultiServerRLError):
        what(broken.url)  # type: ignore[operator]
    assert broken.connections == 1


def test_a_server_that_is_frozen_is_asked_again_and_given_up_in_bounded_time() -> None:
    with serving(SCRIPTED, count=1, workers=1, time_to_live_s=0.6) as server:
        env = VirtualEnv(server.url, timeout_s=0.3)
        env.reset(seed=1, options={"length": 100})
        frozen = [*server.pids(), *worker_pids(server)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(SessionLost, match=r"nothing came for 0.3 s.*could not be made again for \d s"):
                env.step(0)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        # timeout_s, the time to live, and the last try, which is as long as the shorter of both
        assert 0.9 <= time.monotonic() - began < 20
        env.close()


def test_a_server_that_is_frozen_for_a_while_answers_the_step_that_it_was_asked_again(url: str) -> None:
    with serving(SCRIPTED, count=1, workers=1, time_to_live_s=30) as server:
        env = VirtualEnv(server.url, timeout_s=0.2)
        env.reset(seed=1, options={"length": 100})
        frozen = [*server.pids(), *worker_pids(server)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        thaw = threading.Timer(0.5, lambda: [os.kill(pid, signal.SIGCONT) for pid in frozen])
        thaw.start()
        assert env.step(0)[0][0] == 1
        thaw.join()
        assert env._remote.link.reconnects >= 1
        assert env.step(0)[0][0] == 2
        env.close()


def test_a_server_that_resumes_but_never_answers_is_given_up(url: str) -> None:
    with serving(SCRIPTED, count=1, workers=1, time_to_live_s=0.3) as server:
        env = VirtualEnv(server.url, timeout_s=0.15)
        env.reset(seed=1, options={"length": 100})
        for pid in worker_pids(server):
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(SessionLost):
                env.step(0)
        finally:
            for pid in worker_pids(server):
                os.kill(pid, signal.SIGCONT)
        env.close()


def test_a_port_that_nobody_listens_on_is_tried_once_by_a_describe() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerUnreachable):
        describe(f"http://127.0.0.1:{port}", timeout_s=1.0)
