"""A client whose clock jumps, as a process of its own: prints as JSON what it saw. Started by `clock_rows`."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import gymnasium
import numpy as np

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import MultiServerRLError
from scene import Digest, local_walk

SCRIPTED, CARTPOLE = "multiserverrl.testing.envs:Scripted", "CartPole-v1"
SLOW_S, AWAY_S = 1.2, 1.0


class Jumps:
    """How often the clock of the wall was seen to have jumped."""

    def __init__(self) -> None:
        self.seen, self._offset_s = 0, time.time() - time.monotonic()

    def look(self) -> None:
        offset_s = time.time() - time.monotonic()
        if abs(offset_s - self._offset_s) > 60:
            self.seen += 1
        self._offset_s = offset_s


def main(url: str, seconds: float) -> dict[str, Any]:
    """Walk, step slowly, be away, wait for a free env; again and again while the clock jumps."""
    jumps, errors, rounds = Jumps(), list[str](), 0
    walking = VirtualVectorEnv(url, CARTPOLE, 4, timeout_s=20.0)
    slow = VirtualEnv(url, SCRIPTED, timeout_s=20.0)
    digest, choices = Digest(), np.random.default_rng(0)
    digest.add(walking.reset(seed=0)[0])
    steps, reconnects, until = 0, 0, time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            slow.reset(options={"how": "sleep", "at": 1, "sleep_s": SLOW_S})
            slow.step(0)
            jumps.look()
            slow._remote.link._drop()
            time.sleep(AWAY_S)
            jumps.look()
            slow.step(0)
            reconnects += 1
            steps += _steps(walking, digest, choices, jumps)
        except MultiServerRLError as error:
            errors.append(f"{type(error).__name__}: {error.headline}")
            break
        rounds += 1
    unwanted = walking._remotes[0].link.reconnects + slow._remote.link.reconnects - reconnects
    is_equal = digest.text() == local_walk(CARTPOLE, 4, steps)
    return {
        "jumps": jumps.seen, "rounds": rounds, "errors": errors, "reconnects": unwanted, "is_equal": is_equal,
    }  # fmt: skip


def _steps(envs: gymnasium.vector.VectorEnv[Any, Any, Any], digest: Digest, choices: Any, jumps: Jumps) -> int:
    for step in range(100):
        digest.add(*envs.step(choices.integers(0, 2, 4))[:4])
        time.sleep(0.002)
        if step % 10 == 0:
            jumps.look()
    return 100


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float(sys.argv[2]))), flush=True)
    os._exit(0)  # and leaves its sessions behind
