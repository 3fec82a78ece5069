"""Row 6: one of two env workers dies again and again, while others step."""

from __future__ import annotations

import itertools
import os
import signal
import time
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import SyncVectorEnv

from matrix import Effort, Seen, at_least, at_most
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.testing.unruly import Unruly
from scene import percentile
from unruly import UNRULY, Seat, Told, quiet_serving, seated, told_of
from walker import Walker

_EVERY_S = 2.0  # the others' rate is that of a server on which a worker dies so often
_FIRST_S = 1.0  # of them is told by itself, too: the new worker starts then
_QUIET_S = 1.0  # then nothing happens for so long, which is what both are compared with
_LEAST_RATE, _MOST_RECOVERY_S = 0.9, 2.0
_MEMORY_MB = 200
_NUM_ENVS = 4  # of the session that lies on both workers
_ACTIONS = np.arange(_NUM_ENVS) % 2

WAYS = {  # what to do, the cause that is to be told, and words that the worker must have left
    "kill": ("signal SIGKILL", ""),
    "say_exit": ("exit code 3", "these are my last words"),
    "segfault": ("signal SIGSEGV", "in string_at"),
    "hog": ("of memory, more than 1.5 times --max-worker-mb", ""),
}


class _Death(NamedTuple):
    way: str
    at: float
    recovery_s: float
    is_told: bool

    @property
    def first(self) -> tuple[float, float]:
        return self.at, self.at + max(_FIRST_S, self.recovery_s)

    @property
    def disturbed(self) -> tuple[float, float]:
        return self.at, self.at + max(_EVERY_S, self.recovery_s)

    @property
    def quiet(self) -> tuple[float, float]:
        return self.disturbed[1], self.disturbed[1] + _QUIET_S


class _Shared:
    """A session on both workers, step by step beside a local one: what the spared one has must be equal."""

    def __init__(self, url: str) -> None:
        self.envs = VirtualVectorEnv(url, UNRULY, _NUM_ENVS, on_fault="truncate")
        self._local = SyncVectorEnv([Unruly] * _NUM_ENVS)
        self.steps = self.wrong = self.faults = 0
        self._struck: set[int] = set()
        obs, wanted = (envs.reset(seed=1)[0] for envs in (self.envs, self._local))
        self.wrong += not np.array_equal(obs, wanted)

    def step(self) -> None:
        """One step of both; rows that have lost an episode are compared no more."""
        told, wanted = self.envs.step(_ACTIONS), self._local.step(_ACTIONS)
        self.faults += sum(bool(told_of(told, row).cause) for row in range(_NUM_ENVS))
        self._struck |= {row for row in range(_NUM_ENVS) if told_of(told, row).cause}
        for row in set(range(_NUM_ENVS)) - self._struck:
            self.wrong += not all(
                np.array_equal(mine[row], theirs[row]) for mine, theirs in zip(told[:4], wanted[:4], strict=True)
            )
        self.steps += 1

    def spared(self) -> int:
        """How many rows never lost an episode."""
        return _NUM_ENVS - len(self._struck)

    def close(self) -> None:
        self.envs.close()


def run(effort: Effort) -> Seen:
    """The victims' sessions are lent and through the front in turns; so are the walkers on the other worker."""
    deaths: list[_Death] = []
    per_part = effort.times(3, 50)
    parts = [_part(is_lent, per_part, effort.seed, deaths) for is_lent in (True, False)]
    recoveries = [death.recovery_s for death in deaths if death.way != "hog"]  # that one takes its time to grow
    wrong, untold = sum(part.wrong for part in parts), sum(not death.is_told for death in deaths)
    rates, firsts = [part.rate for part in parts], [part.first_rate for part in parts]
    what = (
        f"{wrong} wrong of {sum(part.compared for part in parts):,} steps of others, {untold} causes not told; "
        f"recovery p50 {percentile(recoveries, 0.5):.2f} s, p95 {percentile(recoveries, 0.95):.2f} s; "
        f"others' rate with a death every {_EVERY_S:g} s, of the quiet seconds' between: {rates[0]:.0%} (lent), "
        f"{rates[1]:.0%} (front); in the first second after a death: {firsts[0]:.0%} and {firsts[1]:.0%}"
    )
    figures = (
        at_least(100 * _LEAST_RATE, "%", "others' rate", 100 * min(rates)),
        at_most(_MOST_RECOVERY_S, "s", "recovery p95", percentile(recoveries, 0.95)),
    )
    done = f"{len(deaths)} deaths, {_EVERY_S + _QUIET_S:g} s apart or more, four ways"
    return Seen(done, what, not wrong and not untold, figures)


class _Part(NamedTuple):
    wrong: int
    compared: int
    rate: float
    first_rate: float


def _part(is_lent: bool, num_deaths: int, seed: int, deaths: list[_Death]) -> _Part:
    rng, begin = np.random.default_rng(seed), len(deaths)
    with quiet_serving(UNRULY, "CartPole-v1", max_worker_mb=_MEMORY_MB) as (server, struck):
        shared = _Shared(server.url)
        with seated(server, is_lent=is_lent) as victim:  # on the first worker, so the walker is on the other
            walker = Walker(server.url, "CartPole-v1", is_lent=is_lent)
            for way in itertools.islice(itertools.cycle(WAYS), begin, begin + num_deaths):
                deaths.append(_die(victim, way, struck, rng))
                shared.step()
                shared.step()
                time.sleep(max(0.0, deaths[-1].quiet[1] - time.monotonic()))
            walker.end()
        shared.close()
    mine = deaths[begin:]
    wrong = shared.wrong + (not walker.is_undisturbed()) + (shared.spared() != _NUM_ENVS // 2)
    quiet = walker.rate([death.quiet for death in mine])
    rate, first = (
        walker.rate(spans) / quiet for spans in ([death.disturbed for death in mine], [death.first for death in mine])
    )
    return _Part(wrong, walker.steps + shared.steps, rate, first)


def _die(victim: Seat, way: str, struck: Any, rng: np.random.Generator) -> _Death:
    cause, words = WAYS[way]
    victim.arm("" if way == "kill" else way, at=3)
    if way == "kill":
        time.sleep(float(rng.uniform(0, 0.01)))
        os.kill(struck(), signal.SIGKILL)
    at = time.monotonic()
    told: Told = told_of(victim.step())
    recovery_s = time.monotonic() - at
    is_told = told.is_truncated and cause in told.cause and words in told.last_words
    again = told_of(victim.step())  # the next episode has begun
    return _Death(way, at, recovery_s, is_told and not again.cause and not again.is_truncated)
