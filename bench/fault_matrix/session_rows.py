"""Faults of a connection: cut, repeated, late, flipped, half-closed, silent."""

from __future__ import annotations

from matrix import FaultRow

ROWS: list[FaultRow] = []
