"""Actions that are none, and bytes that are no messages."""

from __future__ import annotations

from matrix import FaultRow

ROWS: list[FaultRow] = []
