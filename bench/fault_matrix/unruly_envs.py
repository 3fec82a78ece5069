"""Row 8: what an env does to the process that it runs in, and to those who wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from matrix import Effort, Figure, Seen, at_most
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import EnvFault, ServerFull
from multiserverrl.server.run import RunningServer
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Step
from scene import Leftovers, leftovers, local_walk, walk
from unruly import UNRULY, health_of, quiet_serving, seated, told_of

_WALK = 300
_RAISING = {  # what the env does, and what its client is told
    "raise": ("ValueError: the script says: fail", "raise ValueError"),
    "leave": ("SystemExit: the script says: leave", "sys.exit"),
    "mute": ("_MuteError", "raise _MuteError"),
    "long": ("ValueError: yyy", "yyy"),
    "reward": ("could not convert", ""),
}
_LIMIT_MB, _LEAK_MB, _EPISODE = 150, 3, 3
_PRINTED_MB = 100


class _Found(NamedTuple):
    is_right: bool
    text: str
    figures: tuple[Figure, ...] = ()


def run(effort: Effort) -> Seen:
    """Each kind of unruliness, with the sessions lent and through the front in turns where that makes a difference."""
    checks: list[tuple[str, Callable[[bool, Effort], _Found]]] = [
        ("raising", _raising), ("printing", _printing), ("a mess", _mess), ("leaking", _leaking), ("a loop", _loop),
    ]  # fmt: skip
    found = [(name, check(is_lent, effort)) for name, check in checks for is_lent in (True, False)]
    wrong = [name for name, one in found if not one.is_right]
    told = "; ".join(f"{name}: {one.text}" for name, one in found[::2])
    figures = tuple(figure for _, one in found for figure in one.figures)
    return Seen(f"{len(found)} scenes", f"wrong: {', '.join(wrong) or 'none'}; {told}", not wrong, figures)


def _raising(is_lent: bool, effort: Effort) -> _Found:
    wrong, longest = 0, 0
    with quiet_serving() as (server, _):
        for how, (message, line) in _RAISING.items():
            with seated(server, is_lent=is_lent, on_fault="raise") as seat:
                seat.arm(how)
                try:
                    seat.step()
                    wrong += 1
                except EnvFault as fault:
                    wrong += message not in str(fault.args[0]) or line not in fault.remote_traceback
                    longest = max(longest, len(str(fault)))
                seat.envs.reset(seed=1)
                wrong += told_of(seat.step()).is_truncated
        workers = health_of(server)["restarts"]
    return _Found(
        not wrong and not workers and longest < 100_000, f"{len(_RAISING)} kinds, at most {longest:,} characters told"
    )


def _printing(is_lent: bool, effort: Effort) -> _Found:
    """While one env prints, the others on its worker and elsewhere see nothing of it in their bits."""
    slowest, wrong = 0.0, 0
    with quiet_serving(UNRULY, "CartPole-v1") as (server, _):
        for stream in ("stdout", "stderr"):
            with seated(server, is_lent=is_lent) as seat:
                others = VirtualVectorEnv(server.url, "CartPole-v1", 4)
                seat.arm("flood", mb=_PRINTED_MB, stream=stream)
                began = time.monotonic()
                wrong += told_of(seat.step()).is_truncated
                slowest = max(slowest, time.monotonic() - began)
                wrong += walk(others, _WALK) != local_walk("CartPole-v1", 4, _WALK)
                wrong += seat.step()[0][0, 0] != 4
                others.close()
        wrong += health_of(server)["restarts"]
    return _Found(not wrong, f"{_PRINTED_MB} MB in {slowest:.1f} s")


def _mess(is_lent: bool, effort: Effort) -> _Found:
    """Folder, signals, umask, descriptors, threads: the worker goes on, takes new envs, and ends when it is told to."""
    before, wrong = leftovers(), 0
    with quiet_serving(UNRULY, "CartPole-v1", count=20) as (server, _):
        with seated(server, is_lent=is_lent) as seat:
            others = VirtualVectorEnv(server.url, "CartPole-v1", 4)
            seat.arm("mess")
            wrong += told_of(seat.step()).is_truncated
            _hang_up(server)
            wrong += walk(others, _WALK) != local_walk("CartPole-v1", 4, _WALK)
            wrong += seat.step()[0][0, 0] != 4
            others.close()
        with seated(server, is_lent=is_lent) as another:
            another.arm("")
            wrong += told_of(another.step()).is_truncated
        wrong += health_of(server)["restarts"]
        began = time.monotonic()
        server.stop()
        stopped_s = time.monotonic() - began
    left: Leftovers = leftovers().more_than(before)
    return _Found(not wrong and not left, f"stopped in {stopped_s:.1f} s", (at_most(5, "s", "stopped", stopped_s),))


def _hang_up(server: RunningServer) -> None:
    """Clients that go without a word, while their worker still writes to them."""
    for _ in range(4):
        env = VirtualEnv(server.url, "CartPole-v1")
        env.reset()
        env.step(0)
        connection = env._remote.link._connection
        assert connection is not None
        for seq in range(3, 300):
            connection.send(frames.encode(Step(0, seq), bytes(8)))
        connection.drop()  # its answers unread


def _leaking(is_lent: bool, effort: Effort) -> _Found:
    """Episodes of an env that leaks in every step: none is lost, the worker is renewed between them."""
    faults = renewals = episodes = 0
    arguments, until = {"at_make": f"leak:{_LEAK_MB}"}, effort.times(2, 20)
    with quiet_serving(max_worker_mb=_LIMIT_MB, allow_arg="at_make") as (server, _):
        with seated(server, is_lent=is_lent, arguments=arguments) as seat:
            seat.envs.reset(seed=1)
            while renewals < until and episodes < 200 * until:
                answer = seat.step()
                faults += bool(told_of(answer).cause)
                renewals += "renewed" in answer[4].get("multiserverrl", {})
                if answer[2][0]:
                    episodes += 1
                    time.sleep(0.2)  # an env that leaks faster than 1.5 times the limit in a second is killed
        wrong = faults + (renewals < until) + (health_of(server)["status"] != "ok")
    return _Found(not wrong, f"{renewals} renewals in {episodes} episodes, {faults} lost")


def _loop(is_lent: bool, effort: Effort) -> _Found:
    """An env that kills its worker whenever it is made: refused in ever clearer words, and the rest goes on."""
    wrong, slowest, tries = 0, 0.0, 0
    with quiet_serving(allow_arg="at_make") as (server, _):
        hint = ""
        while not hint and tries < 40:
            tries += 1
            began = time.monotonic()
            try:
                VirtualVectorEnv(server.url, UNRULY, 1, arguments={"at_make": "kill"}, checksum=not is_lent)
            except ServerFull as full:
                hint = str(full)
                slowest = time.monotonic() - began
            except EnvFault as fault:
                wrong += "SIGKILL" not in str(fault)
        told = health_of(server)
        wrong += told["status"] != "degraded" or not any("SIGKILL" in one["cause"] for one in told["failing"])
        wrong += "SIGKILL" not in hint or "try again in" not in hint
        wrong += not _opens_within(server, 60.0, is_lent)
    figures = (at_most(1, "s", "refused with a hint", slowest),)
    return _Found(not wrong, f"refused with a hint in {slowest:.2f} s after {tries} tries", figures)


def _opens_within(server: RunningServer, limit_s: float, is_lent: bool) -> bool:
    """Whether an env that does no harm is to be had again so soon."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            with seated(server, is_lent=is_lent) as seat:
                seat.envs.reset(seed=1)
                return bool(np.isfinite(seat.step()[0]).all())
        except ServerFull:
            time.sleep(0.5)
    return False
