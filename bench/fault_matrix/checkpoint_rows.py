"""Whole runs killed and resumed; disks that are full; checkpoints cut short."""

from __future__ import annotations

from matrix import FaultRow

ROWS: list[FaultRow] = []
