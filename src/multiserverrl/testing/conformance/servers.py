"""All claims about a server, in the order of the report."""

from __future__ import annotations

from multiserverrl.testing.conformance import actions, breaking, faults, likeness, once, opening, routes, speed
from multiserverrl.testing.conformance.claim import Claim

__all__ = ["SERVER_CLAIMS"]

SERVER_CLAIMS: tuple[Claim, ...] = (
    *opening.CLAIMS,
    *once.CLAIMS,
    *actions.CLAIMS,
    *breaking.CLAIMS,
    *faults.CLAIMS,
    *routes.CLAIMS,
    *likeness.CLAIMS,
    *speed.CLAIMS,
)
