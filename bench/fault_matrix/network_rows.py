"""Faults of packets, of the network, of the clock, and of a server that is told to stop."""

from __future__ import annotations

from matrix import FaultRow

ROWS: list[FaultRow] = []
