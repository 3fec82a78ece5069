"""The contract holds for local environments, and finds what breaks it."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from multiserverrl.testing.contract import ENV_CLAIMS, VECTOR_CLAIMS, assert_same
from multiserverrl.testing.envs import DictObs, Scripted, TextObs


def cartpole() -> Any:
    return gymnasium.make("CartPole-v1")


LOCAL: list[Callable[[], Any]] = [
    cartpole,
    lambda: gymnasium.wrappers.OrderEnforcing(Scripted()),
    lambda: gymnasium.wrappers.OrderEnforcing(DictObs()),
    lambda: gymnasium.wrappers.OrderEnforcing(TextObs()),
]


@pytest.mark.parametrize("claim", ENV_CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("make", LOCAL, ids=["CartPole", "Scripted", "DictObs", "TextObs"])
def test_every_claim_holds_for_a_local_env(make: Callable[[], Any], claim: Any) -> None:
    claim(make, make)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("claim", VECTOR_CLAIMS, ids=lambda claim: claim.__name__)
def test_every_claim_holds_for_a_local_vector_env(claim: Any, mode: AutoresetMode) -> None:
    def make() -> SyncVectorEnv:
        return SyncVectorEnv([Scripted] * 3, autoreset_mode=mode)

    claim(make, make)


class Overwrites(Scripted):
    def __init__(self) -> None:
        super().__init__()
        self.same = np.zeros(2)

    def _obs(self, draw: float) -> Any:
        self.same[:] = super()._obs(draw)
        return self.same


class Forgets(Scripted):
    """Its seed means nothing."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=None if self.steps else seed, options=options)


class LiesAboutItsSpace(Scripted):
    def _obs(self, draw: float) -> Any:
        return super()._obs(draw).astype(np.float32)


class ClosesOnce(Scripted):
    is_closed = False

    def close(self) -> None:
        if self.is_closed:
            raise RuntimeError("closed twice")
        self.is_closed = True


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Overwrites, "env_never_overwrites_what_it_gave"),
        (Forgets, "env_repeats_itself_for_a_seed"),
        (LiesAboutItsSpace, "env_moves_as_its_local_twin"),
        (ClosesOnce, "env_closes_twice"),
        (Scripted, "env_wants_a_reset_first"),
    ],
)
def test_a_claim_finds_the_env_that_breaks_it(make: Callable[[], Any], name: str) -> None:
    claim = next(claim for claim in ENV_CLAIMS if claim.__name__ == name)
    with pytest.raises((AssertionError, RuntimeError)):
        claim(make, Scripted)


def test_a_vector_env_that_shares_its_arrays_is_found() -> None:
    claim = next(claim for claim in VECTOR_CLAIMS if claim.__name__ == "vector_never_overwrites_what_it_gave")
    with pytest.raises(AssertionError, match="given"):
        claim(lambda: SyncVectorEnv([Scripted] * 2, copy=False), lambda: SyncVectorEnv([Scripted] * 2))


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (1, 2),
        (1, 1.0),
        (True, 1),
        ("a", "b"),
        ((1,), [1]),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        (np.zeros(2, np.float32), np.zeros(2)),
        (np.zeros((2, 1)), np.zeros(2)),
        (np.array([0.0]), np.array([-0.0])),
        (np.array([{"a": 1}], object), np.array([{"a": 2}], object)),
    ],
)
def test_what_differs_is_not_the_same(got: Any, wanted: Any) -> None:
    with pytest.raises(AssertionError, match="value"):
        assert_same(got, wanted)


def test_nan_is_the_same_as_nan() -> None:
    assert_same({"a": [float("nan"), np.array([np.nan])]}, {"a": [float("nan"), np.array([np.nan])]})
