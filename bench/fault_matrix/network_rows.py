"""Faults of packets and of the network between client and server."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from matrix import Effort, FaultRow, Seen, at_most
from multiserverrl.client.api import describe
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import SessionLost
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving
from packet_wire import CLIENT, SERVER, PacketWire, Weather
from scene import Digest, local_walk, percentile, walk

CARTPOLE, TOKEN = "CartPole-v1", "of-the-fault-matrix"
DELAY_S = 0.1
BAD = Weather(DELAY_S, jitter_s=0.02, lost=0.05, held_back=0.05, doubled=0.02, damaged=0.02)
LANES, LANE_ENVS = 4, 2
HEAL_S = 2.0  # from the heal to the first step, at most


@contextlib.contextmanager
def served_over_wire(*env_ids: str, seed: int = 0, **settings: Any) -> Iterator[tuple[PacketWire, RunningServer]]:
    """A wire with an env server at its far end."""
    with tempfile.TemporaryDirectory() as folder, PacketWire(seed=seed) as wire, contextlib.ExitStack() as served:
        token_file = pathlib.Path(folder, "token")
        token_file.write_text(TOKEN)
        token_file.chmod(0o600)
        with wire.inside(SERVER):
            server = served.enter_context(
                serving(*env_ids, **{"host": SERVER, "count": 16, "token_file": str(token_file), **settings})
            )
        yield wire, server


def virtual(url: Any, num_envs: int, **settings: Any) -> VirtualVectorEnv:
    """Envs whose observations come over the wire."""
    return VirtualVectorEnv(url, CARTPOLE, num_envs, token=TOKEN, shared_memory=False, **settings)


# -- 3: a bad wire ---------------------------------------------------------------------------------


def bad_wire(effort: Effort) -> Seen:
    """The same walks over a clear wire, over one that only delays, and over a bad one."""
    plenty, enough = effort.times(300, 2000), effort.times(12, 150)
    with served_over_wire(CARTPOLE, seed=effort.seed, workers=1) as (wire, server), wire.inside(CLIENT):
        envs, laned = virtual(server.url, 8), virtual(server.url, LANES * LANE_ENVS, lanes=LANES)
        weathers = ((Weather(), plenty), (Weather(DELAY_S), enough), (BAD, enough))
        told = [_paces(wire, envs, laned, weather, steps) for weather, steps in weathers]
        envs.close()
        laned.close()
    clear, delayed, bad = told
    wrong, reconnects = sum(pace.wrong for pace in told), sum(pace.reconnects for pace in told)
    done = ", ".join(f"{wire.counts[kind]} packets {kind}" for kind in ("lost", "held back", "doubled", "damaged"))
    return Seen(
        f"{plenty + 2 * enough} steps of 8 envs in one lane, as many in {LANES} lanes in flight; "
        f"{done} of {wire.counts['packets']}",
        f"steps/s in one lane: {clear.lone:.0f} clear, {delayed.lone:.2f} delayed, {bad.lone:.2f} bad: "
        f"{bad.lone * 2 * DELAY_S:.0%} of what the delay allows; in {LANES} lanes in flight: {clear.laned:.0f}, "
        f"{delayed.laned:.2f}, {bad.laned:.2f}: {bad.laned * 2 * DELAY_S / LANES:.0%}; connections made anew: "
        f"{reconnects}; walks that differ: {wrong}",
        not wrong,
    )


class _Pace(NamedTuple):
    lone: float  # steps/s of all envs in one message
    laned: float  # steps/s of lanes
    wrong: int  # walks that differed from the local ones
    reconnects: int


def _paces(wire: PacketWire, envs: Any, laned: VirtualVectorEnv, weather: Weather, steps: int) -> _Pace:
    wire.weather, before = weather, _reconnects(envs, laned)
    began = time.monotonic()
    lone = walk(envs, steps)
    lone_s = time.monotonic() - began
    in_flight, laned_s = _laned_walk(laned, steps)
    wrong = lone != local_walk(CARTPOLE, envs.num_envs, steps)
    wrong_lanes = sum(
        lane != local_walk(CARTPOLE, LANE_ENVS, steps, seed=LANE_ENVS * index) for index, lane in enumerate(in_flight)
    )
    anew = _reconnects(envs, laned) - before
    return _Pace((steps + 1) / lone_s, LANES * steps / laned_s, wrong + wrong_lanes, anew)


def _reconnects(*several: VirtualVectorEnv) -> int:
    return sum(remote.link.reconnects for envs in several for remote in envs._remotes)


def _laned_walk(envs: VirtualVectorEnv, steps: int) -> tuple[list[str], float]:
    """Each lane's walk, as `walk` makes it, with all lanes in flight; and the seconds that the steps took."""
    digests = [Digest() for _ in range(LANES)]
    choices = [np.random.default_rng(LANE_ENVS * lane) for lane in range(LANES)]
    rows = [list(range(LANE_ENVS * lane, LANE_ENVS * (lane + 1))) for lane in range(LANES)]
    obs, _ = envs.reset(seed=0)
    for lane, digest in enumerate(digests):
        digest.add(obs[rows[lane]])
    began, left = time.monotonic(), [steps] * LANES
    for lane in range(LANES):
        envs.send(choices[lane].integers(0, 2, LANE_ENVS), rows[lane])
    while any(left):
        *answer, infos = envs.recv()
        for first in range(0, len(infos["env_id"]), LANE_ENVS):
            lane = int(infos["env_id"][first]) // LANE_ENVS
            digests[lane].add(*(part[first : first + LANE_ENVS] for part in answer))
            left[lane] -= 1
            if left[lane]:
                envs.send(choices[lane].integers(0, 2, LANE_ENVS), rows[lane])
    return [digest.text() for digest in digests], time.monotonic() - began


# -- 4: no wire ------------------------------------------------------------------------------------


class _Walker(threading.Thread):
    """Walks on and on, on its own thread at the client's end, and notes when each step was there."""

    def __init__(self, wire: PacketWire, url: Any, **settings: Any) -> None:
        super().__init__(name="walker")
        self._wire, self._url, self._settings = wire, url, settings
        self.is_to_end = threading.Event()
        self.steps, self.healed_at = 0, 0.0
        self.after_heal_s: list[float] = []
        self.is_equal, self.lost = False, ""

    def run(self) -> None:
        with self._wire.inside(CLIENT):
            envs = virtual(self._url, 4, **self._settings)
            try:
                self._walk(envs)
            except SessionLost as error:
                self.lost = str(error)
            envs.close()

    def _walk(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        digest, choices = Digest(), np.random.default_rng(0)
        digest.add(envs.reset(seed=0)[0])
        while not self.is_to_end.is_set() or self.healed_at:
            digest.add(*envs.step(choices.integers(0, 2, 4))[:4])
            self.steps += 1
            if self.healed_at:
                self.after_heal_s.append(time.monotonic() - self.healed_at)
                self.healed_at = 0.0
        self.is_equal = digest.text() == local_walk(CARTPOLE, 4, self.steps)


def no_wire(effort: Effort) -> Seen:
    """The wire is cut while clients step; it heals, and they go on. Then it is cut for longer than sessions live."""
    gone_s = [30.0, *range(1, 11)] if effort.is_whole else [6.0]
    with served_over_wire(CARTPOLE, workers=2) as (wire, server):
        kinds: list[dict[str, Any]] = [{}, {"lanes": 2}, {"checksum": True}]
        walkers = [_Walker(wire, server.url, **kind) for kind in kinds] + [_Walker(wire, [server.url] * 2)]
        for walker in walkers:
            walker.start()
        for seconds in gone_s:
            _cut_for(wire, walkers, seconds)
        for walker in walkers:
            walker.is_to_end.set()
            walker.join()
    after = [seconds for walker in walkers for seconds in walker.after_heal_s]
    wrong = sum(not walker.is_equal for walker in walkers)
    lost_s, freed_s, left = _gone_for_good()
    longest = [walker.after_heal_s[0] for walker in walkers]
    times = f"{len(gone_s)} times" if len(gone_s) > 1 else "once"
    return Seen(
        f"the network of {len(walkers)} clients gone {times}, for up to {max(gone_s):.0f} s; once more for good",
        f"s from heal to first step: {max(longest):.2f} at most after {gone_s[0]:.0f} s; after any {max(after):.2f} "
        f"at most, p50 {percentile(after, 0.5):.2f}; walks that differ: {wrong}; gone for good: SessionLost after "
        f"{lost_s:.1f} s, envs free after {freed_s:.1f} s, descriptors left at the server: {left}",
        not wrong and max(lost_s, freed_s) < float("inf") and left <= 0,
        (
            at_most(HEAL_S, "s", "heal to first step", max(longest)),
            at_most(15, "s", "gone for good to SessionLost", lost_s),
            at_most(15, "s", "gone for good to free envs", freed_s),
        ),
    )


def _cut_for(wire: PacketWire, walkers: list[_Walker], seconds: float) -> None:
    for walker in walkers:
        began = walker.steps
        while walker.is_alive() and walker.steps < began + 20:
            time.sleep(0.01)
    wire.cut()
    time.sleep(seconds)
    now = time.monotonic()
    for walker in walkers:
        walker.healed_at = now
    wire.heal()
    while any(walker.healed_at and walker.is_alive() for walker in walkers):
        time.sleep(0.01)


def _gone_for_good() -> tuple[float, float, int]:
    """Seconds until the client gave up, and until the server had its envs back; more descriptors there than before."""
    with served_over_wire(CARTPOLE, workers=1, time_to_live_s=2.0, silence_s=2.0) as (wire, server):
        front = pathlib.Path(f"/proc/{server.pids()[0]}/fd")
        with wire.inside(SERVER):
            capacity = describe(server.url, token=TOKEN).free
        before = len(list(front.iterdir()))
        walker = _Walker(wire, server.url)
        walker.start()
        while walker.steps < 20:
            time.sleep(0.01)
        wire.cut()
        began, freed_s = time.monotonic(), float("inf")
        while walker.is_alive() or freed_s == float("inf"):
            with wire.inside(SERVER):
                if describe(server.url, token=TOKEN).free == capacity:
                    freed_s = min(freed_s, time.monotonic() - began)
            if time.monotonic() - began > 60:
                break
            time.sleep(0.02)
        lost_s = time.monotonic() - began if walker.lost else float("inf")
        wire.heal()
        walker.join()
        while (left := len(list(front.iterdir())) - before) > 0 and time.monotonic() - began < 90:
            time.sleep(0.05)
        return lost_s, freed_s, left


ROWS: list[FaultRow] = [
    FaultRow(
        "3", "5 % loss, 100 ms delay each way, jitter, reordering, duplicates, damaged packets",
        "the same walk to the bit", bad_wire, needs_root=True,
    ),
    FaultRow(
        "4", "network gone in mid-episode; gone for longer than a session lives",
        f"the same episode goes on within {HEAL_S:.0f} s; else SessionLost, and all is freed", no_wire, needs_root=True,
    ),
]  # fmt: skip
