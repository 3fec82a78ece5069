"""Faults of a trainer's and a server's processes while a run learns."""

from __future__ import annotations

from matrix import FaultRow

ROWS: list[FaultRow] = []
