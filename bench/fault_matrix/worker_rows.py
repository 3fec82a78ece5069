"""Faults of envs and env workers: killed, stopped, raising, loud, leaking."""

from __future__ import annotations

from matrix import FaultRow

ROWS: list[FaultRow] = []
