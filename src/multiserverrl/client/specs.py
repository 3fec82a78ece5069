"""The `spec` of a virtual env: what makes another one, and what its server says of the env behind it.

It never holds a token, which is read from the environment where the spec is made into an env again, nor the
`owner`, whose new session would end the one that this spec is of.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import EnvSpec

if TYPE_CHECKING:
    from multiserverrl.wire.messages import EnvInfo

__all__ = ["ENTRY_POINT", "ENV_ID", "VECTOR_ENTRY_POINT", "HasSpec"]

ENV_ID = "Virtual-v0"
ENTRY_POINT = "multiserverrl.client.env:VirtualEnv"
VECTOR_ENTRY_POINT = "multiserverrl.client.vector:VirtualVectorEnv"
_NOT_TOLD = ("token", "owner")


class HasSpec:
    """A virtual env's `spec`: whoever inherits it says `_served`, and calls `_tell` with its constructor's arguments.

    Gymnasium's `make` and `make_vec` set another one, which is cleaned in the same way.
    """

    _served: EnvInfo
    _limits_episodes = True  # whether Gymnasium can put the spec's time limit around what is made of it
    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What makes another one, also by way of JSON."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = spec and self._cleaned(spec)

    def _tell(self, arguments: dict[str, Any]) -> None:
        self.spec = EnvSpec(ENV_ID, ENTRY_POINT, vector_entry_point=VECTOR_ENTRY_POINT, kwargs=arguments)

    def _cleaned(self, spec: EnvSpec) -> EnvSpec:
        served, limit = self._served, spec.max_episode_steps
        if limit is None and self._limits_episodes:
            limit = served.max_episode_steps
        return dataclasses.replace(
            spec,
            kwargs={name: _plain(value) for name, value in spec.kwargs.items() if name not in _NOT_TOLD},
            max_episode_steps=limit,
            reward_threshold=served.reward_threshold if spec.reward_threshold is None else spec.reward_threshold,
            nondeterministic=spec.nondeterministic or served.nondeterministic,
        )


def _plain(value: Any) -> Any:
    """As JSON can hold it: an AutoresetMode by its value."""
    return value.value if isinstance(value, Enum) else value
