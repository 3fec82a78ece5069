"""Connections cut at every byte of a step's request and of its reply."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from gymnasium.vector import SyncVectorEnv

from matrix import Effort, Seen
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.testing.envs import Pictures
from multiserverrl.testing.relay import Cut, Relay
from multiserverrl.testing.serving import serving
from twins import SCRIPTED, Twins, scripted_twins

__all__ = ["cut_everywhere"]

PICTURES = "multiserverrl.testing.envs:Pictures"
SETTLED = 260  # steps after which a request's seq has the same size for the next 65,000


class Way(NamedTuple):
    """How a step goes from client to env."""

    name: str
    workers: int  # 1: the env worker answers its client itself; 2: the front does
    env_id: str = SCRIPTED
    client: dict[str, Any] = {}  # noqa: RUF012 - read only


QUICK = [Way("answered by the env worker", 1), Way("by the front", 2)]
WHOLE = [
    *QUICK,
    Way("with checksums", 1, client={"checksum": True}),
    Way("in two lanes", 1, client={"lanes": 2}),
    Way("pictures by shared memory", 1, PICTURES),
    Way("pictures by TCP", 1, PICTURES, {"shared_memory": False}),
]
LONG_MESSAGE, LONG_STRIDE = 4096, 7  # of messages beyond it every 7th position


def cut_everywhere(effort: Effort) -> Seen:
    """Each way of a step, each byte of its request and of its reply, by FIN and by RST."""
    positions = wrong = beyond = 0
    ways = WHOLE if effort.is_whole else QUICK
    for way in ways:
        for how in ("fin", "rst"):
            with _twins_over(way, effort.seed) as (twins, relay):
                positions += sum(_cut_each_byte(twins, relay, direction, how) for direction in ("request", "reply"))
                wrong, beyond = wrong + twins.wrong, beyond + abs(twins.applied_beyond())
    return Seen(
        f"{positions} cuts ({'; '.join(way.name for way in ways)}; FIN and RST)",
        f"positions {positions}, steps told wrong {wrong}, applied − wanted {beyond}",
        wrong == beyond == 0 and positions > 2 * 2 * 100,
    )


@contextmanager
def _twins_over(way: Way, seed: int) -> Iterator[tuple[Twins, Relay]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(way.env_id, count=2, workers=way.workers) as server,
        Relay(server.url) as relay,
    ):
        envs = VirtualVectorEnv(relay.url, num_envs=2, **way.client)
        if way.env_id == PICTURES:
            twins = Twins(envs, SyncVectorEnv([Pictures] * 2), seed=seed)
        else:
            twins = scripted_twins(envs, os.path.join(folder, "steps"), seed)
        try:
            yield twins, relay
        finally:
            twins.close()


def _cut_each_byte(twins: Twins, relay: Relay, direction: str, how: str) -> int:
    """How many positions a step's message has (the one behind its last byte among them), each of them cut once."""
    while twins.steps < SETTLED:
        twins.step()
    before = relay.passed_bytes[direction]
    twins.step()
    size = relay.passed_bytes[direction] - before
    positions = range(0, size + 1, LONG_STRIDE if size > LONG_MESSAGE else 1)
    for position in positions:
        done = relay.cuts_done
        relay.cut(Cut(direction, position, how))
        twins.step()
        if relay.cuts_done == done:  # the message was shorter this time, and the cut waits for the next
            twins.step()
        twins.step()  # undisturbed: the next cut falls on a connection that is used as ever
    return len(positions)
