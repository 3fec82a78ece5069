"""The row about a long round trip: K lanes of G envs in flight over a link of 20 ms, for K = 1 to 32.

The model. A lane's step takes a round trip of the link and the time in which the server steps that lane; K lanes in
flight overlap all of that, until the server has no time left. So at best

    min(server's rate, K * G / (round trip + a lane's time))

env steps a second. The server's rate (all 32 lanes in flight) and a lane's time (one lane, one step after the other)
are measured in the same start without the link; the round trip counts as 20 ms sharp, so the relay's own
lateness is held against us. The server has two workers and envs that sleep 1 ms, and a lane's 4 envs are
spread over both: up to K = 8 the link is the limit, from 16 on the server. The figure is the least ratio to
the model. The last line shows what is behind the model: the server's rate against that of two envs in process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import gymnasium
import numpy as np

import multiserverrl as msr
import placement
from rates import rate_of
from rows import Row, Settings, Start, ratio

ENV_ID, WORKERS, LANE_ENVS, LANES = "bench_envs:Sleeping1ms-v0", 2, 4, (1, 2, 4, 8, 16, 32)
ROUND_TRIP_S = 0.020


def bound(lanes: int, server_rate: float, lane_s: float) -> float:
    """The model's env steps a second."""
    return min(server_rate, lanes * LANE_ENVS / (ROUND_TRIP_S + lane_s))


def steady_rate(url: str, lanes: int, seconds: float) -> float:
    """Env steps a second with all lanes in flight, counted from one answer of the first lane to a later one of it."""
    envs = msr.VirtualVectorEnv(
        url, num_envs=lanes * LANE_ENVS, lanes=lanes, autoreset_mode="same_step", shared_memory=False
    )
    envs.reset(seed=0)
    actions = np.zeros(envs.num_envs, int)
    envs.send(actions)

    def count_until(due: float) -> tuple[int, float]:
        """Answers up to the first lane's next one after `due`, and when that came."""
        count = 0
        while True:
            env_ids = envs.recv()[4]["env_id"]
            now = time.perf_counter()
            envs.send(actions[: len(env_ids)], env_ids)
            count += len(env_ids)
            if now >= due and env_ids[0] == 0:
                return count, now

    _, began = count_until(time.perf_counter() + 0.2 * seconds)
    count, ended = count_until(began + seconds)
    envs.recv(envs.num_envs)
    envs.close()
    return count / (ended - began)


@contextlib.contextmanager
def slow_url(url: str, core: int) -> Iterator[str]:
    """The server's address behind the slow link."""
    port = url.rpartition(":")[2]
    command = [str(placement.HERE / "slow_link.py"), port, str(ROUND_TRIP_S / 2)]
    with placement.server(command, core, "ready") as running:
        yield f"http://127.0.0.1:{running.told.split()[1]}"


def over_a_slow_link(settings: Settings) -> Start:
    """One start of the server and of the relay, which runs on the client's core."""
    local = gymnasium.make(ENV_ID)
    local.reset()
    share_s = settings.seconds / 2
    local_rate = rate_of(local.step, [0, 1], 1, stride=1)(share_s / 2)
    core, most = settings.server_core("split"), max(LANES)
    with (
        placement.env_server(ENV_ID, most * LANE_ENVS, core, workers=WORKERS) as (url, _),
        slow_url(url, settings.client_core) as slow,
    ):
        lane_s = LANE_ENVS / steady_rate(url, 1, share_s)
        server_rate = steady_rate(url, most, share_s)
        curve = {}
        for lanes in LANES:
            curve[f"K={lanes}"] = ratio(bound(lanes, server_rate, lane_s), steady_rate(slow, lanes, share_s))
    least = min(curve.values(), key=lambda part: part.figure)
    beside = {"without the link, against 2 envs in process": ratio(WORKERS * local_rate, server_rate)}
    return Start(least, {**curve, **beside})


ROWS = [Row("L", "20 ms link, 1 ms envs, K lanes of 4: least", "the model of round_trip.py", 0.9, over_a_slow_link)]
