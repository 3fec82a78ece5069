from __future__ import annotations

from multiserverrl.train.channels import COUNTERS
from multiserverrl.train.histograms import Histogram, quantile
from tests.train.fakes import FakeCounters


def test_every_bucket_is_a_counter() -> None:
    assert set(Histogram.names("batch_rows_to_") + Histogram.names("batch_wait_us_to_")) <= COUNTERS.keys()


def test_what_was_counted_is_read_by_the_limits_of_its_buckets() -> None:
    counters = FakeCounters()
    for rows in (1, 17, 32, 33, 5000):
        Histogram("batch_rows_to_", counters.row("i")).add(rows)
    assert Histogram.read("batch_rows_to_", counters.get) == {"1": 1, "32": 2, "64": 1, "1024": 1}


def test_a_quantile_is_the_limit_of_its_bucket() -> None:
    assert [quantile((1, 2, 4), (5, 4, 1), share) for share in (0.5, 0.9, 0.95)] == [1, 2, 4]
    assert quantile((1, 2, 4), (0, 0, 0), 0.5) is None
