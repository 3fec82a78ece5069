"""A client in a process of its own that steps one env as fast as it can until its stdin closes, then says what it saw.

    python walker.py URL ENV_ID through-the-front|lent

It prints "walking" when it begins, and at the end a line of JSON: the steps, a digest of all they gave, and how many
there were by when. `Walker` is the other end.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

_SEED, _ACTIONS, _MARK_EVERY = 5, 4096, 50


class Walk:
    """The same actions again and again, and a hash of the answers: cheap beside a step."""

    def __init__(self, envs: Any) -> None:
        self.envs, self.steps = envs, 0
        self._hash = hashlib.blake2b(digest_size=16)
        number = int(envs.single_action_space.n)
        self._actions = np.random.default_rng(_SEED).integers(0, number, (_ACTIONS, envs.num_envs))
        self._hash.update(envs.reset(seed=_SEED)[0].tobytes())

    def step(self) -> None:
        for array in self.envs.step(self._actions[self.steps % _ACTIONS])[:4]:
            self._hash.update(array.tobytes())
        self.steps += 1

    def text(self) -> str:
        return self._hash.hexdigest()


class Walker:
    """Starts one, and ends it; `marks` are (monotonic second, steps so far) afterwards."""

    def __init__(self, url: str, env_id: str, *, is_lent: bool) -> None:
        self._env_id = env_id
        way = "lent" if is_lent else "through-the-front"
        command = [sys.executable, __file__, url, env_id, way]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"walking\n":
            raise RuntimeError("the walker did not begin")

    def end(self) -> None:
        told, _ = self._process.communicate(timeout=300)
        found = json.loads(told)
        self.steps, self._digest, self.marks = found["steps"], found["digest"], found["marks"]

    def is_undisturbed(self) -> bool:
        """Whether it saw, bit for bit, what an env of this process gives."""
        envs = gymnasium.make_vec(self._env_id, 1, vectorization_mode="sync")
        local = Walk(envs)
        while local.steps < self.steps:
            local.step()
        envs.close()
        return local.text() == self._digest

    def rate(self, spans: list[tuple[float, float]]) -> float:
        """Steps per second within these spans of the clock."""
        times, counts = np.array(self.marks).T
        walked = sum(np.interp(end, times, counts) - np.interp(begin, times, counts) for begin, end in spans)
        return float(walked / max(1e-9, sum(end - begin for begin, end in spans)))


def _main(url: str, env_id: str, way: str) -> None:
    from multiserverrl.client.vector import VirtualVectorEnv

    envs = VirtualVectorEnv(url, env_id, 1, checksum=way != "lent")  # with checksums it is the front that answers
    walk = Walk(envs)
    print("walking", flush=True)
    marks = [(time.monotonic(), 0)]
    while True:
        walk.step()
        if not walk.steps % _MARK_EVERY:
            marks.append((time.monotonic(), walk.steps))
            if select.select([0], [], [], 0)[0] and not os.read(0, 1):
                break
    print(json.dumps({"steps": walk.steps, "digest": walk.text(), "marks": marks}))
    envs.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    _main(*sys.argv[1:])
