from __future__ import annotations

import math

import numpy as np
import pytest

from multiserverrl.train.interval import half_width, quantile


@pytest.mark.parametrize(
    ("degrees", "wanted"),
    [(1, 12.7062), (4, 2.7764), (8, 2.3060), (9, 2.2622), (19, 2.0930), (99, 1.9842)],
)
def test_the_quantiles_are_those_of_the_tables(degrees: int, wanted: float) -> None:
    assert quantile(degrees) == pytest.approx(wanted, abs=4e-4)


@pytest.mark.parametrize("n", [3, 20])
def test_the_interval_holds_the_true_mean_in_95_of_100_samples(n: int) -> None:
    samples = np.random.default_rng(0).normal(5.0, 2.0, (20_000, n))
    widths = np.array([half_width(float(sample.std()), n) for sample in samples])
    assert (np.abs(samples.mean(axis=1) - 5.0) <= widths).mean() == pytest.approx(0.95, abs=0.006)


def test_one_number_tells_nothing_of_its_mean() -> None:
    assert half_width(0.0, 1) == math.inf
