"""Clients that want too much: slow, many, large, lying."""

from __future__ import annotations

from matrix import FaultRow

ROWS: list[FaultRow] = []
