"""Settings that are known to work for an algorithm, or for an algorithm on one env: what a run begins from.

They stand above the dataclass's defaults and below the config file and the flags. `count` is the number of envs of an
embedded server, all else fields of TrainConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["RECIPES", "Recipe", "parts_of", "recipe_for"]

_RAINBOW = {"dueling": True, "prioritised": True, "distributional": "c51", "noisy": True, "n_step": 3}
_PARTS: dict[str, Mapping[str, Any]] = {"rainbow": _RAINBOW}  # what its name promises, with a recipe or without

# (algorithm, env id; None: any) → what differs from the defaults; an env's recipe stands above the algorithm's own
RECIPES: dict[tuple[str, str | None], Mapping[str, Any]] = {
    # With 50,000 transitions what random play saw stays for too long. Small rewards keep values below 1, where Huber's
    # loss is a square. Of 80 seeds each, env steps to solved, median and 90 %: 16,000 and 24,000 with 8 steps and the
    # rate 3e-3, 16,000 and 20,000 with 5 steps, 12,000 and 20,000 with the faster rate and without double, too, which
    # makes an update of 128 cheaper by 15 %.
    ("dqn", "CartPole-v1"): {
        "buffer_size": 10_000, "reward_scale": 0.01, "learning_rate": 5e-3, "target_update": 40, "n_step": 5,
        "double": False,
    },
    ("dqn", "CartPole-pixels"): {
        "count": 8, "frame_stack": 2, "batch_size": 64, "learning_rate_steps": 20_000, "target_update": 100,
        "epsilon_start": 1.0, "epsilon_steps": 4_000, "buffer_size": 20_000, "reward_scale": 0.02,
        # Policies come and go here: they are tried without a pause, 2 to 6 s each, for episodes are rendered, too.
        "eval_every_s": 0.2, "eval_share": 1.0,
        "stop_at_return": 215.0, "confirm_episodes": 40,  # then 195 is good for another 100
    },
    # Values of 10 and more burst now and then, and what had been learned was gone for good; scaled by 0.02 none did.
    ("dqn", "LunarLander-v3"): {
        "count": 16, "n_step": 5, "dueling": True, "gamma": 0.995, "reward_scale": 0.02, "buffer_size": 100_000,
        "learning_rate": 7e-4, "learning_rate_steps": 300_000, "target_update": 300, "epsilon_start": 1.0,
        "epsilon_end": 0.03, "epsilon_steps": 20_000, "warmup_steps": 1_000, "replay_ratio": 0.3,
        "inference": "explorer", "eval_every_s": 1.0, "eval_share": 0.4,
        "stop_at_return": 212.0, "confirm_episodes": 100,  # then 200 is good for another 100
    },
    ("rainbow", None): {**_RAINBOW, "head_hidden": 128, "adam_epsilon": 1.5e-4, "max_grad_norm": 10.0},
    ("pqn", None): {
        "max_grad_norm": 10.0, "td_lambda": 0.95, "learning_rate": 5e-4, "learning_rate_steps": 1_000_000,
        "epsilon_start": 1.0, "epsilon_end": 0.05, "epsilon_steps": 100_000,
    },
    ("pqn", "CartPole-v1"): {
        "count": 32, "inference": "explorer", "epochs": 8, "minibatches": 8, "learning_rate": 7e-4,
        "learning_rate_steps": 60_000, "epsilon_start": 0.5, "epsilon_end": 0.02, "epsilon_steps": 10_000,
    },
    ("pqn", "LunarLander-v3"): {
        "count": 64, "inference": "explorer", "minibatches": 32, "learning_rate_steps": 220_000,
        "epsilon_steps": 60_000, "eval_every_s": 1.0, "eval_share": 0.4,
        "stop_at_return": 212.0, "confirm_episodes": 100,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """`name` is for people: "dqn on LunarLander-v3", "pqn"; empty when there is none."""

    name: str
    settings: Mapping[str, Any]


def parts_of(algorithm: str) -> Recipe:
    """The settings without which the algorithm would be another, and no recipe."""
    return Recipe("", _PARTS.get(algorithm, {}))


def recipe_for(algorithm: str, env_id: str | None) -> Recipe:
    """What is known to work for this algorithm on this env."""
    of_algorithm, of_env = RECIPES.get((algorithm, None)), RECIPES.get((algorithm, env_id))
    name = f"{algorithm} on {env_id}" if env_id is not None and of_env is not None else algorithm
    is_known = of_algorithm is not None or of_env is not None
    return Recipe(name if is_known else "", {**(of_algorithm or {}), **(of_env or {})})
