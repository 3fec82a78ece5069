"""What an algorithm is to the trainer. It is one page that declares what it needs, acts, and learns.

The trainer owns envs, processes, the replay buffer and checkpoints; an algorithm owns its weights
and its maths. Acting needs no torch; `init` is called in the learner alone, and may import it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

__all__ = ["Acted", "Algorithm", "Batch", "Explore", "Fields", "Learner", "Storage", "Updated", "Weights"]

Array = NDArray[Any]
Batch = dict[str, Array]  # transition fields, (B, ...)
Weights = dict[str, Array]
Fields = dict[str, tuple[str, tuple[int, ...]]]  # name → (dtype, shape)
Storage = Literal["n_steps", "sequences", "rollouts"]  # what of the envs' steps is learned from as one item
Acted = tuple[Array, dict[str, Array]]  # (N, ...) actions, and what else an algorithm stores of acting
Explore = float | Array  # a share of all envs, or (N,) one of each


class Updated(NamedTuple):
    """What an update says of itself."""

    loss: SupportsFloat  # read seldom: where it lies on another device, reading it waits for that
    errors: Array | None = None  # (B,) temporal-difference errors: a prioritised replay's priorities
    updates: int = 1  # steps of the optimiser that were made


class Algorithm(Protocol):
    """The half that every process may hold. It refuses, with ConfigError, settings and tasks that it cannot learn."""

    storage: Storage
    transition_fields: Fields  # of one transition; for sequences of one step: its obs and action
    weights_fields: Fields  # of what is published
    extras_fields: Fields  # of one env: what `act` returns beside actions (log-probability, value, recurrent state)

    def prepare(self, weights: Weights) -> Any:
        """A snapshot as `act` wants it, once for each: as it is, or as tensors on the device."""

    def act(self, weights: Any, obs: Array, extras: Batch, explore: Explore, rng: np.random.Generator) -> Acted:
        """(N, *obs_shape) → (N, *action_shape) actions and extras, with what `prepare` returned.

        `extras` are those of the same envs' last step, zeros where an episode begins (a recurrent
        network finds its state there). `explore` is 0 for greedy, else this algorithm's own measure.
        """

    def exploration(self, env_steps: int) -> float:
        """`act`'s `explore` after so many env steps of the whole run."""

    def init(self) -> Learner:
        """Fresh weights and optimiser, the same for the same seed."""


class Learner(Protocol):
    """The half that learns, in the learner process."""

    def update(self, batch: Batch, env_steps: int) -> Updated:
        """Learn from a batch of items (B, ...), or a rollout (T, N, ...); `env_steps` of the run is for schedules."""

    def weights(self) -> Weights:
        """Copies of the weights to be published."""

    def state(self) -> dict[str, Array]:
        """All that a resume needs: weights, targets, optimiser, counts."""

    def load_state(self, state: dict[str, Array]) -> None:
        """Go on from `state`. ValueError when it is of another network."""
