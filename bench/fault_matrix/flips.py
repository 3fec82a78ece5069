"""Bits that flip inside the TCP stream, where TCP's own checksum does not see it."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from matrix import Effort, Seen, Unavailable
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import MultiServerRLError
from multiserverrl.testing.relay import Flip, Relay
from multiserverrl.testing.serving import serving
from twins import SCRIPTED, Twins, scripted_twins

__all__ = ["flip_bits"]

TIMEOUT_S = 0.25  # a length that says more than there is shows as silence
BODY_BYTES, ENDS_BYTES = 32, 8  # of the reply to one Scripted env


def flip_bits(effort: Effort) -> Seen:
    """Each bit of a step's request and reply, then bits at random; and observations without a checksum, to compare."""
    with _twins_over(effort, checksum=True) as (twins, relay):
        choices, sizes = np.random.default_rng(effort.seed), _bits_of_a_step(twins, relay)
        for direction, size in sizes.items():
            for bit in range(0, size, effort.times(2, 1)):
                _flip(twins, relay, Flip(direction, bit))
        for _ in range(effort.times(100, 20_000)):
            direction = ("request", "reply")[int(choices.integers(2))]
            _flip(twins, relay, Flip(direction, int(choices.integers(sizes[direction]))))
        flips, undetected = relay.flips_done, twins.wrong + abs(twins.applied_beyond())
        harmless = max(0, flips - (relay.connections - 1))
    mended = _while_mended(effort)
    under_tls = _under_tls(effort)
    plain_flips, plain_wrong = _without_checksum(effort)
    with_it, without = _rates(effort)
    which = "each" if effort.is_whole else "every second"
    return Seen(
        f"{flips} bits flipped in a step's request and reply, {which} bit of both; {under_tls.flips} under TLS; "
        f"{mended.flips} in a handshake and `resume` that mend a connection",
        f"undetected {undetected}, under TLS {under_tls.undetected}, while mended {mended.undetected}, and sessions "
        f"ended {mended.ended}; {harmless} in bits that nobody needs "
        f"(without a checksum {plain_wrong} of {plain_flips} flips are observations taken for true); "
        f"steps/s {with_it:.0f} with, {without:.0f} without ({with_it / without - 1:+.0%})",
        undetected == under_tls.undetected == mended.undetected == mended.ended == 0
        and plain_wrong > 0
        and flips > 500
        and mended.flips >= 0.9 * mended.tries,
    )


class _Mended(NamedTuple):
    tries: int
    flips: int
    undetected: int
    ended: int


def _while_mended(effort: Effort) -> _Mended:
    """Bits of what passes when a connection that was lost is made anew: upgrade, hello, `resume`, and the step."""
    tries, ended, choices = effort.times(60, 1500), 0, np.random.default_rng([effort.seed, 7])
    with _twins_over(effort, checksum=True) as (twins, relay):
        relay.cut_now("rst")
        sizes = _bits_of_a_step(twins, relay)
        for number in range(tries):
            relay.cut_now("rst")
            direction = ("request", "reply")[number % 2]
            try:
                _flip(twins, relay, Flip(direction, int(choices.integers(sizes[direction]))))
            except MultiServerRLError:
                ended += 1
                break  # the twins are not alike any more
        return _Mended(tries, relay.flips_done, twins.wrong + abs(twins.applied_beyond()) * (not ended), ended)


class _UnderTls(NamedTuple):
    flips: int
    undetected: int


def _under_tls(effort: Effort) -> _UnderTls:
    """Bits of TLS records; the certificate is pinned."""
    if shutil.which("openssl") is None:
        raise Unavailable("it needs openssl, for a certificate")
    with tempfile.TemporaryDirectory() as folder:
        certfile, keyfile = (os.path.join(folder, name) for name in ("certificate.pem", "key.pem"))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", "/CN=localhost", "-keyout", keyfile, "-out", certfile],
            check=True, capture_output=True,
        )  # fmt: skip
        os.chmod(keyfile, 0o600)
        settings = {"certfile": certfile, "keyfile": keyfile}
        with serving(SCRIPTED, count=1, workers=1, **settings) as server, Relay(server.url) as relay:
            envs = VirtualVectorEnv(
                relay.url.replace("http:", "https:"), num_envs=1, timeout_s=TIMEOUT_S, fingerprint=server.fingerprint
            )
            twins = scripted_twins(envs, os.path.join(folder, "steps"), effort.seed)
            for direction, size in _bits_of_a_step(twins, relay).items():
                for bit in range(0, size, effort.times(15, 1)):
                    _flip(twins, relay, Flip(direction, bit))
            found = _UnderTls(relay.flips_done, twins.wrong + abs(twins.applied_beyond()))
            twins.close()
    return found


@contextmanager
def _twins_over(effort: Effort, *, checksum: bool) -> Iterator[tuple[Twins, Relay]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(SCRIPTED, count=1, workers=1) as server,
        Relay(server.url) as relay,
    ):
        envs = VirtualVectorEnv(relay.url, num_envs=1, checksum=checksum, timeout_s=TIMEOUT_S)
        twins = scripted_twins(envs, os.path.join(folder, "steps"), effort.seed)
        yield twins, relay
        twins.close()


def _without_checksum(effort: Effort) -> tuple[int, int]:
    """(flips in observations and rewards, steps that were told wrong)."""
    with _twins_over(effort, checksum=False) as (twins, relay):
        size = _bits_of_a_step(twins, relay)["reply"]
        for bit in range(size - 8 * BODY_BYTES, size - 8 * ENDS_BYTES, 3):
            _flip(twins, relay, Flip("reply", bit))
        return relay.flips_done, twins.wrong


def _bits_of_a_step(twins: Twins, relay: Relay) -> dict[str, int]:
    before = dict(relay.passed_bytes)
    twins.step()
    return {direction: 8 * (count - before[direction]) for direction, count in relay.passed_bytes.items()}


def _flip(twins: Twins, relay: Relay, flip: Flip) -> None:
    relay.flip(flip)
    twins.step()


def _rates(effort: Effort) -> tuple[float, float]:
    """Steps/s of 8 envs with a checksum and without, in turns; the medians."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    with serving("CartPole-v1", count=16, workers=1) as server:
        pair = {kind: VirtualVectorEnv(server.url, num_envs=8, checksum=kind) for kind in rates}
        for envs in pair.values():
            envs.reset(seed=effort.seed)
        for _ in range(5):
            for kind, envs in pair.items():
                rates[kind].append(_rate(envs, effort.times(1, 4) * 0.25))
        for envs in pair.values():
            envs.close()
    return statistics.median(rates[True]), statistics.median(rates[False])


def _rate(envs: VirtualVectorEnv, seconds: float) -> float:
    actions, number, began = np.zeros(envs.num_envs, np.int64), 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        envs.step(actions)
        number += envs.num_envs
    return number / took
