"""Row 7: an env worker that does not answer: stopped, or in an env that never returns."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from matrix import Effort, Seen, at_most
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import EnvFault
from unruly import UNRULY, Seat, health_of, quiet_serving, seated, told_of

_DEADLINE_S, _START_DEADLINE_S = 2.0, 4.0  # longer than a machine with too much to do stands still
_MOST_LATE_S, _HUNG_S = 1.0, 30.0
_LEAST_LATE_S = -0.1  # what is over before its deadline did not end by it; two processes' clocks are looked at

Struck = Callable[[], int]


def _spins_in_step(seat: Seat, struck: Struck) -> float:
    seat.arm("spin")
    return _late(seat)


def _spins_in_reset(seat: Seat, struck: Struck) -> float:
    """A reset that ends no episode is tried again; the second one, of a new env, works."""
    seat.arm("spin_reset", at=1)
    seat.step()
    began = time.monotonic()
    seat.envs.reset(seed=1)
    return time.monotonic() - began - _DEADLINE_S


def _stopped_idle(seat: Seat, struck: Struck) -> float:
    seat.arm("")
    os.kill(struck(), signal.SIGSTOP)
    return _late(seat)


def _stopped_in_step(seat: Seat, struck: Struck) -> float:
    seat.arm("sleep", sleep_s=1.8)
    with _later(0.2, lambda: os.kill(struck(), signal.SIGSTOP)):
        return _late(seat)


def _late(seat: Seat) -> float:
    """How long past the deadline a step told of its fault; WrongAnswer where it did not."""
    began = time.monotonic()
    told = told_of(seat.step())
    late_s = time.monotonic() - began - _DEADLINE_S
    if not told.is_truncated or "deadline" not in told.cause:
        raise _WrongAnswerError(f"{told}")
    return late_s


class _WrongAnswerError(Exception):
    pass


@contextmanager
def _later(pause_s: float, act: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(pause_s, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


_WAYS = (_spins_in_step, _spins_in_reset, _stopped_idle, _stopped_in_step)


def run(effort: Effort) -> Seen:
    """Each way through the front and on a lent connection; then an env that is never made."""
    late: list[float] = []
    wrong = 0
    for is_lent in (True, False):
        for way in itertools.chain.from_iterable([_WAYS] * effort.times(1, 5)):
            with (
                quiet_serving(step_deadline_s=_DEADLINE_S) as (server, struck),
                seated(server, is_lent=is_lent) as seat,
            ):
                try:
                    late.append(way(seat, struck))
                    wrong += told_of(seat.step()).cause != ""  # it goes on
                    wrong += health_of(server)["restarts"] != 1  # by the end of one worker, whatever the client saw
                except _WrongAnswerError:
                    wrong += 1
    late.append(_never_made())
    late.sort()
    seen = f"{late[0]:.2f} to {late[-1]:.2f} s past the deadline, p50 {late[len(late) // 2]:.2f} s"
    holds = not wrong and late[0] >= _LEAST_LATE_S and late[-1] < _HUNG_S
    figures = (at_most(_MOST_LATE_S, "s", "past the deadline", late[-1]),)
    return Seen(f"{len(late)} times, a deadline of {_DEADLINE_S:g} s", f"{wrong} wrong; {seen}", holds, figures)


def _never_made() -> float:
    with quiet_serving(start_deadline_s=_START_DEADLINE_S, allow_arg="at_make") as (server, _):
        began = time.monotonic()
        try:
            VirtualVectorEnv(server.url, UNRULY, 1, arguments={"at_make": "spin"}).close()
        except EnvFault as fault:
            if "deadline" in str(fault):
                return time.monotonic() - began - _START_DEADLINE_S
        raise _WrongAnswerError("an env that is never made was not refused for its deadline")
