"""Any bytes to every decoder: a message, or one of our errors (bench/fuzz.py does the same, guided, for a million)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz_targets import TARGETS
from tests.wire.strategies import corrupted

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.parametrize("name", TARGETS)
def test_what_it_begins_with_is_taken(name: str) -> None:
    for content in TARGETS[name].seeds:
        TARGETS[name].run(content)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60)
@given(st.data())
def test_any_bytes_are_taken_or_refused(name: str, data: st.DataObject) -> None:
    seeds = st.sampled_from(TARGETS[name].seeds)
    TARGETS[name].run(data.draw(st.one_of(corrupted(seeds), st.binary(max_size=60))))


DEEP = 60_000
NESTED = [
    b"\x91" * DEEP, b"\x81\x01" * DEEP, b"\xc9\xff\xff\xff\xff\x03" * DEEP, b"[" * DEEP, b'{"a":' * DEEP,
    b"M\x01\0\0" + DEEP.to_bytes(4, "little") + b"\x91" * DEEP,
]  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("content", NESTED, ids=range(len(NESTED)))
def test_deep_nesting_is_refused(name: str, content: bytes) -> None:
    for first in (b"", b"\0", b"\x02", b"\x08"):
        TARGETS[name].run(first + content)


def test_an_unknown_target_is_refused_by_name() -> None:
    told = subprocess.run(
        [sys.executable, str(BENCH / "fuzz.py"), "--targets", "nothing"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 1 and "no target nothing" in told.stderr
