"""Faults of a connection: cut, repeated, late, flipped, half-closed, silent."""

from __future__ import annotations

from bodies import cut_bodies
from cuts import cut_everywhere
from flips import flip_bits
from matrix import FaultRow
from repeats import repeat_requests
from silences import lose_network, pause_clients

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
    FaultRow(
        "3b",
        "bits flipped inside the TCP stream (checksum=True, and TLS): of steps, of handshakes that mend a connection",
        "detected, never stepped wrong; no session ends",
        flip_bits,
    ),
    FaultRow(
        "4b",
        "relay away for 30 s in mid-episode (silent, or resetting); away for longer than the session's time to live",
        "the same episode goes on within 2 s; else SessionLost, or truncated with its cause where asked; all freed",
        lose_network,
    ),
    FaultRow(
        "12",
        "half-closed connections, FIN or RST in mid-body, one byte at a time",
        "a cut body is never taken for an answer; no descriptor is leaked",
        cut_bodies,
    ),
    FaultRow(
        "12b",
        "a connected client that neither writes nor reads for 10 minutes; one, and a run's learner, stopped for 5",
        "steps on afterwards, in the same episode",
        pause_clients,
    ),
]
