"""Messages and bodies that end too early, over connections that are closed whole, by half, or in one-byte pieces."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import tempfile
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from gymnasium.vector import SyncVectorEnv

from matrix import Effort, Seen
from multiserverrl.client.api import describe
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import MultiServerRLError
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.envs import Scripted, count_of
from multiserverrl.testing.relay import Cut, Relay
from multiserverrl.testing.serving import serving, worker_pids
from twins import ENDLESS, SCRIPTED, Twins, descriptors_of, scripted_twins, wait_until

__all__ = ["cut_bodies"]

HOWS = ("fin", "rst", "half")


def cut_bodies(effort: Effort) -> Seen:
    """Steps over WebSocket cut at random bytes; a description, and steps over HTTP, cut at every byte."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(SCRIPTED, count=4, workers=1) as server,
        Relay(server.url) as relay,
    ):
        steps = os.path.join(folder, "steps")
        envs = VirtualVectorEnv(relay.url, num_envs=2)
        twins = scripted_twins(envs, steps, effort.seed)
        twins.step()
        before = _descriptors(server)
        _in_pieces(twins, relay, effort.times(50, 500))
        cuts = _random_cuts(twins, relay, effort.times(200, 5000), effort.seed)
        described, mistaken = _cut_descriptions(relay)
        stride = effort.times(5, 1)
        posted, wrong_posts = _cut_posts(relay, os.path.join(folder, "posted"), stride)
        settled = wait_until(lambda: _none_above(_descriptors(server), before), 60.0)
        after = _descriptors(server)
        wrong, beyond = twins.wrong, twins.applied_beyond()
        twins.close()
    leaked = [max(0, now - then) for now, then in zip(after, before, strict=True)]
    what = (
        f"cut bodies taken for answers {wrong + mistaken + wrong_posts}, applied − wanted {beyond}, "
        f"leaked descriptors {leaked[0]} at the client, {leaked[1]} at the server"
    )
    done = f"{cuts} steps cut at random bytes, {described} descriptions at every byte, {posted} steps over HTTP"
    return Seen(
        f"{done} at {'every byte' if stride == 1 else f'every {stride}th byte'} (FIN, RST, half-closed); "
        f"{effort.times(50, 500)} steps one byte at a time",
        what,
        wrong == mistaken == wrong_posts == beyond == 0 and settled,
    )


def _descriptors(server: RunningServer) -> tuple[int, int]:
    """Those of the client (and the relay's: two a connection), and those of the server's processes."""
    return descriptors_of([os.getpid()]), descriptors_of([*server.pids(), *worker_pids(server)])


def _none_above(now: tuple[int, int], before: tuple[int, int]) -> bool:
    return all(one <= then for one, then in zip(now, before, strict=True))


def _in_pieces(twins: Twins, relay: Relay, steps: int) -> None:
    relay.piece_bytes = 1
    for _ in range(steps):
        twins.step()
    relay.piece_bytes = 0


def _random_cuts(twins: Twins, relay: Relay, rounds: int, seed: int) -> int:
    choices = np.random.default_rng(seed)
    before = relay.cuts_done
    for number in range(rounds):
        direction = ("request", "reply")[number % 2]
        relay.cut(Cut(direction, int(choices.integers(0, 150)), HOWS[number % 3]))
        twins.step()
    relay.cut(None)
    return relay.cuts_done - before


def _cut_descriptions(relay: Relay) -> tuple[int, int]:
    """(how often a description was cut, how often something else than an error or the whole came of it)."""
    before = relay.passed_bytes["reply"]
    whole = describe(relay.url)
    size = relay.passed_bytes["reply"] - before
    mistaken = 0
    for byte in range(size):
        relay.cut(Cut("reply", byte, HOWS[byte % 3]))
        with contextlib.suppress(MultiServerRLError):
            mistaken += describe(relay.url, timeout_s=2.0) != whole
        relay.cut(None)
    return size, mistaken


def _cut_posts(relay: Relay, counter: str, stride: int) -> tuple[int, int]:
    """Each step is cut, and asked for again with the same seq: (cuts, answers that were wrong)."""
    poster = _Poster(relay, counter)
    size = {direction: poster.size_of_a_step(direction) for direction in ("request", "reply")}
    cuts = 0
    for direction in ("request", "reply"):
        for byte in range(0, size[direction], stride):
            cuts += poster.cut_step(Cut(direction, byte, HOWS[byte % 3]))
    wrong = poster.wrong + abs(count_of(counter) - poster.steps)
    poster.close()
    return cuts, wrong


class _Poster:
    """A session over plain HTTP, beside the same env here."""

    def __init__(self, relay: Relay, counter: str) -> None:
        self._relay, self._parts = relay, urlsplit(relay.url)
        opened = self._ask("POST", "/v1/sessions", {"env_id": SCRIPTED})
        self._path, self._secret = f"/v1/sessions/{opened['session']}", opened["secret"]
        self._local = SyncVectorEnv([Scripted])
        self._local.reset(seed=1, options={"length": ENDLESS})
        self._seq, self.steps, self.wrong = 1, 0, 0
        self._post("reset", seed=1, options={"path": counter, "length": ENDLESS})
        while self._seq < 1000:  # from here on a step's messages have the same size
            self._seq += 1
            self._take(self._post("step", action=0))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=5)
        try:
            headers = {"Content-Type": "application/json", "Connection": "close"}
            if hasattr(self, "_secret"):
                headers["Session-Secret"] = self._secret
            connection.request(method, path, json.dumps(body), headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _post(self, operation: str, **fields: Any) -> Any:
        return self._ask("POST", f"{self._path}/{operation}", {"seq": self._seq, **fields})

    def _take(self, told: Any) -> None:
        obs, rewards, *_ = self._local.step(np.zeros(1, np.int64))
        self.wrong += told.get("obs") != obs[0].tolist() or told["reward"] != rewards[0]
        self.steps += 1

    def size_of_a_step(self, direction: str) -> int:
        before = self._relay.passed_bytes[direction]
        self._seq += 1
        self._take(self._post("step", action=0))
        return self._relay.passed_bytes[direction] - before

    def cut_step(self, cut: Cut) -> int:
        """What comes of a cut step is an error, or the whole; then it is asked for again. How often it was cut."""
        self._seq += 1
        done = self._relay.cuts_done
        self._relay.cut(cut)
        first: Any = None
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
            first = self._post("step", action=0)
        self._relay.cut(None)
        told = self._post("step", action=0)
        self.wrong += first is not None and first != told
        self._take(told)
        return self._relay.cuts_done - done

    def close(self) -> None:
        self._ask("DELETE", self._path)
        self._local.close()
