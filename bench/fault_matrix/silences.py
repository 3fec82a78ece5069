"""Networks that are away for a while or for good, clients that stay silent, and clients that are stopped."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from matrix import Effort, Seen, at_most
from multiserverrl.client.api import describe
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import SessionLost
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.relay import Relay
from multiserverrl.testing.serving import serving
from stopped_learner import learner_to_stop
from twins import SCRIPTED, Twins, scripted_twins, wait_until

__all__ = ["lose_network", "pause_clients"]

HEALED_WITHIN_S = 2.0
SHORT_S = 3.0  # shorter than a pause, longer than a machine with too much to do stands still


def lose_network(effort: Effort) -> Seen:
    """Away for 30 s in mid-step by silence, by silence that the client notices, by resets; then for too long."""
    away_s = effort.times(3, 30)
    heals: list[float] = []
    wrong = beyond = 0
    with tempfile.TemporaryDirectory() as folder, serving(SCRIPTED, count=2, workers=1) as server:
        for name, timeout_s in (("silent", 180.0), ("silence noticed", 1.0), ("reset", 180.0)):
            with Relay(server.url) as relay:
                envs = VirtualVectorEnv(relay.url, num_envs=2, timeout_s=timeout_s)
                twins = scripted_twins(envs, os.path.join(folder, name), effort.seed)
                for _ in range(3):
                    twins.step()
                heals.append(_step_through(twins, relay, away_s, is_reset=name == "reset"))
                for _ in range(20):
                    twins.step()
                wrong, beyond = wrong + twins.wrong, beyond + abs(twins.applied_beyond())
                twins.close()
    lost, freed = _lose_for_good(effort)
    return Seen(
        f"{len(heals)} outages of {away_s} s in mid-step, 4 beyond the session's time to live",
        f"steps told wrong {wrong}, applied − wanted {beyond}, s from heal to first step {max(heals):.2f}; "
        f"gone for good: {lost}; envs not freed {freed}",
        wrong == beyond == freed == 0 and max(heals) < float("inf") and "not" not in lost,
        (at_most(HEALED_WITHIN_S, "s", "heal to first step", max(heals)),),
    )


def _step_through(twins: Twins, relay: Relay, away_s: float, *, is_reset: bool) -> float:
    """A step while the network is away; seconds from its return to the step's answer."""
    healed: list[float] = []

    def heal() -> None:
        healed.append(time.monotonic())
        relay.refusing = False
        relay.flow()

    if is_reset:
        relay.refusing = True
        relay.cut_now("rst")
    else:
        relay.stall()
    timer = threading.Timer(away_s, heal)
    timer.start()
    twins.step()
    answered = time.monotonic()
    timer.join()
    return answered - healed[0] if healed and answered >= healed[0] else float("inf")


def _lose_for_good(effort: Effort) -> tuple[str, int]:
    """What the caller sees in each way of asking, and how many envs are not free in the end."""
    seen: list[str] = []
    time_to_live_s = effort.times(1, 5)
    with serving(SCRIPTED, count=2, workers=1, time_to_live_s=time_to_live_s) as server:
        seen.append(_outlived(server, "raise", "next_step"))
        seen += [_outlived(server, "truncate", mode) for mode in ("next_step", "same_step", "disabled")]
        is_free = wait_until(lambda: describe(server.url).free == 2, time_to_live_s + 30)
        held = 0 if is_free else 2 - describe(server.url).free
    return ", ".join(dict.fromkeys(seen)), held


def _outlived(server: RunningServer, on_lost: str, mode: str) -> str:
    """Keep a client from its server until its session is gone, then let it step."""
    with Relay(server.url) as relay:
        envs = VirtualVectorEnv(relay.url, num_envs=2, autoreset_mode=mode, on_lost=on_lost)
        envs.reset(seed=0)
        actions = np.zeros(2, np.int64)
        envs.step(actions)
        relay.refusing = True
        relay.cut_now("rst")
        is_free = wait_until(lambda: describe(server.url).free == 2, 60)
        relay.refusing = False
        try:
            told = envs.step(actions)
        except SessionLost:
            found = "SessionLost" if on_lost == "raise" and is_free else "not truncated"
        else:
            causes = told[4].get("multiserverrl", {}).get("lost", [])
            found = "truncated with the cause" if told[3].all() and len(causes) == 2 and is_free else "not truncated"
        envs.close()
    return found


CLIENT = """
import sys
import numpy as np
from twins import scripted_twins
from multiserverrl.client.vector import VirtualVectorEnv
twins = scripted_twins(VirtualVectorEnv(sys.argv[1], num_envs=2), sys.argv[2])
for line in sys.stdin:
    twins.step()
    print(twins.wrong + abs(twins.applied_beyond()), twins.envs._remotes[0].link.reconnects, flush=True)
"""


def pause_clients(effort: Effort) -> Seen:
    """A client that says nothing, one with an unread answer, one stopped, a stopped learner: at once, then on."""
    silent_s, stopped_s = effort.times(8, 600), effort.times(8, 300)
    times: dict[str, Any] = dict.fromkeys(("time_to_live_s", "idle_s", "step_deadline_s"), SHORT_S)
    settings = {} if effort.is_whole else times
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        learner = opened.enter_context(learner_to_stop(pathlib.Path(folder) / "learner", **settings))
        server = opened.enter_context(serving(SCRIPTED, count=6, workers=2, **settings))
        silent = scripted_twins(VirtualVectorEnv(server.url, num_envs=2), os.path.join(folder, "silent"))
        unread = scripted_twins(VirtualVectorEnv(server.url, num_envs=2), os.path.join(folder, "unread"))
        stopped = _Client(server.url, os.path.join(folder, "stopped"))
        for step in (silent.step, unread.step, stopped.step):
            step()
        actions = np.zeros(2, np.int64)
        unread.envs.step_async(actions)
        learner.stop()
        stopped.stop()
        time.sleep(stopped_s)
        stopped.go_on()
        learned = learner.go_on()
        time.sleep(silent_s - stopped_s)
        unread.told(unread.envs.step_wait(), actions)
        wrong = reconnects = 0
        for _ in range(10):
            silent.step()
            unread.step()
            told = stopped.step()
        wrong = silent.wrong + unread.wrong + abs(silent.applied_beyond()) + abs(unread.applied_beyond()) + told[0]
        reconnects = sum(twins.envs._remotes[0].link.reconnects for twins in (silent, unread)) + told[1]
        for ending in (silent.close, unread.close, stopped.close):
            ending()
    short = f"a time to live, an idle time and a step deadline of {SHORT_S:g} s"
    of = "default settings" if effort.is_whole else short
    return Seen(
        f"a client silent and one with an unread answer for {silent_s} s, "
        f"one stopped, and the learner of a run, for {stopped_s} s "
        f"({of})",
        f"steps told wrong or too many {wrong}, connections made anew {reconnects}: the same episodes go on; the run's "
        f"sessions made anew {learned.reopened}, its transitions amiss {learned.amiss}, episodes that ended afterwards "
        f"{learned.episodes}, updates {learned.updates}",
        wrong == reconnects == 0 and learned.holds,
    )


class _Client:
    """A client in a process of its own, which can be stopped."""

    def __init__(self, url: str, counter: str) -> None:
        folder = os.path.dirname(__file__)
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, url, counter],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip

    def step(self) -> tuple[int, int]:
        """(steps told wrong or too many so far, connections made anew)."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        wrong, reconnects = self._process.stdout.readline().split()
        return int(wrong), int(reconnects)

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self._process.communicate(timeout=60)
