from __future__ import annotations

import numpy as np
import pytest

from multiserverrl.errors import DivergedError
from multiserverrl.train.finite import broken_rows, env_number, named_env, require_finite


def test_rows_that_are_not_finite_are_found_in_any_shape() -> None:
    obs = np.zeros((4, 2, 3), np.float32)
    assert broken_rows(obs) is None
    obs[1, 0, 2], obs[3, 1, 1] = np.nan, -np.inf
    rows = broken_rows(obs)
    assert rows is not None
    assert rows.tolist() == [False, True, False, True]


def test_infinities_that_cancel_out_are_found() -> None:
    assert broken_rows(np.array([np.inf, -np.inf], np.float32)) is not None


def test_large_numbers_without_a_finite_sum_are_finite() -> None:
    assert broken_rows(np.full((3, 2), np.finfo(np.float32).max)) is None


def test_whole_numbers_are_always_finite() -> None:
    assert broken_rows(np.zeros((2, 3), np.uint8)) is None
    assert broken_rows(np.zeros(2, bool)) is None


def test_each_part_of_a_structured_observation_is_looked_at() -> None:
    obs = np.zeros(3, "(2,)f4,(2,2)u1")
    assert broken_rows(obs) is None
    obs["f0"][2, 1] = np.nan
    rows = broken_rows(obs)
    assert rows is not None
    assert rows.tolist() == [False, False, True]


def test_an_env_is_named_by_its_number() -> None:
    assert env_number(0, 0) > 0
    assert named_env(env_number(7, 31)) == "env 31 of group 7"


def test_broken_weights_are_named() -> None:
    weights = {"good": np.ones((2, 2)), "layer0.bias": np.array([1.0, np.nan, np.inf]), "steps": np.array(3)}
    with pytest.raises(DivergedError, match=r"2 of 3 numbers of 'layer0.bias' .* after 12 updates"):
        require_finite(weights, updates=12)
    require_finite({"good": weights["good"], "steps": weights["steps"]}, updates=12)
