"""metrics.jsonl stays readable, whoever dies when; rates come from counters."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from multiserverrl.observe.metrics import MetricsWriter, Rates, read_metrics


def test_what_was_written_is_read_and_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write({"env_steps": 10, "loss": float("nan")})
    assert read_metrics(path) == [{"env_steps": 10, "loss": None}]


def test_a_line_cut_off_by_a_kill_is_dropped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"env_steps": 1}\n{"env_ste')
    assert read_metrics(path) == [{"env_steps": 1}]
    with MetricsWriter(path) as metrics:
        metrics.write({"env_steps": 2})
    assert read_metrics(path) == [{"env_steps": 1}, {"env_steps": 2}]


def test_a_line_that_a_full_disk_has_no_room_for_is_absent_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path, before = tmp_path / "metrics.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsWriter(path) as metrics:
        metrics.write({"env_steps": 1})
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, before[1]))
            with pytest.raises(OSError, match="File too large"):
                metrics.write({"env_steps": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == b'{"env_steps": 1}\n'
        metrics.write({"env_steps": 3})
    assert read_metrics(path) == [{"env_steps": 1}, {"env_steps": 3}]


def test_a_rate_is_the_growth_over_the_time_between_two_calls() -> None:
    rates = Rates()
    assert rates.per_s("env_steps", 100, now_s=5.0) == 0.0
    assert rates.per_s("env_steps", 300, now_s=7.0) == pytest.approx(100.0)
    assert rates.per_s("env_steps", 300, now_s=8.0) == 0.0


def test_each_name_has_its_own_rate() -> None:
    rates = Rates()
    rates.per_s("updates", 0, now_s=0.0)
    rates.per_s("env_steps", 0, now_s=0.0)
    assert rates.per_s("updates", 10, now_s=1.0) == pytest.approx(10.0)
    assert rates.per_s("env_steps", 40, now_s=2.0) == pytest.approx(20.0)
