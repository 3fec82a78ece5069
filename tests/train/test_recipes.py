"""A recipe is the algorithm's own, with what is special to the env above it; each one is a config that can work."""

from __future__ import annotations

import pytest

from multiserverrl.train import recipes
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.recipes import RECIPES, recipe_for


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {("pqn", None): {"gamma": 0.9, "n_step": 1}, ("pqn", "Lander"): {"gamma": 0.8}, ("dqn", "Lander"): {}}
    monkeypatch.setattr(recipes, "RECIPES", table)


@pytest.mark.parametrize(
    ("algorithm", "env_id", "name", "settings"),
    [
        ("pqn", "Cart", "pqn", {"gamma": 0.9, "n_step": 1}),
        ("pqn", "Lander", "pqn on Lander", {"gamma": 0.8, "n_step": 1}),
        ("dqn", "Lander", "dqn on Lander", {}),
        ("dqn", "Cart", "", {}),
        ("dqn", None, "", {}),
        ("pqn", None, "pqn", {"gamma": 0.9, "n_step": 1}),
    ],
)
@pytest.mark.usefixtures("known")
def test_the_env_stands_above_the_algorithm(
    algorithm: str, env_id: str | None, name: str, settings: dict[str, object]
) -> None:
    recipe = recipe_for(algorithm, env_id)
    assert (recipe.name, recipe.settings) == (name, settings)


def test_every_recipe_is_a_config_that_can_work() -> None:
    for algorithm, env_id in RECIPES:
        settings = dict(recipe_for(algorithm, env_id).settings)
        assert settings.pop("count", 1) >= 1
        assert TrainConfig(**{"algorithm": algorithm, **settings}).algorithm == algorithm
