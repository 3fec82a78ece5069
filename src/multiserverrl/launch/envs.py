"""Opens a run's envs, in the process that steps them, from plain data."""

from __future__ import annotations

from typing import Any

import gymnasium

from multiserverrl.client.trust import SYSTEM_TRUST, Trust

__all__ = ["open_envs", "open_rendered"]

WAIT_FOR_A_PLACE_S = 30.0  # an older session of ours may just be closing


def open_envs(
    url: str, env_id: str, num_envs: int, owner: str | None, trust: Trust = SYSTEM_TRUST
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Envs of one session on the server at `url`; an empty `url` makes them in this process (for tests).

    An older session of the same `owner` ends; None: no other session does. A token is taken from the environment.
    """
    if not url:
        return gymnasium.make_vec(
            env_id,
            num_envs=num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        )
    from multiserverrl.client.vector import VirtualVectorEnv

    return VirtualVectorEnv(
        url,
        env_id,
        num_envs=num_envs,
        autoreset_mode="same_step",
        on_fault="truncate",
        owner=owner,
        wait_s=WAIT_FOR_A_PLACE_S,
        ca_file=trust.ca_file,
        fingerprint=trust.fingerprint,
    )


def open_rendered(url: str, env_id: str, trust: Trust = SYSTEM_TRUST) -> gymnasium.Env[Any, Any]:
    """One env that renders pictures (rgb_array); ConfigError when it cannot."""
    if not url:
        return gymnasium.make(env_id, render_mode="rgb_array")
    from multiserverrl.client.env import VirtualEnv

    return VirtualEnv(
        url,
        env_id,
        render_mode="rgb_array",
        wait_s=WAIT_FOR_A_PLACE_S,
        ca_file=trust.ca_file,
        fingerprint=trust.fingerprint,
    )
