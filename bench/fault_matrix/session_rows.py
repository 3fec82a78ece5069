"""Faults of a connection: cut, repeated, late, flipped, half-closed, silent."""

from __future__ import annotations

from cuts import cut_everywhere
from matrix import FaultRow
from repeats import repeat_requests

ROWS: list[FaultRow] = [
    FaultRow(
        "1",
        "connection cut at every byte position of a step's request and of its reply",
        "applied exactly once; bit-equal",
        cut_everywhere,
    ),
    FaultRow(
        "2",
        "reply lost after delivery; request repeated; stale request arrives late; same seq with another body",
        "applied = wanted; stale and too far ahead refused by name; another body refused, never a step",
        repeat_requests,
    ),
]
