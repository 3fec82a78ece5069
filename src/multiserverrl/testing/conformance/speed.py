"""Figures, not claims: how fast the server steps, and how long a request takes that steps nothing. A second in all."""

from __future__ import annotations

import statistics
import time

from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.testing.conformance.claim import Claims
from multiserverrl.testing.conformance.subject import SEED, Move, Subject

__all__ = ["CLAIMS"]

_claim = Claims("speed")
CLAIMS = _claim.found
_LOOK_S = 0.3
_MOST_ENVS = 8


@_claim("round trip of a repeated request, which steps nothing", is_figure=True)
def round_trip(subject: Subject) -> str:
    with subject.session() as session:
        session.play(Move(True, SEED))
        taken, until = [], time.perf_counter() + _LOOK_S
        while (began := time.perf_counter()) < until:
            session.socket.send(session.last_frame)
            session.socket.receive()
            taken.append(time.perf_counter() - began)
    return f"{statistics.median(taken) * 1e6:.0f} µs (median of {len(taken)})"


@_claim("one env", is_figure=True)
def one_env(subject: Subject) -> str:
    return _stepped(subject, 1)


@_claim("several envs, one message for all", is_figure=True)
def several_envs(subject: Subject) -> str:
    return _stepped(subject, subject.several(_MOST_ENVS))


def _stepped(subject: Subject, num_envs: int) -> str:
    mode = subject.mode if subject.is_native else "next_step"
    envs = VirtualVectorEnv(
        subject.url, subject.env.env_id, num_envs, autoreset_mode=mode,
        token=subject.token, timeout_s=subject.timeout_s, wait_s=5.0,
        ca_file=subject.trust.ca_file, fingerprint=subject.trust.fingerprint,
    )  # fmt: skip
    try:
        envs.reset(seed=SEED)
        actions = envs.action_space.sample()
        envs.step(actions)
        num, began = 0, time.perf_counter()
        while (took_s := time.perf_counter() - began) < _LOOK_S:
            envs.step(actions)
            num += 1
    finally:
        envs.close()
    rate = f"{num * num_envs / took_s:,.0f}".replace(",", " ")
    return f"{num_envs} env(s): {rate} steps/s, {took_s / max(num, 1) * 1e6:.0f} µs a message"
